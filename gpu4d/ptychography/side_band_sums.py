"""Sum the side bands of all bright-field pixels, group by group, and find the positions that have no pattern."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.errors import InputError
from gpu4d.ptychography.overlap_geometry import Overlaps
from gpu4d.ptychography.pixel_groups import PixelSource, filled, group_size, in_order
from gpu4d.ptychography.ssb_sum import SSBSum, ssb_sum


@dataclass(frozen=True)
class _Geometry:
    """Arrays of the overlaps, moved once to the device of the data."""

    at: Any
    rows: Any
    columns: Any
    pupil: Any
    bad: Any

    @classmethod
    def beside(cls, stack: Any, overlaps: Overlaps, bad: np.ndarray | None) -> _Geometry:
        parts = (overlaps.at, overlaps.rows, overlaps.columns, overlaps.pupil, bad)
        return cls(*(None if part is None else arrays.from_numpy(part, stack) for part in parts))


def side_band_sums(
    source: PixelSource, overlaps: Overlaps, mode: str, warnings: list[str], missing: np.ndarray | None = None
) -> tuple[SSBSum, np.ndarray | None, float]:
    """Return side-band sums of all pixels, positions that were filled, and |Ψ₀|² per pixel in the middle of the disk.

    `missing` are positions of which it is known before that they have no pattern.
    """
    sums, counts = _one_round(source, overlaps, mode, missing)
    bad = without_pattern(counts, missing)
    if bad.any() and (missing is None or not np.array_equal(bad, missing)):
        sums, counts = _one_round(source, overlaps, mode, bad)
    return sums, reported(bad, warnings), incident_counts(counts, bad, overlaps)


def without_pattern(counts: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """Return the positions (Rx, Ry) that have no counts or NaN in the disk, and those that were missing before.

    Raises
    ------
    InputError
        All of them.
    """
    bad = ~(np.isfinite(counts) & (counts > 0))
    if missing is not None:
        bad |= missing
    if bad.all():
        raise InputError("no position has counts in the bright-field disk: check calibration.origin (px) and the radius of the disk")
    return bad


def reported(bad: np.ndarray, warnings: list[str]) -> np.ndarray | None:
    """Warn of positions without a pattern. Return them, or None if there are none."""
    if not bad.any():
        return None
    warnings.append(
        f"{int(bad.sum())} of {bad.size} positions have no counts or NaN in the disk: the mean is used there, and their phase is NaN"
    )
    return bad


def incident_counts(counts: np.ndarray, bad: np.ndarray, overlaps: Overlaps) -> float:
    """Return |Ψ₀|² per pixel in the middle of the disk, from the counts of the disk at every position."""
    return float(counts[~bad].mean() / overlaps.intensity.sum())


def _one_round(source: PixelSource, overlaps: Overlaps, mode: str, bad: np.ndarray | None) -> tuple[SSBSum, np.ndarray]:
    """Return sums over groups of pixels, in order, and the counts of every position (Rx, Ry) on the host."""
    total: SSBSum | None = None
    counts: Any = None
    for part, here in _group_sums(source, overlaps, mode, bad):
        total = part if total is None else SSBSum(total.overlap + part.overlap, total.weight + part.weight)
        counts = here if counts is None else counts + here
    assert total is not None
    return total, arrays.to_numpy(counts)


def _group_sums(source: PixelSource, overlaps: Overlaps, mode: str, bad: np.ndarray | None) -> Iterator[tuple[SSBSum, Any]]:
    """Yield sums and counts for each group of pixels."""
    group = group_size(source)
    geometry: _Geometry | None = None
    for part, stack in source.parts(group):
        if geometry is None:
            geometry = _Geometry.beside(stack, overlaps, bad)
        pieces = [stack[i : min(i + group, stack.shape[0]), :, :] for i in range(0, stack.shape[0], group)]
        firsts = range(part.start, part.stop, group)
        work = functools.partial(_sums_of_group, overlaps=overlaps, geometry=geometry, mode=mode)
        yield from in_order(source, work, pieces, firsts)


def _sums_of_group(images: Any, first: int, *, overlaps: Overlaps, geometry: _Geometry, mode: str) -> tuple[SSBSum, Any]:
    """Return the sums of one group of bright-field images, and their counts per position."""
    xp = arrays.namespace(images)
    images = xp.astype(images, xp.float32, copy=False)
    if geometry.bad is not None:
        images = filled(xp, images, geometry.bad)
    at = geometry.at[first : first + images.shape[0], :]
    options = {"radius": overlaps.radius, "pupil": geometry.pupil, "center": overlaps.origin, "chi": overlaps.chi, "mode": mode}
    return ssb_sum(fft.rfft2(images), at, geometry.rows, geometry.columns, **options), xp.sum(images, axis=0, dtype=xp.float64)
