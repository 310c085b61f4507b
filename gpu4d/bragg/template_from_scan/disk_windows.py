"""Cut windows around disks out of a sample of a scan's patterns."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.bragg.find_bragg_disks import find_bragg_disks
from gpu4d.bragg.template_from_scan.shared_shape import Windows
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.arguments import positions_of
from gpu4d.data.sample import patterns_at, spread_evenly
from gpu4d.errors import InputError
from gpu4d.probe.template_kernel import Template

MOST_PIXELS = 4e6  # pixels of all windows together, and twice as many while they are cut; above, disks are left out evenly
FRAMES = 64e6  # bytes of patterns read at once
COVERED = 0.8  # part of a window that must lie on valid pixels


def windows_of(
    given: Any, disks: PointListArray | None, start: Template, reach: float, patterns: int, where: Any
) -> tuple[Windows, int, int]:
    """Return windows of the disks that are isolated and lie on the detector, the number of all disks, and that of isolated disks."""
    given = arrays.unwrapped(given)
    cube = given if isinstance(given, DataCube) else None
    if cube is None and (not arrays.is_array(given) or len(given.shape) < 2):
        what = getattr(given, "shape", type(given).__name__)
        raise InputError(f"patterns is {what}, need a DataCube or an array (..., Qx, Qy)")
    shape = cube.scan_shape if cube is not None else tuple(given.shape[:-2]) or (1,)
    detector = cube.detector_shape if cube is not None else tuple(given.shape[-2:])
    if detector != start.shape:
        raise InputError(f"the patterns have {detector} pixels, the template {start.shape}: make the template for this detector")
    allowed = positions_of(where, shape)
    points = None if disks is None else disks.to_host()
    if points is not None:
        if points.shape != shape:
            raise InputError(f"the disks are of {points.shape} patterns, the data of {shape}: find them in the same data")
        allowed = allowed & (points.counts > 0)
    number = spread_evenly(np.flatnonzero(allowed), patterns)
    half = ceil(reach)
    offsets = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    pixels = offsets[np.hypot(*offsets.T) <= reach]
    mask = np.ones(detector, bool) if cube is None or cube.detector_mask is None else cube.detector_mask
    kept, seen, alone = _Thinned(len(pixels)), 0, 0
    for some in _batches(number, detector):
        at = list(zip(*(axis.tolist() for axis in np.unravel_index(some, shape))))
        frames = patterns_at(given, at)
        found = _found(frames, start, mask) if points is None else [points[position] for position in at]
        for frame, list_ in zip(frames, found):
            single = _alone(list_.qx, list_.qy, reach + start.radius + start.edge)
            seen, alone = seen + len(single), alone + int(single.sum())
            kept.add(_cut(frame, mask, np.asarray(list_.qx)[single], np.asarray(list_.qy)[single], pixels, half))
    counts, weight, x, y = kept.all()
    return Windows(counts, weight, pixels, x, y), seen, alone


class _Thinned:
    """Collection of windows with a limited number of pixels.

    Whenever the windows have more than twice `MOST_PIXELS`, every second one is left out.
    """

    def __init__(self, pixels: int):
        self.none: tuple[np.ndarray, ...] = (*[np.zeros((0, pixels), np.float32)] * 2, *[np.zeros(0)] * 2)
        self.parts, self.pixels, self.stride, self.number, self.held = [self.none], pixels, 1, 0, 0

    def add(self, part: tuple[np.ndarray, ...]) -> None:
        """Add more windows: their counts, weights, x and y."""
        first = -self.number % self.stride
        self.parts.append(tuple(v[first :: self.stride].copy() for v in part))  # a view would keep all windows in memory
        self.number, self.held = self.number + len(part[0]), self.held + len(self.parts[-1][0])
        while self.held * self.pixels > 2 * MOST_PIXELS and self.held > 1:
            self._drop(2)

    def _drop(self, step: int) -> None:
        """Keep one of every `step` windows."""
        self.parts = [tuple(np.concatenate(c)[::step].copy() for c in zip(*self.parts))]
        self.stride, self.held = self.stride * step, len(self.parts[0][0])

    def all(self) -> tuple[np.ndarray, ...]:
        """Return counts, weights, x and y of the windows, with at most `MOST_PIXELS` pixels."""
        self._drop(max(1, ceil(self.held * self.pixels / MOST_PIXELS)))
        return self.parts[0]


def _batches(number: np.ndarray, detector: tuple[int, int]) -> Iterator[np.ndarray]:
    """Split numbers of positions into parts whose patterns have at most `FRAMES` bytes."""
    some = max(1, int(FRAMES / (8 * detector[0] * detector[1])))
    return (number[i : i + some] for i in range(0, len(number), some))


def _found(frames: np.ndarray, start: Template, mask: np.ndarray) -> list[Any]:
    """Find the disks of frames with the template. Return one list for each frame."""
    return list(find_bragg_disks(DataCube(frames[None], detector_mask=mask), start, refine="correlation", progress=False).to_host())


def _alone(x: np.ndarray, y: np.ndarray, spacing: float) -> np.ndarray:
    """Return True for points without another one nearer than `spacing`."""
    near = np.hypot(x[:, None] - x, y[:, None] - y) < spacing
    return near.sum(1) == 1


def _cut(frame: np.ndarray, mask: np.ndarray, x: np.ndarray, y: np.ndarray, pixels: np.ndarray, half: int) -> tuple[np.ndarray, ...]:
    """Cut the windows of disks out of a frame. Return counts, weights, and positions relative to the middle pixel."""
    i, j = (np.rint(v).astype(int) for v in (x, y))
    ok = (i >= half) & (j >= half) & (i + half < frame.shape[0]) & (j + half < frame.shape[1])
    rows, columns = i[ok][:, None] + pixels[:, 0], j[ok][:, None] + pixels[:, 1]
    weight = mask[rows, columns].astype(np.float32)
    counts = np.where(weight > 0, frame[rows, columns], 0).astype(np.float32)
    good = np.isfinite(counts).all(1) & (weight.mean(1) >= COVERED)
    return counts[good], weight[good], (x - i)[ok][good], (y - j)[ok][good]
