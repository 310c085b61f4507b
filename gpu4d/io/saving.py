"""Save results as an EMD 1.0 file that py4DSTEM can read: `gpu4d.save`. The file is written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import h5py

from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.datacube import DataCube, Metadata
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import Slice
from gpu4d.data.storable import PICTURES, Storable
from gpu4d.errors import InputError
from gpu4d.io import leftovers
from gpu4d.io.emd_tree import Target, write_tree
from gpu4d.io.formats.emd_results import PLAIN
from gpu4d.io.raw_files import holds_scan, is_ours, is_replaced, opened_file, raw_files
from gpu4d.io.safe_file import SafeFile

LINKS = ("external", "copy", "bundle")
CLASSES = ("py4DSTEM", "emdfile")


@runtime_checkable
class GivesItems(Protocol):
    """An object of another package that says what of it is stored. It is read back as these items."""

    def to_emd(self) -> Mapping[str, Slice | PointList | PointListArray | Array]:
        """Return items that `save` takes, by their names; "" is the main one."""


Item = Storable | ArrayLike | Mapping[str, object] | GivesItems | None


def save(
    path: str | os.PathLike[str],
    items: Mapping[str, Item],
    *,
    overwrite: bool = False,
    settings: Metadata | None = None,
    log: Sequence[str] | None = None,
    links: str = "external",
    classes: str = "py4DSTEM",
) -> None:
    """Save results, and the scan they come from, as a link or as data.

    The file is written under another name beside its place, and renamed when it is complete. After an error nothing is left behind, and
    an existing file is unchanged.

    Parameters
    ----------
    path : str or path
    items : mapping of str to object
        Each is stored as ``/gpu4d/<name>``: DataCube, RealSlice, DiffractionSlice (stacks with labels too), PointListArray
        (with qx, qy and intensity: py4DSTEM's BraggVectors), PointList, arrays of numbers, and every result of gpu4d, as a group with
        its parts. `gpu4d.io.read_emd` gives back what was saved. Dictionaries and one Calibration go to ``/gpu4d/metadatabundle``.
        Without one, the calibration of the first DataCube is stored. A cube with another calibration keeps its own. An object of
        another package with a method ``to_emd()``, which returns a mapping of such items, is stored as ``<name>`` (key "") and
        ``<name>_<key>``.
    overwrite : bool
        Replace an existing file. It keeps its permissions. A link stays, and the file it leads to is replaced. What is no regular
        file is never replaced. A file that holds patterns of a scan is replaced only if a DataCube is among the items, and never if
        it is read from that file.
    settings : mapping, optional
        Parameters of the processing, nested as they are.
    log : sequence of str, optional
        Lines that say what was done.
    links : {"external", "copy", "bundle"}
        Whether a DataCube whose patterns are in a file is linked to that file, copied, or copied and compressed (bitshuffle and LZ4,
        without loss). Cropped, binned and transposed views and cubes in memory are always written, a few rows at a time. So are counted
        scans: as a PointListArray of the pixels that were struck, which emdfile and py4DSTEM read, and as events, which `gpu4d.open`
        opens without loading them.
    classes : {"py4DSTEM", "emdfile"}
        Whose classes the file names. emdfile reads those of py4DSTEM if py4DSTEM is imported, too, and its own without it.

    Raises
    ------
    InputError
        The file exists, is or holds a scan, or cannot be written, the disk is full, or an item cannot be stored.

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
    for name, given, accepted in (("links", links, LINKS), ("classes", classes, CLASSES)):
        if given not in accepted:
            raise InputError(f"{name} is {given!r}, need one of {', '.join(map(repr, accepted))}")
    flat = dict(_expanded(items))
    _check_target(target, flat, overwrite)
    with _whole_or_nothing(target, overwrite) as (file, check):
        write_tree(file, flat, Target(target, links, check, classes == "emdfile"), settings, log)


def save_result(result: Storable, path: str | os.PathLike[str], *, name: str = "", overwrite: bool = False) -> None:
    """Write one result into a file of its own, as `gpu4d.save` does: the work of its method `save`."""
    own = re.sub(r"[^\w-]+", "_", result.name).strip("_") if isinstance(result, Slice | DataCube) else ""
    save(path, {name or own or type(result).__name__.lower(): result}, overwrite=overwrite)


def _expanded(items: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in items.items():
        if not name or "/" in name or name in (".", "metadatabundle"):
            raise InputError(f"{name!r} cannot be the name of a result: need text without '/'")
        if isinstance(item, GivesItems) and not isinstance(item, Storable):
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
    cubes = [(name, cube) for name, item in items.items() for cube in _cubes(item)]
    for name, cube in cubes:
        opened = opened_file(cube)
        master = opened is not None and opened == target and not is_ours(target)  # it only links to the patterns
        if master or is_replaced(target, raw_files(cube)):
            raise InputError(f"{target} is the file that {name!r} is read from; save under another name")
    if not cubes and os.path.exists(target) and holds_scan(target):
        raise InputError(f"{target} holds a scan, and results never replace one: save them under another name")


def _cubes(item: Any) -> list[DataCube]:
    """Return the scan that an item is, or the scans that are parts of a result."""
    if isinstance(item, DataCube):
        return [item]
    parts = item.to_parts().values() if isinstance(item, Storable) and not isinstance(item, PLAIN) else ()
    return [part for part in parts if isinstance(part, DataCube)]


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
