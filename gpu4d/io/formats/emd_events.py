"""Write and open counted scans in EMD 1.0 files: as lists of points that emdfile and py4DSTEM read, and as events for gpu4d.

A counted scan is a group `PointListArray` with `data` (Rx, Ry), a list of (qx, qy) for each position; with counts other than 1, (qx, qy,
counts). Its group `events` has the same events as `offsets` (Rx · Ry + 1,) and `pixels` (m,), which are qx · Qy + qy, and `counts` if there
are any. emdfile does not look into it, because it is not marked as EMD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.data.events import Events, ReadsEvents, largest
from gpu4d.data.named_axes import cube_axes
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.formats.emd import label
from gpu4d.io.formats.emd_nodes import node, write_dims, write_lists, write_metadata
from gpu4d.io.sources.event_file import Column, FileEventSource
from gpu4d.io.sources.links import dataset_at, group_at, names, path_of

EVENTS = "events"
VERSION = "gpu4d_events"  # attribute of the group, 1
PIECE_EVENTS = 1 << 20  # written at a time
COUNT_BYTES = 1 << 31  # of patterns: largest number of pixels of a detector


def write_events(parent: h5py.Group, name: str, cube: DataCube, source: ReadsEvents, check: Callable[[], None]) -> None:
    """Write a counted scan, some positions at a time."""
    rx, ry, qx, qy = cube.shape
    group = node(parent, name, "pointlistarray", "PointListArray")
    write_metadata(group, "counted", {"scan_shape": (rx, ry), "detector_shape": (qx, qy), "dtype": np.dtype(cube.dtype).str})
    if cube.detector_mask is not None:
        write_metadata(group, "detector", {"mask": cube.detector_mask})
    offsets, total = source.offsets, int(source.offsets[-1])
    first = source.read_events(slice(0, 1), slice(0, ry))
    fields: list[tuple[str, Any]] = [("qx", np.uint16 if qx <= 1 << 16 else np.uint32), ("qy", np.uint16 if qy <= 1 << 16 else np.uint32)]
    fields += [] if first.counts is None else [("counts", first.counts.dtype.newbyteorder("="))]
    lists = group.create_dataset("data", (rx, ry), h5py.vlen_dtype(np.dtype(fields)))
    write_dims(group, cube_axes(cube)[:2])
    for field in ("qx", "qy"):
        group.attrs[f"units_{field}"] = "px"
    events = group.create_group(EVENTS)
    events.attrs[VERSION], events.attrs["shape"] = 1, cube.shape
    events.attrs["dtype"] = np.dtype(cube.dtype).str
    events.create_dataset("offsets", data=offsets)
    pixels = events.create_dataset("pixels", (total,), np.uint32 if qx * qy <= 1 << 32 else np.uint64)
    counts = None if first.counts is None else events.create_dataset("counts", (total,), first.counts.dtype.newbyteorder("="))
    for start, stop in _pieces(offsets, ry):
        rows = slice(start // ry, (stop - 1) // ry + 1)
        columns = slice(start - rows.start * ry, stop - (rows.stop - 1) * ry) if rows.stop - rows.start == 1 else slice(0, ry)
        found = source.read_events(rows, columns)
        place = slice(int(offsets[start]), int(offsets[stop]))
        pixels[place] = found.pixel_of_event()
        if counts is not None:
            counts[place] = found.count_of_event()
        write_lists(lists, _lists(found, np.dtype(fields)).reshape(rows.stop - rows.start, -1), (rows.start, columns.start))
        check()


def _pieces(offsets: np.ndarray, width: int) -> list[tuple[int, int]]:
    """Cut the positions into whole rows, or parts of one row, with at most `PIECE_EVENTS` events, or one position."""
    found, first, positions = [], 0, len(offsets) - 1
    while first < positions:
        last = max(int(np.searchsorted(offsets, offsets[first] + PIECE_EVENTS, side="right")) - 1, first + 1)
        whole = last // width * width
        last = whole if first % width == 0 and whole > first else min(last, (first // width + 1) * width)
        found.append((first, min(last, positions)))
        first = last
    return found


def _lists(events: Events, dtype: np.dtype) -> np.ndarray:
    """Return the points of every position, an array of arrays."""
    pixel, counts = events.pixel_of_event(), events.count_of_event()
    records = np.empty(len(pixel), dtype)
    records["qx"], records["qy"] = np.divmod(pixel, events.detector_shape[1])
    if counts is not None:
        records["counts"] = counts
    begins = events.offsets - events.offsets[0]
    lists = np.empty(len(events), object)
    for i in range(len(lists)):
        lists[i] = records[begins[i] : begins[i + 1]]
    return lists


# ---------------------------------------------------------------- opening


def event_groups(file: h5py.File) -> list[str]:
    """Return the paths of the counted scans in a file: groups of its roots that have events."""
    found = []
    for top in names(file):
        root = group_at(file, top)
        for name in names(root) if root is not None else ():
            item = group_at(root, name)
            if item is not None and is_counted(item):
                found.append(path_of(item))
    return found


def is_counted(group: h5py.Group) -> bool:
    """Say whether a group is a counted scan that gpu4d wrote."""
    held = group_at(group, EVENTS)
    return held is not None and VERSION in held.attrs


def event_source(file: h5py.File, path: str) -> FileEventSource:
    """Return the source of a counted scan. Only the offsets are read."""
    where = f"{shown(file.filename)}: {shown(path)}"
    group = group_at(file, path)
    held = None if group is None else group_at(group, EVENTS)
    if held is None or VERSION not in held.attrs:
        raise InputError(f"{where} is no counted scan that gpu4d wrote")
    shape, dtype = _shape(held, where), _pattern_type(held, where)
    offsets = _whole(held, "offsets", where)
    pixels, counts = _whole(held, "pixels", where), dataset_at(held, "counts")
    positions = shape[0] * shape[1]
    if offsets.size != positions + 1:
        raise InputError(f"{where} has {offsets.size} offsets for {positions} positions: it is damaged, copy it again")
    begins = offsets[()].astype(np.int64)
    if begins[0] != 0 or begins[-1] != pixels.size or (np.diff(begins) < 0).any():
        raise InputError(f"{where}: the offsets do not run from 0 to its {pixels.size} events: it is damaged, copy it again")
    if counts is not None and _whole(held, "counts", where).size != pixels.size:
        raise InputError(f"{where} has {counts.size} counts for {pixels.size} events: it is damaged, copy it again")
    columns = [None if part is None else _column(part) for part in (pixels, counts)]
    assert columns[0] is not None
    return FileEventSource(begins, columns[0], columns[1], shape, dtype)


def _shape(held: h5py.Group, where: str) -> Shape4:
    stated = np.asarray(held.attrs.get("shape", ()))
    if stated.shape != (4,) or stated.dtype.kind not in "iu" or (stated < 1).any() or int(stated[2]) * int(stated[3]) > COUNT_BYTES:
        raise InputError(f"{where} has the shape {stated.tolist()}: need (Rx, Ry, Qx, Qy): it is damaged, copy it again")
    return tuple(int(n) for n in stated)  # type: ignore[return-value]


def _pattern_type(held: h5py.Group, where: str) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(label(held, "dtype", "<u2")).newbyteorder("=")
        largest(dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: its patterns are of a type that no counts have: it is damaged, copy it again") from error
    return dtype


def _whole(held: h5py.Group, name: str, where: str) -> h5py.Dataset:
    found = dataset_at(held, name)
    if found is None or found.shape is None or found.ndim != 1 or found.dtype.kind not in "iu":
        raise InputError(f"{where} has no whole numbers {name!r}, one-dimensional: it is damaged, copy it again")
    return found


def _column(dataset: h5py.Dataset) -> Column:
    plain = not dataset.is_virtual and not dataset.external
    offset = dataset.id.get_offset() if plain and dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS else None
    return Column(dataset.file.filename, path_of(dataset), dataset.dtype, dataset.size, offset)
