"""Save results as an EMD 1.0 file that py4DSTEM can read: `gpu4d.save`. The file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import h5py
import numpy as np

from gpu4d import arrays
from gpu4d._version import __version__
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube, Metadata
from gpu4d.data.events import events_of
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, Slice
from gpu4d.errors import InputError
from gpu4d.io import leftovers
from gpu4d.io.formats import emd_events, emd_nodes
from gpu4d.io.safe_file import SafeFile

PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".pdf", ".tif", ".tiff")  # endings of names that are refused
ROOT = "gpu4d"


@runtime_checkable
class Storable(Protocol):
    """A result of several parts, which says how they are stored."""

    def to_emd(self) -> Mapping[str, Slice | PointList | PointListArray | Array]:
        """Return items that `save` takes, by their names; "" is the main one."""


Item = DataCube | Slice | PointList | PointListArray | Calibration | ArrayLike | Mapping[str, object] | Storable | None


def save(
    path: str | os.PathLike[str],
    items: Mapping[str, Item],
    *,
    overwrite: bool = False,
    settings: Metadata | None = None,
    log: Sequence[str] | None = None,
    links: str = "external",
) -> None:
    """Save results, and the scan they come from, as a link or as data.

    The file is written under another name beside its place, and renamed when it is complete. After an error nothing is left behind, and
    an existing file is unchanged.

    Parameters
    ----------
    path : str or path
    items : mapping of str to object
        Each is stored as ``/gpu4d/<name>``: DataCube, RealSlice, DiffractionSlice (stacks with labels too), PointListArray
        (with qx, qy and intensity: py4DSTEM's BraggVectors), PointList, arrays of numbers. Dictionaries and one Calibration
        go to ``/gpu4d/metadatabundle``. Without one, the calibration of the first DataCube is stored. A cube with another
        calibration keeps its own. An object with a method ``to_emd()``, which returns a mapping of such items, is stored as
        ``<name>`` (key "") and ``<name>_<key>``.
    overwrite : bool
        Replace an existing file. It keeps its permissions. A link stays, and the file it leads to is replaced. What is no regular
        file is never replaced.
    settings : mapping, optional
        Parameters of the processing, nested as they are.
    log : sequence of str, optional
        Lines that say what was done.
    links : {"external", "copy"}
        Whether a DataCube whose patterns are in a file is linked to that file, or copied. Cropped, binned and transposed views
        and cubes in memory are always written, a few rows at a time. So are counted scans: as a PointListArray of the pixels that were
        struck, which emdfile and py4DSTEM read, and as events, which `gpu4d.open` opens without loading them.

    Raises
    ------
    InputError
        The file exists, is the scan itself, or cannot be written, the disk is full, or an item cannot be stored.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> from gpu4d import RealSlice
    >>> from gpu4d.io import read_emd
    >>> name = os.path.join(tempfile.mkdtemp(), "result.h5")
    >>> save(name, {"bf": RealSlice(np.ones((2, 3)), units="counts", pixel_size=2.0, pixel_units="Å")})
    >>> read_emd(name)["bf"]
    RealSlice('bf', 2×3 float64, units 'counts', 2 Å/px)
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"save takes the path of a file first, got {type(path).__name__}")
    if not isinstance(items, Mapping):
        raise InputError(f"items is a {type(items).__name__}: need a mapping of names to results, as {{'bf': image}}")
    target = _place(path)
    if links not in ("external", "copy"):
        raise InputError(f"links is {links!r}, need 'external' or 'copy'")
    flat = dict(_expanded(items))
    _check_target(target, flat, overwrite)
    with _whole_or_nothing(target, overwrite) as (file, check):
        _write(file, flat, settings, log, links == "external", target, check)


def _expanded(items: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in items.items():
        if not name or "/" in name or name in (".", "metadatabundle"):
            raise InputError(f"{name!r} cannot be the name of a result: need text without '/'")
        if isinstance(item, Storable):
            yield from ((f"{name}_{key}" if key else name, part) for key, part in item.to_emd().items())
        elif item is not None:
            yield name, item


def _place(path: str | os.PathLike[str]) -> str:
    """Return where the file is to be written. A link stays, and the file that it leads to is replaced."""
    try:
        return os.path.realpath(os.fspath(path))
    except (TypeError, ValueError) as error:  # no path, or one with a NUL
        raise InputError(f"{path!r} cannot be the name of a file ({error})") from error


def _check_replaced(target: str, overwrite: bool) -> None:
    """Raise an error if something is in the place of the file that must not be replaced."""
    if os.path.isdir(target):
        raise InputError(f"{target} is a directory; give the name of a file")
    if os.path.splitext(target)[1].lower() in PICTURES:
        name = os.path.basename(target)
        raise InputError(f"{name} is the name of a picture: results are saved as HDF5, as result.h5; gpu4d.plot.save writes pictures")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise InputError(f"{target} is not a regular file, and is never replaced; give the name of a file")
    if os.path.exists(target) and not overwrite:
        raise InputError(f"{target} exists; choose another name, or allow replacing it with --overwrite or overwrite=True")


def _check_target(target: str, items: Mapping[str, Any], overwrite: bool) -> None:
    _check_replaced(target, overwrite)
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; make it first")
    for name, item in items.items():
        source = getattr(item, "source", None)
        while source is not None:
            raw = getattr(source, "path", None)
            if raw is not None and os.path.realpath(raw) == os.path.realpath(target):
                raise InputError(f"{target} is the file that {name!r} is read from; save under another name")
            source = getattr(source, "source", None)


# ---------------------------------------------------------------- whole or nothing


@contextlib.contextmanager
def _whole_or_nothing(target: str, overwrite: bool) -> Iterator[Any]:
    """Write an HDF5 file under a temporary name, and rename it if the block ends without an error."""
    folder, name = os.path.split(target)
    leftovers.remove(leftovers.abandoned(folder, f".{name}.", ".part"))
    passing = os.path.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.part")
    safe: SafeFile | None = None
    moved = False
    try:
        safe = SafeFile(passing)
        guard = safe

        def check() -> None:
            if guard.error is not None:
                raise guard.error

        with leftovers.held(passing):
            with h5py.File(safe, "w") as file:
                yield file, check
            safe.finish()
            _check_replaced(target, overwrite)  # once more: another program may have made something there meanwhile
            if os.path.exists(target):
                os.chmod(passing, stat.S_IMODE(os.stat(target).st_mode))
            os.replace(passing, target)
            moved = True
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{target} cannot be written ({reason}): free some space or choose another folder; nothing was left behind"
        ) from error
    finally:
        if safe is not None:
            safe.file.close()
            if not moved:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(passing)


# ---------------------------------------------------------------- the tree


def _write(
    file: h5py.File,
    items: Mapping[str, Any],
    settings: Mapping[str, Any] | None,
    log: Sequence[str] | None,
    link: bool,
    target: str,
    check: Any,
) -> None:
    header = {"emd_group_type": "file", "version_major": 1, "version_minor": 0, "UUID": str(uuid.uuid4())}
    for key, value in {**header, "authoring_program": f"gpu4d {__version__}", "authoring_user": ""}.items():
        file.attrs[key] = value
    root = emd_nodes.node(file, ROOT, "root", "Root")
    cubes = [item for item in items.values() if isinstance(item, DataCube)]
    given = [item for item in items.values() if isinstance(item, Calibration)]
    if len(given) > 1:
        raise InputError("more than one Calibration among the items: one file describes one experiment")
    calibration = given[0] if given else cubes[0].calibration if cubes else None
    if calibration is not None:
        targets = [f"/{name}" for name, item in items.items() if isinstance(item, DataCube) or _is_bragg(item)]
        emd_nodes.write_metadata(root, "calibration", emd_nodes.calibration_keys(calibration, targets), "Calibration")
    versions = {"gpu4d": __version__, "numpy": np.__version__, "h5py": h5py.__version__, "python": platform.python_version()}
    notes: dict[str, Any] = {"versions": versions, "settings": settings, "log": None if log is None else {"lines": list(log)}}
    for name, values in notes.items():
        if values is not None:
            emd_nodes.write_metadata(root, name, values)
    detector = _detector_shape(items, calibration)
    for name, item in items.items():
        _write_one(root, name, item, detector, link, target, check)
        if isinstance(item, DataCube) and item.calibration is not calibration and name in root:
            emd_nodes.write_metadata(root[name], "calibration", emd_nodes.calibration_keys(item.calibration, []), "Calibration")
        check()


def _detector_shape(items: Mapping[str, Any], calibration: Calibration | None) -> Sequence[int] | None:
    """Return the shape of the detector that disks were found on: the calibrated cube's, or an image's (the cube may be the raw scan of a
    view).
    """
    for item in items.values():
        if isinstance(item, DataCube) and item.calibration is calibration:
            return item.detector_shape
    return next((item.shape[-2:] for item in items.values() if isinstance(item, DiffractionSlice)), None)


def _is_bragg(item: Any) -> bool:
    return isinstance(item, PointListArray) and {"qx", "qy", "intensity"} <= set(item.fields)


def _write_one(root: h5py.Group, name: str, item: Any, detector: Any, link: bool, target: str, check: Any) -> None:
    if isinstance(item, Calibration):
        return
    if isinstance(item, DataCube):
        events = events_of(item.source)
        if events is not None:
            emd_events.write_events(root, name, item, events, check)
        else:
            emd_nodes.write_cube(root, name, item, link, target, check)
    elif isinstance(item, PointListArray):
        emd_nodes.write_points(root, name, item, detector)
    elif isinstance(item, PointList):
        emd_nodes.write_pointlist(root, name, item)
    elif isinstance(item, Slice):
        emd_nodes.write_slice(root, name, item)
    elif isinstance(item, Mapping):
        if name in root.get("metadatabundle", ()):
            raise InputError(f"a dictionary cannot be called {name!r}: the file has metadata of that name already; choose another")
        emd_nodes.write_metadata(root, name, item)
    elif arrays.is_array(item):
        emd_nodes.write_array(root, name, arrays.to_numpy(item))
    else:
        raise InputError(
            f"{name!r} is a {type(item).__name__}, which cannot be saved; accepted are DataCube, slices, PointListArray, PointList, "
            "Calibration, arrays, dictionaries, and objects with to_emd()"
        )
