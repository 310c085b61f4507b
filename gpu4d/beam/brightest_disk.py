"""Measure the origin from the brightest disk of every position."""

from __future__ import annotations

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.beam.origin import Origin
from gpu4d.beam.surface import fit_surface
from gpu4d.data.arguments import OriginLike, origins, positions_of
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError


def brightest_disk(
    disks: PointListArray,
    *,
    guess: OriginLike | None = None,
    radius: float | None = None,
    order: int = 1,
    robust: bool = True,
    where: ArrayLike | None = None,
) -> Origin:
    """Find the brightest disk near the unscattered beam at every position, and a surface through all of them.

    The first surface goes through the brightest disk of every position, or is the guess. Two rounds follow. In each round the brightest
    disk within `radius` of the surface is taken at every position, and the surface is fitted again. So the descan may be larger than the
    distance of the disks, and bright Bragg disks at some positions have no effect.

    Parameters
    ----------
    disks : PointListArray
        Of a scan (Rx, Ry), with fields ``qx, qy`` (px) and ``intensity``.
    guess : pair, (Rx, Ry, 2) array or Origin, optional
        Approximate position of the beam, px. None: from the brightest disks.
    radius : float, optional
        Largest distance of the disk from the surface, px. None: half the median distance from the unscattered disk to its
        nearest neighbour.
    order : int
        Of the surface: 0 constant, 1 plane, 2 quadratic.
    robust : bool
        False is plain least squares.
    where : (Rx, Ry) bool array, optional
        Positions to use.

    Raises
    ------
    InputError
        No position has a disk near the guess.
    """
    if len(disks.shape) != 2:
        raise InputError(f"the disks are of {disks.shape} positions: need a scan of two dimensions, (Rx, Ry)")
    qx, qy, light = (arrays.to_numpy(disks.flat(f)).astype(np.float64) for f in ("qx", "qy", "intensity"))
    light = np.where(np.isfinite(light) & np.isfinite(qx) & np.isfinite(qy), light, -np.inf)
    offsets, used = arrays.to_numpy(disks.offsets), positions_of(where, disks.shape)
    if guess is None:
        first = _brightest(qx, qy, light, offsets, disks.shape)
        found = Origin.through(first, fit_surface(first, min(order, 1), True, used))
    else:
        start = np.broadcast_to(origins(guess, disks.shape, "guess"), (*disks.shape, 2))
        found = Origin(np.full_like(start, np.nan), start, np.zeros(2), np.zeros(disks.shape, bool), "guess")
    final = guess is None and order <= 1 and robust  # a surface of the requested kind
    for _ in range(2):
        at = np.repeat(found.fitted.reshape(-1, 2), np.diff(offsets), axis=0)
        square = (qx - at[:, 0]) ** 2 + (qy - at[:, 1]) ** 2
        reach = _half_spacing(square, offsets) if radius is None else float(radius)
        measured = _brightest(qx, qy, np.where(square <= reach**2, light, -np.inf), offsets, disks.shape)
        if not np.isfinite(measured[used]).any():
            raise InputError(
                f"no position has a disk within {reach:.3g} px of the guess: give guess= (px) near the unscattered beam, a larger radius=, "
                "or find more disks with a lower threshold"
            )
        if final and np.array_equal(measured, found.measured, equal_nan=True):
            break  # the same disks give the same surface, which selects the same disks: converged
        found, final = Origin.through(measured, fit_surface(measured, order, robust, used)), True
    return found


def _best(ufunc: np.ufunc, values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the largest or smallest value of each position, and the number of the last point that has it."""
    counts = np.diff(offsets)
    some = np.flatnonzero(counts)
    best = ufunc.reduceat(values, offsets[some]) if some.size else np.zeros(0)
    points = np.flatnonzero(values == np.repeat(best, counts[some]))
    number = np.zeros(some.size, int)
    number[np.searchsorted(offsets[some], points, side="right") - 1] = points  # NumPy assigns in order: the last value stays
    return best, number


def _brightest(qx: np.ndarray, qy: np.ndarray, light: np.ndarray, offsets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the point with the highest intensity at each position, or NaN if there is none."""
    out = np.full((int(np.prod(shape)), 2), np.nan)
    best, number = _best(np.maximum, light, offsets)
    lit = np.isfinite(best)
    at = np.flatnonzero(np.diff(offsets))[lit]
    out[at, 0], out[at, 1] = qx[number[lit]], qy[number[lit]]
    return out.reshape(*shape, 2)


def _half_spacing(square: np.ndarray, offsets: np.ndarray) -> float:
    """Return half the median distance of the second nearest disk, from squared distances. Infinite if no position has two disks."""
    square = np.where(np.isfinite(square), square, np.inf)
    square[_best(np.minimum, square, offsets)[1]] = np.inf
    second = _best(np.minimum, square, offsets)[0]
    second = second[np.isfinite(second)]
    return float(np.median(np.sqrt(second))) / 2 if second.size else np.inf
