"""All patterns of a scan in memory at once, beside the streams: for methods that need any pattern at any time."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from array_api_compat import is_writeable_array

from gpu4d import arrays
from gpu4d.arrays import ArrayLike, ReturnedArray
from gpu4d.data.arguments import scan_mask
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.device.choose import DeviceLike
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.streaming.engine import sweep
from gpu4d.streaming.place import processors_for
from gpu4d.streaming.progress import Progress
from gpu4d.streaming.reduction import ScanInfo
from gpu4d.streaming.sums import OnePass


def load_cube(
    cube: DataCube,
    *,
    device: DeviceLike = "auto",
    memory: int | float | str | None = None,
    where: ArrayLike | None = None,
    progress: Progress = False,
) -> ReturnedArray:
    """Bring the patterns of a scan into the memory of a device, as one array.

    For methods that need any pattern at any time, such as iterative ptychography. Patterns travel as in a sweep: read, copied and put to
    their places at the same time, through the same buffers, corrected where the source says so. Crop or bin the cube first to
    load less of it.

    Parameters
    ----------
    cube : DataCube
    device : {"auto", "cpu", "cuda", "cuda:N"}
        One device, as of `gpu4d.sweep`. Arrays on a device are loaded there.
    memory : int or str, optional
        Bytes that the array and the buffers on the way may take together, "8 GB"; by default half of what the device has free.
    where : (Rx, Ry) bool, optional
        Positions to load; all by default.
    progress : bool or callable
        As of `gpu4d.sweep`.

    Returns
    -------
    (Rx, Ry, Qx, Qy) array, or (n, Qx, Qy) with `where`
        In the dtype of the cube. NumPy on the CPU, CuPy on a GPU, else of the library and on the device of the cube's array. With
        `where` in scan order, and (0, Qx, Qy) where it leaves no position. A cube that is an array of the device already gives
        that array itself, not to be written to.

    Raises
    ------
    InputError
        Several devices, or a mask that does not fit.
    MemoryBudgetError
        The array and the buffers do not fit: what is asked, free and allowed. Nothing has been read then.
    DeviceError
        A device that is not there.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.arange(24, dtype="uint8").reshape(2, 3, 2, 2))
    >>> load_cube(cube.crop(qx=(0, 1)))[1, 2].tolist(), load_cube(cube, where=[[0, 1, 0], [0, 0, 1]]).shape
    ([[20, 21]], (2, 2, 2))
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"the scan is a {type(cube).__name__}, need a DataCube: gpu4d.open(path) or gpu4d.DataCube(array) makes one")
    processors, in_place = processors_for(cube, device)
    if len(processors) > 1:
        raise InputError(f"device={device!r}: one array lies on one device; name one")
    chosen = scan_mask(where, cube.scan_shape)
    array = getattr(cube.source, "array", None)
    if in_place and chosen is None and array is not None and cube.source.resident:
        return array
    one, name = processors[0], "all patterns"
    try:
        budget = memory if memory is not None else max(1, one.free_memory() // 2)
        asked = {name: LoadedPatterns(whole_scan=chosen is None)}
        return sweep(cube, asked, device=device, memory=budget, where=chosen, progress=progress, keep="device")[name]
    except MemoryBudgetError as error:
        patterns = cube.shape[0] * cube.shape[1] if chosen is None else int(chosen.sum())
        what = f"loading {patterns} patterns of {cube.shape[2]}×{cube.shape[3]} {cube.dtype} on {one.name}"
        raise MemoryBudgetError(what, error.asked, error.free, error.cap) from error


class LoadedPatterns(OnePass):
    """Reduction: the patterns themselves, each copied to its place in one array. Places of patterns that have not come are 0.

    Parameters
    ----------
    whole_scan : bool
        Give (Rx, Ry, Qx, Qy); else the patterns of visited positions, (n, Qx, Qy) in scan order.
    """

    def __init__(self, whole_scan: bool = True):
        self.whole_scan = whole_scan

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        """Return the bytes of the array, of the table of places, and of the places of an update."""
        patterns = _patterns(scan)
        copies = 1 if _takes_values(scan) else 3  # in pieces, joined, and in scan order
        return copies * patterns * scan.shape[2] * scan.shape[3] * itemsize(scan.dtype) + 16 * scan.shape[0] * scan.shape[1] + 48 * n_frames

    def start(self, scan: ScanInfo, device: Any, pass_: int = 0) -> None:
        """Begin with no patterns; the array is made when the first ones come."""
        super().start(scan, device, pass_)
        visited = np.ones(scan.shape[:2], bool) if scan.where is None else scan.where
        self.place = np.cumsum(visited).reshape(scan.shape[:2]) - 1  # of visited positions among each other
        self.values: Any = None
        self.pieces: list[tuple[np.ndarray, Any]] = []  # of libraries whose arrays cannot be written to
        self._lock = threading.Lock()

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Any, positions: np.ndarray) -> None:
        self._put(self.place[positions[:, 0], positions[:, 1]], frames)

    def _put(self, place: np.ndarray, frames: Any) -> None:
        """Copy patterns to their places. Places rise; a run of them is one copy."""
        if not _takes_values(self.scan):
            self.pieces.append((place, arrays.namespace(frames).asarray(frames, copy=True)))
            return
        with self._lock:
            if self.values is None:
                self.values = self._empty(_patterns(self.scan))
        ends = np.flatnonzero(np.diff(place, append=-1) != 1) + 1
        for first, last in zip([0, *ends[:-1]], ends):
            self.values[int(place[first]) : int(place[first]) + int(last - first), ...] = frames[int(first) : int(last), ...]

    def _empty(self, patterns: int) -> Any:
        shape = patterns, *self.scan.shape[2:]
        if self.scan.on_host:
            return np.zeros(shape, self.scan.dtype)
        sample = self.scan.sample
        return arrays.namespace(sample).zeros(shape, dtype=self.scan.dtype, device=arrays.device(sample))

    def finish(self) -> Any:
        """Return (Rx, Ry, Qx, Qy) or (n, Qx, Qy): the array itself, not a copy."""
        found = self._joined() if self.pieces else self._empty(_patterns(self.scan)) if self.values is None else self.values
        return arrays.namespace(found).reshape(found, self.scan.shape) if self.whole_scan else found

    def _joined(self) -> Any:
        place = np.concatenate([places for places, _ in self.pieces])
        xp = arrays.namespace(self.pieces[0][1])
        missing = self._empty(1)  # the pattern behind the last, for places of those that have not come
        source = np.full(_patterns(self.scan), len(place))
        source[place] = np.arange(len(place))
        return xp.take(xp.concat([*(frames for _, frames in self.pieces), missing]), arrays.from_numpy(source, missing), axis=0)

    def state(self) -> dict[str, Any]:
        """Return the patterns so far, on the host."""
        return {"patterns": arrays.to_numpy(self.finish()).reshape(-1, *self.scan.shape[2:]).copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.values, self.pieces = None, []
        self.merge(state)

    def merge(self, state: dict[str, Any]) -> None:
        """Take over the patterns of another worker: those that are not 0."""
        place = np.flatnonzero((state["patterns"] != 0).any(axis=(1, 2)))
        if len(place):
            self._put(place, arrays.from_numpy(state["patterns"][place], self._empty(0)))


def _patterns(scan: ScanInfo) -> int:
    return scan.shape[0] * scan.shape[1] if scan.where is None else int(scan.where.sum())


def _takes_values(scan: ScanInfo) -> bool:
    """Say whether arrays beside the frames can be written to; those of JAX cannot."""
    return scan.on_host or bool(is_writeable_array(scan.sample))
