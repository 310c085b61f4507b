"""Open what a page shows: a scan, or a result of `gpu4d run` with the scan that it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.io import RawLayout, ScanTiming, read_emd
from gpu4d.io import open as open_scan
from gpu4d.view.scan_view import Overlays, ScanView, ViewOptions, view_of


class Opening(TypedDict, total=False):
    """Keyword arguments of `gpu4d.open` that say what a file cannot."""

    dataset: str | None
    scan_shape: tuple[int, int] | None
    layout: RawLayout | None
    timing: ScanTiming | None


RESULT = "result.h5"  # in the folder that `gpu4d run` writes
SCANS = ("datacube", "raw_datacube")  # names of the scan in a result; the second where the run has cropped or binned it
AS_RECORDED = "The run has cropped, binned or corrected the scan. Patterns here are those of its file, without overlays."
DISKS, REFERENCE, LOCAL = "braggvectors", "strain_reference", "lattice_vectors"  # names in a result; `gpu4d.workflow` writes them


def open_view(path: str | os.PathLike[str], *, opening: Opening | None = None, **options: Unpack[ViewOptions]) -> ScanView:
    """Open a scan, or a result and its scan, for a page.

    Parameters
    ----------
    path : str or path
        A file that `gpu4d.open` opens, the folder of a result, or its result.h5.
    opening : dict, optional
        Keywords of `gpu4d.open`, for a scan.
    **options
        `title`, `device`, `memory` and `progress`, as of `view_of`.

    Raises
    ------
    InputError
        No such file, or a result whose scan is not where it was.
    """
    cube, title, maps, overlays, notes = open_scan_or_result(Path(path), opening)
    options.setdefault("title", title)
    view = view_of(cube, **options)
    view.maps, view.overlays = maps, overlays
    view.notes += notes
    return view


def open_scan_or_result(path: Path, opening: Opening | None = None) -> tuple[DataCube, str, dict[str, RealSlice], Overlays, list[str]]:
    """Return a scan, a title, and what a result knows of it: maps, overlays, and notes. Nothing of the scan is read yet."""
    place = path / RESULT if (path / RESULT).is_file() else path
    if place.name != RESULT and not is_result_file(place):
        return open_scan(place, **(opening or {})), place.name, {}, Overlays(), []
    items = read_emd(place)
    cube = scan_of(items, place)
    title = f"{place.resolve().parent.name} · {place.name}"
    if cube.name == SCANS[0]:
        return cube, title, maps_of(items, cube.scan_shape), overlays_of(items), []
    return cube, title, maps_of(items, cube.scan_shape), Overlays(), [AS_RECORDED]


def is_result_file(path: Path) -> bool:
    """Say whether a file is one that `gpu4d run` or `gpu4d.save` wrote with a scan in it, and more."""
    if path.suffix not in (".h5", ".emd", ".hdf5") or not path.is_file():
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "gpu4d" in file and any(name in file["gpu4d"] for name in SCANS) and len(file["gpu4d"]) > 2
    except (OSError, KeyError, TypeError):
        return False


def scan_of(items: dict[str, Any], place: Path) -> DataCube:
    """Return the scan of a result, with the calibration that the run has found.

    Raises
    ------
    InputError
        Its file is not where it was.
    """
    for name in SCANS:
        cube = items.get(name)
        if isinstance(cube, DataCube):
            known = items["calibration"] if "calibration" in items and name == SCANS[0] else cube.calibration
            return DataCube(cube.source, known, cube.metadata, cube.detector_mask, name)
    raise InputError(
        f"{place}: the scan of this result is not where it was. Put its file back, or run again with --bundle, which keeps the scan inside"
    )


def maps_of(items: dict[str, Any], scan_shape: tuple[int, int]) -> dict[str, RealSlice]:
    """Return the images of a result that have one value for each position. Planes of a stack have its name and theirs.

    Examples
    --------
    >>> stack = RealSlice(np.zeros((2, 3, 4)), "strain", "1", labels=("e_xx", "mask"))
    >>> list(maps_of({"strain": stack, "pattern": np.zeros((5, 5))}, (3, 4)))
    ['strain e_xx', 'strain mask']
    """
    found: dict[str, RealSlice] = {}
    for name, item in items.items():
        parts = item.to_emd() if isinstance(item, Storable) and hasattr(item, "to_emd") else {"": item}
        for key, part in parts.items():
            if not isinstance(part, RealSlice) or tuple(part.shape[-2:]) != tuple(scan_shape) or np.asarray(part).dtype.kind == "c":
                continue
            title = " ".join(filter(None, (name, key))).replace("_", " ")
            values = np.asarray(part, np.float64)
            if values.ndim == 2:
                found[title] = part.of_same_grid(values, title, part.units)
            elif values.ndim == 3:
                labels = part.labels or tuple(str(i) for i in range(len(values)))
                found |= {f"{title} {label}": part.of_same_grid(plane, label, part.units) for label, plane in zip(labels, values)}
    return found


def overlays_of(items: dict[str, Any]) -> Overlays:
    """Return the Bragg disks, the reference lattice and the fitted lattices of a result."""
    disks, reference, local = items.get(DISKS), items.get(REFERENCE), items.get(LOCAL)
    lattice = np.stack([reference.qx, reference.qy], axis=-1) if isinstance(reference, PointList) and len(reference.qx) == 2 else None
    vectors = None
    if isinstance(local, RealSlice) and local.ndim == 3 and len(local) == 4:  # planes g1 qx, g1 qy, g2 qx, g2 qy
        vectors = np.moveaxis(np.asarray(local, np.float64), 0, -1).reshape(*local.shape[1:], 2, 2)
    return Overlays(disks if isinstance(disks, PointListArray) else None, lattice, vectors)
