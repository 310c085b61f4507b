"""Write a page with a binned scan inside, in which a virtual detector is dragged without Python and without a server."""

from __future__ import annotations

import base64
import itertools
import json
import os
import zlib
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.device.memory import parse_memory
from gpu4d.errors import InputError
from gpu4d.io.text_file import write_text
from gpu4d.on_host import on_host
from gpu4d.sizes import format_bytes
from gpu4d.view import front_end
from gpu4d.view.scan_view import Overlays, Progress, listed, view_of

MOST = "25 MB"  # of a page: what mail still carries
LARGEST = {"uint8": 255, "uint16": 65535}  # whole numbers that a page holds
Packed = dict[str, Any]  # a scan as JSON has it: about, numbers in base64, maps, disks
SMALLEST = 8  # pixels or positions along an axis: fewer show nothing
FINE_DETECTOR = 64  # pixels along an axis: more are binned before a page is tried
SHRINKS = 3  # times that counts become smaller by compression, about: pages that would need more are not tried
LEVEL = 6  # of zlib


class PageOptions(TypedDict, total=False):
    """Keyword arguments of `packed_scan` without the size."""

    title: str | None
    maps: dict[str, RealSlice] | None
    overlays: Overlays | None
    progress: Progress | bool


class PartOptions(PageOptions, total=False):
    """All keyword arguments of `packed_scan`."""

    bin: int | None
    most: int | str


@on_host("shown")
def export_page(
    cube: DataCube,
    path: str | os.PathLike[str],
    *,
    bin: int | None = None,
    most: int | str = MOST,
    overwrite: bool = False,
    **options: Unpack[PageOptions],
) -> Path:
    """Write one page that shows a binned scan: a virtual detector, patterns, profiles. It needs a browser, and nothing else.

    Parameters
    ----------
    cube : DataCube
    path : str or path
        The page, .html.
    bin : int, optional
        Detector pixels to sum along each axis. By default as many as the size needs.
    most : int or str
        Bytes that the page may have, "25 MB". If `bin` is given, positions are binned instead.
    overwrite : bool
        Replace a file.
    **options
        `title`, `maps`, `overlays` and `progress`, as of `packed_scan`.

    Returns
    -------
    Path
        The page. It appears when it is complete.

    Raises
    ------
    InputError
        The file exists, or the scan does not fit into a page of this size.

    Examples
    --------
    >>> import os, tempfile
    >>> cube = DataCube(np.arange(4 * 4 * 16 * 16, dtype="uint16").reshape(4, 4, 16, 16))
    >>> page = export_page(cube, os.path.join(tempfile.mkdtemp(), "scan.html"))
    >>> "DecompressionStream" in page.read_text(encoding="utf-8")
    True
    """
    place = Path(path)
    if place.exists() and not overwrite:
        raise InputError(f"{place} exists: give another name, or replace it with --overwrite (overwrite=True)")
    data = packed_scan(cube, bin=bin, most=most, **options)
    return write_text(place, front_end.page(f"{data['about']['title']} · gpu4d", json.dumps(data)), overwrite=overwrite)


@on_host("shown")
def page_part(cube: DataCube, *, name: str = "gpu4d-view", **options: Unpack[PartOptions]) -> str:
    """Return the same as a part of another page: an element, its style, and a script. That page must allow scripts of its own.

    Parameters
    ----------
    cube : DataCube
    name : str
        Id of the element. Parts of one page need different ones.
    **options
        `bin`, `most`, `title`, `maps`, `overlays` and `progress`, as of `packed_scan`.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise InputError(f"name is {name!r}: need letters, digits, - and _")
    return front_end.part(json.dumps(packed_scan(cube, **options)), name)


def packed_scan(
    cube: DataCube,
    *,
    bin: int | None = None,
    most: int | str = MOST,
    title: str | None = None,
    maps: dict[str, RealSlice] | None = None,
    overlays: Overlays | None = None,
    progress: Progress | bool = False,
) -> Packed:
    """Return a binned scan as JSON has it, with what a page must know of it.

    Parameters
    ----------
    cube : DataCube
    bin, most
        As of `export_page`.
    title : str, optional
    maps : dict of str to RealSlice, optional
        Images (Rx, Ry) beside the virtual one. They are left out if positions must be binned.
    overlays : Overlays, optional
        Disks and lattices, in pixels of `cube`.
    progress : bool or callable
        As of `gpu4d.sweep`.
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"the scan is a {type(cube).__name__}, need a DataCube: gpu4d.open(path) or gpu4d.DataCube(array) makes one")
    allowed = parse_memory(most)
    detector, scan = first_bins(cube, allowed, bin)
    while True:
        data = _tried(cube, (detector, scan), title, progress)
        if scan == 1:
            add_results(data, maps or {}, overlays or Overlays(), detector)
        size = len(json.dumps(data))
        if size <= allowed:
            return data
        following = next_bins(cube, (detector, scan), fixed=bin is not None)
        if following is None:
            sizes = f"the page has {format_bytes(size)}, allowed are {format_bytes(allowed)}"
            raise InputError(f"binned {detector}×{detector}, {sizes}: crop the scan, or allow more")
        detector, scan = following


def first_bins(cube: DataCube, allowed: int, bin: int | None) -> tuple[int, int]:
    """Return the binning of the detector and of the scan that is tried first."""
    if bin is not None and not 1 <= bin <= min(cube.detector_shape):
        raise InputError(f"bin is {bin}: need 1 to {min(cube.detector_shape)}")
    bins = (1 if bin is None else int(bin), 1)
    while True:
        values = int(np.prod(cube.shape, dtype=np.int64)) // (bins[0] ** 2 * bins[1] ** 2)
        fine = bin is None and max(cube.detector_shape) // bins[0] > FINE_DETECTOR
        following = next_bins(cube, bins, fixed=bin is not None)
        if following is None or (values <= SHRINKS * allowed and not fine):
            return bins
        bins = following


def next_bins(cube: DataCube, bins: tuple[int, int], fixed: bool) -> tuple[int, int] | None:
    """Return coarser bins: of the detector, or of the scan if that has more positions than the detector pixels. None if there are none."""
    detector, scan = bins
    pixels, positions = min(cube.detector_shape) // (2 * detector), min(cube.scan_shape) // (2 * scan)
    if not fixed and pixels >= SMALLEST and (pixels >= 2 * SMALLEST or positions < SMALLEST):
        return 2 * detector, scan
    return (detector, 2 * scan) if positions >= SMALLEST else None


def _tried(cube: DataCube, bins: tuple[int, int], title: str | None, progress: Progress | bool) -> Packed:
    """Return the scan with these bins, compressed."""
    detector, scan = bins
    small = cube if bins == (1, 1) else cube.bin(detector=detector, scan=scan)
    view = view_of(small, title=title or cube.name, memory=max(1, small.nbytes), progress=progress)
    about = view.about()
    kind, step, offset, numbers = quantised(arrays.to_numpy(view.images.stack))
    how = f"summed {detector}×{detector} to {small.shape[2]}×{small.shape[3]}" if detector > 1 else "as recorded"
    where = f", positions summed {scan}×{scan}" if scan > 1 else ""
    exact = (step, offset) == (1.0, 0.0)
    counts = "counts are exact" if exact else f"counts are rounded to multiples of {step:.3g}"
    about["notes"] = [f"This page holds a copy of the scan: detector pixels {how}{where}; {counts}."]
    about |= {"exact": True, "bin": 1}
    mask = small.detector_mask
    return {
        "about": about,
        "kind": kind,
        "step": step,
        "offset": offset,
        "note": ("binned counts" if detector * scan > 1 else "exact") if exact else "rounded counts",
        "cube": _deflated(numbers),
        "valid": None if mask is None else _deflated(np.asarray(mask, np.uint8)),
        "maps": [],
        "disks": None,
        "lattices": None,
        "origins": None if view.shifts is None else _deflated(np.asarray(arrays.to_numpy(small.calibration.origin), np.float64)),
    }


def quantised(stack: np.ndarray) -> tuple[str, float, float, np.ndarray]:
    """Return values as small whole numbers n: value = offset + step × n. Counts up to 65535 stay as they are. NaN becomes 0.

    Examples
    --------
    >>> quantised(np.array([0, 300]))[:3], round(quantised(np.array([0.0, 6.5535]))[1], 9)
    (('uint16', 1.0, 0.0), 0.0001)
    """
    values = np.nan_to_num(stack, nan=0.0, posinf=0.0, neginf=0.0) if stack.dtype.kind == "f" else stack
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    kind = "uint8" if high <= LARGEST["uint8"] else "uint16"
    if low >= 0 and high <= LARGEST["uint16"] and (values.dtype.kind in "biu" or bool((values == np.rint(values)).all())):
        return kind, 1.0, 0.0, values.astype(kind)
    low = min(low, 0.0)
    step = (high - low) / LARGEST["uint16"] or 1.0
    return "uint16", step, low, np.rint((values - low) / step).astype(np.uint16)


def add_results(data: Packed, maps: dict[str, RealSlice], overlays: Overlays, bin: int) -> None:
    """Add maps and overlays to a packed scan, in binned pixels."""
    data["maps"] = [{"name": name, "values": _deflated(np.asarray(plane, np.float32))} for name, plane in maps.items()]
    data["about"]["maps"] = listed(maps)
    if overlays.lattice is not None:
        data["about"]["lattice"] = (overlays.lattice / bin).tolist()
    if overlays.local is not None:
        data["lattices"] = _deflated(np.asarray(overlays.local / bin, np.float32))
        data["about"]["local"] = True
    if overlays.disks is not None:
        qx, qy = (np.round((overlays.disks.flat(axis) - (bin - 1) / 2) / bin, 2) for axis in ("qx", "qy"))
        ends = np.asarray(overlays.disks.offsets)
        data["disks"] = [np.stack([qx[a:b], qy[a:b]], axis=-1).tolist() for a, b in itertools.pairwise(ends)]
        data["about"]["disks"] = True


def _deflated(values: np.ndarray) -> str:
    """Return the bytes of an array, little-endian, deflated, in base64."""
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return base64.b64encode(zlib.compress(little.tobytes(), LEVEL)).decode("ascii")
