"""Write the tree of an EMD 1.0 file: calibration, metadata, and one node for each item."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from gpu4d import arrays
from gpu4d._version import __version__
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.events import events_of
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, Slice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.io.formats import emd_cube, emd_events, emd_nodes, emd_results

ROOT = "gpu4d"


@dataclass(frozen=True)
class Target:
    """The file that is being written.

    Attributes
    ----------
    path : str
    links : {"external", "copy", "bundle"}
        What becomes of a scan that is in another file, as for `gpu4d.save`.
    check : callable
        Raises the first error of writing.
    plain : bool
        Only classes that emdfile knows by itself.
    """

    path: str
    links: str
    check: Callable[[], None]
    plain: bool = False


def write_tree(
    file: h5py.File, items: Mapping[str, Any], target: Target, settings: Mapping[str, Any] | None, log: Sequence[str] | None
) -> None:
    """Write all items of a file."""
    header = {"emd_group_type": "file", "version_major": 1, "version_minor": 0, "UUID": str(uuid.uuid4())}
    for key, value in {**header, "authoring_program": f"gpu4d {__version__}", "authoring_user": ""}.items():
        file.attrs[key] = value
    root = emd_nodes.node(file, ROOT, "root", "Root")
    cubes = [item for item in items.values() if isinstance(item, DataCube)]
    given = [item for item in items.values() if isinstance(item, Calibration)]
    if len(given) > 1:
        raise InputError(
            f"{len(given)} calibrations are among the items, and a file has one: save each with its results in a file of its own"
        )
    calibration = given[0] if given else cubes[0].calibration if cubes else None
    if calibration is not None:
        targets = [f"/{name}" for name, item in items.items() if isinstance(item, DataCube) or emd_nodes.is_bragg(item)]
        emd_nodes.write_metadata(root, "calibration", emd_nodes.calibration_keys(calibration, targets), "Calibration")
    versions = {"gpu4d": __version__, "numpy": np.__version__, "h5py": h5py.__version__, "python": platform.python_version()}
    notes: dict[str, Any] = {"versions": versions, "settings": settings, "log": None if log is None else {"lines": list(log)}}
    for name, values in notes.items():
        if values is not None:
            emd_nodes.write_metadata(root, name, values)
    tree = _Tree(target, calibration, _detector_shape(items, calibration))
    for name, item in items.items():
        tree.write(root, name, item)
    if target.plain:
        emd_nodes.use_plain_classes(root)


def _detector_shape(items: Mapping[str, Any], calibration: Calibration | None) -> Sequence[int] | None:
    """Return the shape of the detector that disks were found on: the calibrated cube's, or an image's (the cube may be the raw scan of a
    view).
    """
    for item in items.values():
        if isinstance(item, DataCube) and item.calibration is calibration:
            return item.detector_shape
    return next((item.shape[-2:] for item in items.values() if isinstance(item, DiffractionSlice)), None)


@dataclass(frozen=True)
class _Tree:
    """Writes items as nodes."""

    target: Target
    calibration: Calibration | None
    detector: Sequence[int] | None

    def write(self, parent: h5py.Group, name: str, item: Any) -> None:
        """Write one item into a group: the root, or the group of the result that it is a part of."""
        if isinstance(item, Calibration) and parent.name == f"/{ROOT}":
            return  # it stands among the metadata of the root
        if isinstance(item, DataCube):
            self._write_cube(parent, name, item)
        elif isinstance(item, PointListArray):
            emd_nodes.write_points(parent, name, item, self.detector, None if self.calibration is None else self.calibration.r_pixel)
        elif isinstance(item, PointList):
            emd_nodes.write_pointlist(parent, name, item)
        elif isinstance(item, Slice):
            emd_nodes.write_slice(parent, name, item)
        elif isinstance(item, Storable):
            emd_results.write_result(parent, name, item, self.write)
        elif isinstance(item, Mapping):
            if name in parent.get("metadatabundle", ()):
                raise InputError(f"a dictionary cannot be called {name!r}: the file has metadata of that name already; choose another")
            emd_nodes.write_metadata(parent, name, item)
        elif arrays.is_array(item):
            emd_nodes.write_array(parent, name, arrays.to_numpy(item))
        else:
            raise InputError(
                f"{name!r} is a {type(item).__name__}, which cannot be saved; accepted are DataCube, slices, PointListArray, PointList, "
                "Calibration, all results, arrays, dictionaries, and objects with to_emd()"
            )
        self.target.check()

    def _write_cube(self, parent: h5py.Group, name: str, cube: DataCube) -> None:
        events = events_of(cube.source)
        if events is not None:
            emd_events.write_events(parent, name, cube, events, self.target.check)
        else:
            emd_cube.write_cube(parent, name, cube, self.target.links, self.target.path, self.target.check)
        if name not in parent:  # its file is only named, among the metadata
            return
        linked = self.target.links == "external" and getattr(cube.source, "path", None) is not None
        emd_cube.write_about(parent[name], cube, linked)
        if cube.calibration is not self.calibration:
            emd_nodes.write_metadata(parent[name], "calibration", emd_nodes.calibration_keys(cube.calibration, []), "Calibration")
