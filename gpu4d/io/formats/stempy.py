"""Open counted scans of stempy, as those of the 4D Camera: HDF5 with the pixels that electrons struck, frame by frame.

`electron_events/frames` is one array of pixels for each frame; `electron_events/scan_positions` says where frames belong. In files of
version 3, frames are stored position by position, as many for each. Before, a position may come several times, or not at all.
"""

from __future__ import annotations

from typing import ClassVar

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Opened, OpenOptions
from gpu4d.io.formats import emd
from gpu4d.io.formats.hdf5_dialect import Hdf5Dialect, has, values_below
from gpu4d.io.sources.hdf5_file import reading
from gpu4d.io.sources.heap_arrays import HeapArrays
from gpu4d.io.sources.layout import check_scan_shape
from gpu4d.io.sources.links import dataset_at
from gpu4d.io.sources.ragged_events import RaggedEventSource

FRAMES, POSITIONS = "/electron_events/frames", "/electron_events/scan_positions"
BY_POSITION = 3  # version from which frames are stored position by position
MOST_SIZE = 1 << 20  # along an axis of a scan or a detector


class Stempy(Hdf5Dialect):
    """Counted scans of stempy (4D Camera)."""

    name: ClassVar = "stempy"
    accepts: ClassVar = "stempy"
    facts: ClassVar = Facts(
        endings=(".h5",),
        reading="events",
        covers="counted scans of versions 1 to 3: several frames of a position are added up, positions without one are empty. Columns of "
        "fly-back are kept",
        tried_on="files of stempy 3.6 and files made from the description",
    )

    def claims(self, file: h5py.File) -> bool:
        return has(file, "electron_events", "frames")

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        if options.dataset is not None and options.dataset.strip("/") != FRAMES.strip("/"):
            raise InputError(f"{shown(path)}: its counted scan is {FRAMES}, there is no scan {shown(options.dataset)}: leave --dataset out")
        frames = dataset_at(file, FRAMES)
        if frames is None or frames.shape is None:
            raise InputError(f"{shown(path)}: {FRAMES} is no list of arrays of whole numbers: the file is damaged, or of another version")
        with reading(path, FRAMES):
            arrays = HeapArrays.of(frames, path, FRAMES)
        detector = _sizes(frames, path, FRAMES)
        positions = dataset_at(file, POSITIONS)
        scan = None if positions is None else _sizes(positions, path, POSITIONS)[::-1]  # Nx is the width of a scan, and rows of a frame
        if scan is None:
            raise InputError(f"{shown(path)}: there is no {POSITIONS} with Nx and Ny, the scan's shape: the file is damaged, copy it again")
        events = int(arrays.lengths.sum())
        if events * arrays.dtype.itemsize > file.id.get_filesize():
            raise InputError(f"{shown(path)}: {FRAMES} has {events} events, more than the file holds: it is damaged, copy it again")
        with reading(path, POSITIONS):
            order, starts = _by_position(file, positions, len(frames), scan[0] * scan[1], path)
        if options.scan_shape is not None:
            scan = check_scan_shape(options.scan_shape, scan[0] * scan[1], shown(path))
        source = RaggedEventSource(arrays, order, starts, (*scan, *detector), np.dtype(np.uint16))
        metadata = {"stempy": values_below(file["metadata"]) if has(file, "metadata") else {}}
        return Opened(source, Calibration(), metadata, emd.cube_name(path, FRAMES))


def _sizes(node: h5py.Dataset, path: str, name: str) -> tuple[int, int]:
    """Return the attributes Nx and Ny."""
    found = [np.asarray(node.attrs.get(key, 0)) for key in ("Nx", "Ny")]
    if not all(value.size == 1 and value.dtype.kind in "iu" and 1 <= int(value.reshape(())) <= MOST_SIZE for value in found):
        raise InputError(f"{shown(path)}: {name} has no sizes Nx and Ny: the file is damaged, or of another version")
    return int(found[0].reshape(())), int(found[1].reshape(()))


def _by_position(file: h5py.File, positions: h5py.Dataset, frames: int, count: int, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames in the order of the positions, and where those of each begin."""
    version = np.asarray(file.attrs.get("version", 1))
    if version.size == 1 and version.dtype.kind in "iuf" and version.reshape(()) >= BY_POSITION:
        each, rest = divmod(frames, count)
        if rest or each < 1:
            raise InputError(
                f"{shown(path)}: {frames} frames for {count} positions, not as many for each: the file is damaged, copy it again"
            )
        return np.arange(frames), np.arange(count + 1) * each
    if positions.shape != (frames,) or positions.dtype.kind not in "iu":
        raise InputError(f"{shown(path)}: {frames} frames, and their positions are {positions.shape}: the file is damaged, copy it again")
    numbers = positions[()].astype(np.int64)
    if len(numbers) and not (0 <= int(numbers.min()) and int(numbers.max()) < count):
        raise InputError(
            f"{shown(path)}: positions run from {numbers.min()} to {numbers.max()}, the scan has {count}: it is damaged, copy it again"
        )
    order = np.argsort(numbers, kind="stable")
    return order, np.searchsorted(numbers[order], np.arange(count + 1))
