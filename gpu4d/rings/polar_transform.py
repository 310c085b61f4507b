"""Operations on patterns in polar-elliptical coordinates: the transform about each pattern's origin, and sums over rings."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayT
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation


def problem(
    patterns: Any,
    origins: Any,
    *,
    n_theta: int = 1,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: Any = None,
) -> str | None:
    """Say what is wrong with the arguments of a polar transform; None where nothing is."""
    shape = tuple(patterns.shape)
    if len(shape) < 2 or 0 in shape[-2:]:
        return f"patterns have shape {shape}, need (..., Qx, Qy) with pixels"
    if tuple(origins.shape) not in ((2,), (*shape[:-2], 2)):
        return f"origins are {tuple(origins.shape)}, the patterns {shape}: need (2,) or one (qx, qy) a pattern, {(*shape[:-2], 2)}"
    if mask is not None and tuple(mask.shape) != shape[-2:]:
        return f"mask is {tuple(mask.shape)}, the patterns are {shape[-2:]}: need one bool per detector pixel"
    if n_theta < 1 or (n_r is not None and n_r < 1) or (r_max is not None and not 0 < r_max < math.inf):
        return f"n_theta={n_theta}, n_r={n_r}, r_max={r_max}: need positive numbers"
    if ellipse is not None and not ellipse[0] >= ellipse[1] > 0:
        return f"ellipse={tuple(ellipse)}: need (a, b, theta) with a ≥ b > 0"
    return None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.polar_transform", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.polar_transform", KERNEL_PIXELS, frame=KERNEL_FRAME, check=problem),
)
def polar_transform(
    patterns: ArrayT,
    origins: Array,
    /,
    *,
    n_theta: int = 180,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: Array | None = None,
) -> ArrayT:
    """Interpolate patterns on a polar-elliptical grid about each one's origin, as `gpu4d.polar_transform`, which describes it.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
    origins : (..., 2) or (2,) float
        Detector pixels.
    n_theta, n_r, r_max, ellipse, mask
        As in `gpu4d.polar_transform`; without an ellipse the grid is round.

    Returns
    -------
    (..., n_theta, n_r) float32, float64 for float64 patterns

    Examples
    --------
    >>> polar_transform(np.full((8, 8), 3.0), np.array([3.5, 3.5]), n_theta=2, r_max=2).tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    xp = _namespace(patterns, origins, r_max=r_max, n_r=n_r, n_theta=n_theta, ellipse=ellipse, mask=mask)
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    frames, centre = xp.reshape(patterns, (-1, nx, ny)), per_pattern(patterns, origins)
    n, where = frames.shape[0], arrays.device(patterns)
    direction = arrays.from_numpy(directions(n_theta, ellipse), centre)
    radius = arrays.from_numpy(radii(n_r, r_max), centre)
    known = xp.all(xp.isfinite(centre), axis=-1)
    centre = xp.where(known[:, None], centre, xp.zeros_like(centre))

    low, part = [], []  # the pixel below a sample, and how far the sample is beyond it
    for axis, size in ((0, nx), (1, ny)):
        at = centre[:, axis][:, None, None] + radius[None, None, :] * direction[:, axis][None, :, None]
        at = xp.clip(at, -2.0, size + 1.0)
        floor = xp.floor(at)
        low.append(xp.astype(floor, xp.int64))
        part.append(at - floor)
    flat = arrays.as_float64(xp.reshape(frames, (n, nx * ny)))
    allowed = xp.ones((nx * ny,), dtype=xp.bool, device=where) if mask is None else xp.reshape(xp.astype(mask, xp.bool), (nx * ny,))
    total, weights, nearest = xp.zeros_like(part[0]), xp.zeros_like(part[0]), known[:, None, None]
    for a in (0, 1):
        for b in (0, 1):
            x, y = low[0] + a, low[1] + b
            inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
            index = xp.reshape(xp.where(inside, x * ny + y, xp.zeros_like(x)), (n, n_theta * n_r))
            value = xp.reshape(arrays.gather(flat, index), part[0].shape)
            inside = inside & xp.reshape(xp.take(allowed, xp.reshape(index, (-1,))), value.shape) & xp.isfinite(value)
            weight = (part[0] if a else 1.0 - part[0]) * (part[1] if b else 1.0 - part[1])
            weight = xp.where(inside, weight, xp.zeros_like(weight))
            total = total + weight * xp.where(inside, value, xp.zeros_like(value))
            weights = weights + weight
            here = ((part[0] >= 0.5) if a else (part[0] < 0.5)) & ((part[1] >= 0.5) if b else (part[1] < 0.5))
            nearest = nearest & (inside | ~here)
    polar = xp.where(nearest, total / xp.where(nearest, weights, xp.ones_like(weights)), xp.full_like(total, math.nan))
    polar = polar if patterns.dtype == xp.float64 else xp.astype(polar, xp.float32)
    return xp.reshape(polar, (*batch, n_theta, n_r))


@operation(
    cpu=Twin("gpu4d.cpu_fallback.polar_transform", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.polar_transform", KERNEL_PIXELS, frame=KERNEL_FRAME, check=problem),
)
def radial_sums(
    patterns: ArrayT,
    origins: Array,
    /,
    *,
    n_r: int | None = None,
    r_max: float | None = None,
    ellipse: tuple[float, float, float] | None = None,
    mask: Array | None = None,
) -> tuple[ArrayT, ArrayT]:
    """Sum the pixels in every ring about each pattern's origin, and count them.

    A pixel belongs to ring ⌊r n_r / r_max⌋ with r = |M (q − origin)|, M as in `gpu4d.polar_transform`. Every pixel goes into one
    ring as a whole, so that sums of counts are exact.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
    origins : (..., 2) or (2,) float
        Detector pixels.
    n_r, r_max, ellipse, mask
        As in `gpu4d.polar_transform`; without an ellipse the rings are round.

    Returns
    -------
    sums : (..., n_r) int64 for integer patterns of up to 32 bits, else float64
    pixels : (..., n_r) int64
        Masked pixels and those not finite are left out of both; both are 0 where the origin is not finite.

    Raises
    ------
    InputError
        As `gpu4d.polar_transform`.

    Examples
    --------
    >>> import numpy as np
    >>> sums, pixels = radial_sums(np.ones((5, 5), "uint8"), np.array([2.0, 2.0]), r_max=2)
    >>> sums.tolist(), pixels.tolist()
    ([1, 8], [1, 8])
    """
    xp = _namespace(patterns, origins, r_max=r_max, n_r=n_r, ellipse=ellipse, mask=mask)
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    values, centre = arrays.as_sum_dtype(xp.reshape(patterns, (-1, nx, ny))), per_pattern(patterns, origins)
    n, where = values.shape[0], arrays.device(values)
    known = xp.all(xp.isfinite(centre), axis=-1)
    centre = xp.where(known[:, None], centre, xp.zeros_like(centre))
    (xx, xy), (yx, yy) = matrix(ellipse).tolist()
    dx = xp.arange(nx, dtype=xp.float64, device=where)[None, :, None] - centre[:, 0][:, None, None]
    dy = xp.arange(ny, dtype=xp.float64, device=where)[None, None, :] - centre[:, 1][:, None, None]
    u, v = xx * dx + xy * dy, yx * dx + yy * dy
    r = xp.sqrt(u * u + v * v) * (n_r / r_max)
    counts = known[:, None, None] & (r < n_r) & xp.isfinite(values)
    if mask is not None:
        counts = counts & xp.astype(mask, xp.bool)
    ring = xp.astype(xp.floor(xp.where(counts, r, xp.zeros_like(r))), xp.int64)
    ring = ring + n_r * xp.arange(n, dtype=xp.int64, device=where)[:, None, None]
    ring = xp.reshape(xp.where(counts, ring, xp.full_like(ring, -1)), (-1,))
    clean = xp.where(counts, values, xp.zeros_like(values))
    sums = arrays.scatter_add(xp.reshape(clean, (-1,)), ring, n * n_r)
    pixels = arrays.scatter_add(xp.ones(ring.shape, dtype=xp.float64, device=where), ring, n * n_r)
    sums = xp.astype(sums, xp.int64) if arrays.is_integer(values) else sums
    return xp.reshape(sums, (*batch, n_r)), xp.reshape(xp.astype(pixels, xp.int64), (*batch, n_r))


def _namespace(patterns: Any, origins: Any, *, mask: Any, **grid: Any) -> Any:
    """Return the namespace that the arrays share, or raise InputError if `problem` finds one."""
    xp = arrays.namespace(*(a for a in (patterns, origins, mask) if a is not None))
    if (wrong := problem(patterns, origins, mask=mask, **grid)) is not None:
        raise InputError(wrong)
    return xp


def radii(n_r: int, r_max: float) -> np.ndarray:
    """Return the middle of every ring, pixels.

    Parameters
    ----------
    n_r : int
        Number of rings.
    r_max : float
        Outer radius of the last ring, pixels.

    Returns
    -------
    (n_r,) float64

    Examples
    --------
    >>> radii(4, 8.0).tolist()
    [1.0, 3.0, 5.0, 7.0]
    """
    return (np.arange(n_r) + 0.5) * (r_max / n_r)


def radial_grid(shape: tuple[int, ...], n_r: int | None, r_max: float | None) -> tuple[int, float]:
    """Return the number of rings and their outer radius in pixels: what is given, else from the shape of the detector."""
    r_max = min(shape) / 2 if r_max is None else float(r_max)
    return (math.ceil(r_max) if n_r is None else int(n_r)), r_max


def matrix(ellipse: tuple[float, float, float] | None) -> np.ndarray:
    """Return the matrix (2, 2) that makes the ellipse a circle; the identity for None."""
    return np.eye(2) if ellipse is None else ellipse_matrix(ellipse)


def directions(n_theta: int, ellipse: tuple[float, float, float] | None) -> np.ndarray:
    """Return the step on the detector, (n_theta, 2), that one pixel of radius makes at every angle. It is kept, and must not be changed."""
    return _directions(n_theta, None if ellipse is None else tuple(ellipse))


@functools.lru_cache(maxsize=32)
def _directions(n_theta: int, ellipse: tuple[float, float, float] | None) -> np.ndarray:
    theta = 2 * np.pi * np.arange(n_theta) / n_theta
    return np.stack([np.cos(theta), np.sin(theta)], axis=-1) @ np.linalg.inv(matrix(ellipse)).T


def per_pattern(patterns: Any, origins: Any) -> Any:
    """Return one origin for every pattern, (n, 2) float64."""
    xp = arrays.namespace(patterns, origins)
    if xp is arrays.NUMPY and patterns.ndim == origins.ndim + 1:  # one origin for each already, the usual call
        return origins.reshape(-1, 2).astype(np.float64, copy=False)
    return xp.reshape(xp.broadcast_to(arrays.as_float64(origins), (*patterns.shape[:-2], 2)), (-1, 2))
