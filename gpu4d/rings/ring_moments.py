"""Operation: number, sum, squares and median of the pixels of every ring about each pattern's origin."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayT, ReturnedArray
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, dtype_name, operation
from gpu4d.rings.polar_transform import per_pattern, radial_grid
from gpu4d.rings.polar_transform import problem as grid_problem

NARROW = ("bool", "uint8", "uint16", "int8", "int16")  # squares of so few bits add up to less than 2**63 over any detector


class _RingMoments(NamedTuple):
    pixels: ReturnedArray
    sums: ReturnedArray
    squares: ReturnedArray
    medians: ReturnedArray


class RingMoments(_RingMoments, Storable, stored="pixels sums squares medians: ... ring"):
    """What the pixels of every ring add up to, pattern by pattern.

    Attributes
    ----------
    pixels : (..., n_r) int64
        Pixels that count. 0 where a ring has none, and where the origin is not finite.
    sums : (..., n_r) int64 for integer patterns of up to 32 bits, else float64
    squares : (..., n_r) int64 for integer patterns of up to 16 bits, else float64
        Σ I² over the pixels of the ring. Squares of 32-bit counts may pass 64 bits, so they are added in double precision.
    medians : (..., n_r) float64
        Median of the pixels, the mean of the middle two of an even number. NaN where a ring has no pixel. (..., 0) if not
        asked for.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.pixels.shape))
        return f"RingMoments({shape} rings{', with medians' if self.medians.shape[-1] else ''})"


def problem(
    patterns: Any,
    origins: Any,
    *,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: Any = None,
    mask: Any = None,
    median: bool = False,
) -> str | None:
    """Say what is wrong with the arguments of `ring_moments`; None where nothing is."""
    if (wrong := grid_problem(patterns, origins, n_r=n_r, r_max=r_max, mask=mask)) is not None or ellipse is None:
        return wrong
    batch, given = tuple(patterns.shape[:-2]), tuple(ellipse.shape)
    if given not in ((3,), (2, 2), (*batch, 3), (*batch, 2, 2)):
        need = f"(3,) or {(*batch, 3)} for (a, b, theta), (2, 2) or {(*batch, 2, 2)} for matrices"
        return f"ellipse is {given}, the patterns {tuple(patterns.shape)}: need {need}"
    if given[-1] == 3:
        xp = arrays.namespace(ellipse)
        a, b, theta = (arrays.as_float64(ellipse)[..., i] for i in range(3))
        known = xp.isfinite(a) & xp.isfinite(b) & xp.isfinite(theta)
        if bool(xp.any(known & ~((a >= b) & (b > 0)))):
            return "an ellipse (a, b, theta) has not a ≥ b > 0"
    return None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.ring_moments", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.ring_moments", KERNEL_PIXELS, frame=KERNEL_FRAME, check=problem),
)
def ring_moments(
    patterns: ArrayT,
    origins: Array,
    /,
    *,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: Array | None = None,
    mask: Array | None = None,
    median: bool = False,
) -> RingMoments:
    """Count the pixels in every ring about each pattern's origin, and add their values and squares.

    A pixel belongs to ring ⌊r n_r / r_max⌋ with r = |M (q − origin)|, as in `gpu4d.rings.radial_sums`. Every pixel of the detector
    counts, up to its edges and corners: a ring that leaves the detector has the pixels that are on it.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
    origins : (..., 2) or (2,) float
        Detector pixels.
    n_r : int, optional
        Number of rings: of 1 px by default.
    r_max : float, optional
        Outer radius of the last ring, pixels; half of the shorter side of the detector by default. Half of its diagonal takes in the
        corners.
    ellipse : (3,) or (..., 3), or (2, 2) or (..., 2, 2) float, optional
        (a, b, theta) as `Calibration.ellipse`, or the matrix M that makes the ellipse a circle, v_round = M v_detector. One for all
        patterns, or one for each. Without an ellipse the rings are round.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts.
    median : bool
        Select the medians too.

    Returns
    -------
    RingMoments
        Pixels, sums, squares, medians. Masked pixels and those not finite are left out of all. All are 0 (NaN for medians) where the
        origin or the ellipse of a pattern is not finite.

    Raises
    ------
    InputError
        Shapes do not fit, a number is not positive, or an ellipse has not a ≥ b > 0.

    Examples
    --------
    >>> import numpy as np
    >>> found = ring_moments(np.arange(25, dtype="uint8").reshape(5, 5), (2.0, 2.0), r_max=2, median=True)
    >>> found.pixels.tolist(), found.sums.tolist(), found.squares.tolist(), found.medians.tolist()
    ([1, 8], [12, 96], [144, 1308], [12.0, 12.0])
    """
    xp = arrays.namespace(*(a for a in (patterns, origins, ellipse, mask) if a is not None))
    if (wrong := problem(patterns, origins, n_r=n_r, r_max=r_max, ellipse=ellipse, mask=mask)) is not None:
        raise InputError(wrong)
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    exact = squares_are_exact(patterns.dtype)
    values, centre = arrays.as_sum_dtype(xp.reshape(patterns, (-1, nx, ny))), per_pattern(patterns, origins)
    n, where = values.shape[0], arrays.device(values)
    m = matrices(patterns, centre, ellipse)
    known = xp.all(xp.isfinite(centre), axis=-1)
    centre = xp.where(known[:, None], centre, xp.zeros_like(centre))
    dx = xp.arange(nx, dtype=xp.float64, device=where)[None, :, None] - centre[:, 0][:, None, None]
    dy = xp.arange(ny, dtype=xp.float64, device=where)[None, None, :] - centre[:, 1][:, None, None]
    xx, xy, yx, yy = (m[:, i, j][:, None, None] for i in (0, 1) for j in (0, 1))
    u, v = xx * dx + xy * dy, yx * dx + yy * dy
    r = xp.sqrt(u * u + v * v) * (n_r / r_max)
    counts = known[:, None, None] & (r < n_r) & xp.isfinite(values)  # a radius that is not a number is not less
    if mask is not None:
        counts = counts & xp.astype(mask, xp.bool)
    ring = xp.astype(xp.floor(xp.where(counts, r, xp.zeros_like(r))), xp.int64)
    ring = ring + n_r * xp.arange(n, dtype=xp.int64, device=where)[:, None, None]
    ring = xp.reshape(xp.where(counts, ring, xp.full_like(ring, -1)), (-1,))
    clean = xp.reshape(xp.where(counts, values, xp.zeros_like(values)), (-1,))
    wide = clean if exact else arrays.as_float64(clean)
    pixels = arrays.scatter_add(xp.ones(ring.shape, dtype=xp.float64, device=where), ring, n * n_r)
    pixels, sums = xp.astype(pixels, xp.int64), arrays.scatter_add(clean, ring, n * n_r)
    squares = arrays.scatter_add(wide * wide, ring, n * n_r)
    sums = xp.astype(sums, xp.int64) if arrays.is_integer(values) else sums
    squares = xp.astype(squares, xp.int64) if exact else squares
    medians = _medians(arrays.as_float64(clean), ring, pixels) if median else xp.zeros((0,), dtype=xp.float64, device=where)
    pixels, sums, squares = (xp.reshape(a, (*batch, n_r)) for a in (pixels, sums, squares))
    return RingMoments(pixels, sums, squares, xp.reshape(medians, (*batch, n_r if median else 0)))


def _medians(values: Any, ring: Any, pixels: Any) -> Any:
    """Return the median of every ring from all pixels, their rings (−1: none), and the number of each ring's pixels."""
    xp = arrays.namespace(values)
    order = xp.argsort(values, stable=True)
    order = xp.take(order, xp.argsort(xp.take(ring, order), stable=True))  # by ring, and in a ring by value; those without a ring first
    if not values.shape[0] or not pixels.shape[0]:
        return xp.full(pixels.shape, math.nan, dtype=xp.float64, device=arrays.device(values))
    first = values.shape[0] - xp.sum(pixels) + xp.cumulative_sum(pixels) - pixels
    zero = xp.zeros_like(pixels)
    at = [xp.where(pixels > 0, first + half // 2, zero) for half in (pixels - 1, pixels)]
    low, high = (xp.take(values, xp.take(order, i)) for i in at)
    return xp.where(pixels > 0, 0.5 * low + 0.5 * high, xp.full_like(low, math.nan))


def squares_are_exact(dtype: Any) -> bool:
    """Return True if sums of squares over a ring are whole numbers, int64."""
    return dtype_name(dtype) in NARROW


def matrices(patterns: Any, centre: Any, ellipse: Any) -> Any:
    """Return the matrix of every pattern that makes its ellipse a circle, (n, 2, 2) float64, beside the origins (n, 2)."""
    xp = arrays.namespace(centre)
    n, where = centre.shape[0], arrays.device(centre)
    if ellipse is None:
        return xp.broadcast_to(xp.eye(2, dtype=xp.float64, device=where), (n, 2, 2))
    given = arrays.as_float64(ellipse)
    if given.shape[-1] == 3:
        a, b, theta = (given[..., i] for i in range(3))
        c, s, less = xp.cos(theta), xp.sin(theta), 1.0 - b / a
        rows = [xp.stack([1.0 - less * c * c, -less * c * s], axis=-1), xp.stack([-less * c * s, 1.0 - less * s * s], axis=-1)]
        given = xp.stack(rows, axis=-2)
    return xp.reshape(xp.broadcast_to(given, (*patterns.shape[:-2], 2, 2)), (n, 2, 2))
