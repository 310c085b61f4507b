"""Make the images of single bright-field pixels, for ptychography, parallax and aberration fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.data.events import Events, check_counts
from gpu4d.device import tables
from gpu4d.device.memory import available_memory, default_budget, parse_memory
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.imaging.event_sums import event_images
from gpu4d.ptychography.gather_pixels import gather_pixels
from gpu4d.streaming.engine import sweep
from gpu4d.streaming.place import processors_for
from gpu4d.streaming.reduction import Reduction, ScanInfo
from gpu4d.streaming.sums import PerPositionReduction, Value


class BrightFieldStack(PerPositionReduction):
    """Reduction: images (P, Rx, Ry) of chosen detector pixels, in the native dtype.

    Positions that are not visited are 0, or NaN in float data.

    Parameters
    ----------
    pixels : (P,) int array or (Qx, Qy) bool array
        Pixel numbers qx · Qy + qy, or a mask. Only these pixels are copied from the patterns.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.arange(2 * 3 * 4, dtype="uint16").reshape(2, 3, 2, 2))
    >>> gpu4d.sweep(cube, BrightFieldStack([1, 2])).tolist()
    [[[1, 5, 9], [13, 17, 21]], [[2, 6, 10], [14, 18, 22]]]
    """

    def __init__(self, pixels: ArrayLike):
        given = real_values(pixels, "pixels", "numbers qx · Qy + qy, or a mask (Qx, Qy)")
        if given.dtype != bool and (given.ndim != 1 or (given.dtype.kind == "f" and given.size)):
            raise InputError(f"pixels is {given.shape} {given.dtype}: need whole numbers qx · Qy + qy, or a mask (Qx, Qy) bool")
        self.pixels = np.flatnonzero(given) if given.dtype == bool else given.astype(np.int64)
        self.detector = given.shape if given.dtype == bool else None

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        copies = 1 if scan.on_host else 3  # in pieces, joined, and in scan order
        pixels = scan.shape[2] * scan.shape[3]
        rows = 8 * (pixels + len(self.pixels)) if scan.on_host and n_frames else 0  # for events
        return rows + len(self.pixels) * itemsize(scan.dtype) * (copies * len(scan.own_rows) * scan.shape[1] + n_frames)

    def store(self, scan: ScanInfo) -> _PixelImages:
        qx, qy = scan.shape[2:]
        if self.detector not in (None, (qx, qy)) or self.pixels.ndim != 1 or not ((0 <= self.pixels) & (self.pixels < qx * qy)).all():
            raise InputError(f"pixels must be a mask {(qx, qy)} or numbers from 0 to {qx * qy - 1} on this detector")
        return _PixelImages(scan, len(self.pixels))

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Array, positions: np.ndarray) -> None:
        self.put(positions, gather_pixels(frames, tables.beside(self.pixels, frames)))

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say that it does: an image is the counts of its pixel, of whatever dtype."""
        return True

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        chosen, image_of = np.unique(self.pixels, return_inverse=True)  # a pixel may be asked for twice
        row_of = np.full(self.scan.shape[2] * self.scan.shape[3], -1, np.int64)
        row_of[chosen] = np.arange(len(chosen))
        images, largest = event_images(*events.arrays(), row_of, len(chosen), np.dtype(self.scan.dtype).name)
        check_counts(largest, self.scan.dtype)
        self.put(positions, images if np.array_equal(chosen, self.pixels) else images[image_of])

    def wanted_pixels(self) -> np.ndarray:
        return self.pixels

    def update_pixels(self, values: Array, positions: np.ndarray) -> None:
        xp = arrays.namespace(values)
        found = xp.permute_dims(values, (1, 0))
        self.put(positions, found if self.scan.on_host else xp.asarray(found, copy=True))  # a copy, because the sweep reuses its buffer

    def finish(self) -> Value:
        """Return the images (P, Rx, Ry), in the namespace and on the device of the frames."""
        return self.values.result()


class _PixelImages:
    """Values of pixels at scan positions, in the frames' dtype. Written in place on the host, collected in pieces on a device."""

    def __init__(self, scan: ScanInfo, pixels: int):
        self.scan, self.shape = scan, (pixels, *scan.shape[:2])
        self.host = scan.on_host
        self.own = scan.own_rows
        self.first = self.own.start * self.shape[2]  # number of its first position
        self.seen = np.zeros(len(self.own) * self.shape[2], bool)
        self.pieces: list[tuple[np.ndarray, Any]] = []
        if self.host:
            kind = np.dtype(scan.dtype)
            shape = (pixels, len(self.seen))
            self.values = np.full(shape, np.nan, kind) if kind.kind == "f" else np.zeros(shape, kind)

    def put(self, positions: np.ndarray, values: Any) -> None:
        """Store `values` (P, n) of positions (n, 2)."""
        self._put(positions[:, 0] * self.shape[2] + positions[:, 1], values)

    def _put(self, number: np.ndarray, values: Any) -> None:
        number = number - self.first
        self.seen[number] = True
        if not self.host:
            self.pieces.append((number, values))
        elif len(number) and (np.diff(number) == 1).all():  # the usual case: a tile is a run of positions
            self.values[:, number[0] : number[-1] + 1] = values
        else:
            self.values[:, number] = values

    def state(self) -> dict[str, Any]:
        values = self.values.copy() if self.host else arrays.to_numpy(self._joined())
        return {"first": self.first, "values": values, "seen": self.seen.copy()}

    def restore(self, state: dict[str, Any]) -> None:
        self.pieces = []
        self.merge(state)

    def merge(self, state: dict[str, Any]) -> None:
        number = np.flatnonzero(state["seen"])
        values = state["values"][:, number]
        self._put(number + state["first"], values if self.host else arrays.from_numpy(values, self.scan.sample))

    def result(self) -> Any:
        """Return (P, Rx, Ry), with 0 (NaN in float data) at positions without values."""
        values = self.values if self.host else self._joined()
        if len(self.own) == self.shape[1]:
            return values.reshape(self.shape) if self.host else arrays.namespace(values).reshape(values, self.shape)
        whole = _PixelImages(dataclasses.replace(self.scan, rows=None), self.shape[0])
        whole.merge(self.state())
        return whole.result()

    def _joined(self) -> Any:
        """Return the values of its own rows, (P, positions)."""
        sample = self.scan.sample
        assert sample is not None, "only frames that are not on the host come in pieces"
        xp = arrays.namespace(sample)
        number = np.concatenate([p for p, _ in self.pieces]) if self.pieces else np.zeros(0, np.int64)
        source = np.full(len(self.seen), len(number))  # the column after the last holds the value of unseen positions
        source[number] = np.arange(len(number))
        kind = sample.dtype
        fill = float("nan") if xp.isdtype(kind, "real floating") else 0
        empty = xp.full((self.shape[0], 1), fill, dtype=kind, device=arrays.device(sample))
        values = xp.concat([*(v for _, v in self.pieces), empty], axis=1)
        return xp.take(values, arrays.from_numpy(source, values), axis=1)


def bright_field_stacks(
    cube: DataCube,
    pixels: np.ndarray,
    group: int,
    *,
    memory: int | float | str | None = None,
    held: int = 0,
    others: Mapping[str, Reduction] | None = None,
    found: dict[str, Any] | None = None,
    **sweep_options: Any,
) -> Iterator[tuple[slice, Any]]:
    """Yield images of pixels in parts, in as many passes over the scan as the memory needs.

    Parameters
    ----------
    cube : DataCube
    pixels : (P,) int
        Pixel numbers qx · Qy + qy.
    group : int
        The size of every part but the last is a multiple of it, so that work done in groups does not depend on memory.
    memory : int or str, optional
        Bytes that may be held by the stack and the sweep that fills it together.
    held : int
        Bytes that the caller holds for each image of a part. They count against `memory`, too.
    others : mapping of str to Reduction, optional
        Reductions that share the first pass. Their results are put into `found`.
    found : dict, optional
    **sweep_options
        Options of `gpu4d.sweep`.

    Yields
    ------
    slice, (p, Rx, Ry) array
        Which of `pixels`, and their images, in the native dtype and on the device of the sweep. If the scan is an array of another
        library than NumPy, they are float32, and are copied from it directly, one group at a time.

    Raises
    ------
    MemoryBudgetError
        Not even one group fits.
    """
    rx, ry, qx, qy = cube.shape
    others, found = dict(others or {}), {} if found is None else found
    array = getattr(cube.source, "array", None)
    if array is not None and not isinstance(array, np.ndarray) and sweep_options.get("where") is None:
        if others:
            found |= sweep(cube, others, memory=memory, **sweep_options)
        frames = arrays.namespace(array).reshape(array, (rx * ry, qx, qy))
        for first in range(0, len(pixels), group):
            part = slice(first, min(first + group, len(pixels)))
            images = gather_pixels(frames, arrays.from_numpy(pixels[part], array), real=True)
            yield part, arrays.namespace(images).reshape(images, (part.stop - part.start, rx, ry))
        return
    place = processors_for(cube, sweep_options.get("device", "auto"))[0]
    on_workers = sweep_options.get("client") is not None
    there = place[0].copies and len(place) == 1 and not on_workers  # True: the stack is made on a device and stays there
    free = place[0].free_memory() if there else available_memory()
    budget = parse_memory(memory) if memory is not None else free // 2 if there else default_budget()
    each = rx * ry * itemsize(cube.dtype) * (4 if there else 2) + held  # copies: two in the sweep, one in scan order, one for the work
    fits = min(budget, free) // each
    if fits < min(group, len(pixels)):
        raise MemoryBudgetError("a bright-field stack", each * min(group, len(pixels)), free, budget)
    fits = fits // group * group or len(pixels)
    for first in range(0, len(pixels), fits):
        part = slice(first, min(first + fits, len(pixels)))
        wanted = {"stack": BrightFieldStack(pixels[part]), **others}
        results = sweep(cube, wanted, memory=memory, keep="device" if there else None, **sweep_options)
        stack, others = results.pop("stack"), {}
        found |= results
        yield part, stack
        del stack, results  # freed before the next pass fills another
