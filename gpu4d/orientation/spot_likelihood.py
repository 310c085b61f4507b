"""Compute how much expected disks explain of the counts in patterns: an operation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

EDGE = 1.0  # px: width of a disk's edge
BORDER = 1.6  # px beyond the radius: the disk is below 1 % there
LEAST_BACKGROUND = 1e-4  # counts/px: without any background a single stray electron would decide


@operation(cuda=Twin("gpu4d.kernels.spot_likelihood", KERNEL_PIXELS, frame=KERNEL_FRAME), cpu=Twin("gpu4d.cpu_fallback.spot_likelihood"))
def spot_likelihood(
    patterns: Any, usable: Any, number: Any, spots: Any, origins: Any, background: Any, /, *, radius: float, relative: float
) -> Any:
    """Return the log likelihood ratio of each expected disk to the background alone, nats.

    With counts n, background b and the disk μ = height / (1 + exp(4 (r − radius))), a disk has Σ [n ln(1 + μ/b) − μ] over its pixels.
    What the kinematical model leaves out is a relative error of μ. It divides the information of a disk of λ = Σ μ counts by
    1 + relative² λ, and so is done here.

    Parameters
    ----------
    patterns : (n, Qx, Qy) real
        Counts. A NaN is no measurement.
    usable : (n, Qx, Qy) bool
        Pixels that may be looked at.
    number : (k,) int
        Pattern of each disk.
    spots : (k, 3) real
        Position x, y (px) and height (counts per pixel) of each disk.
    origins : (n, 2) real
        Unscattered beam, px.
    background : (r,) real
        Counts per pixel by distance from the origin in whole pixels; linear between, constant beyond.
    radius : float
        Of a disk, px.
    relative : float

    Returns
    -------
    (k,) float64

    Raises
    ------
    InputError
        Shapes that do not fit each other.
    """
    check(patterns, usable, number, spots, origins, background)
    xp = arrays.namespace(patterns, usable, number, spots, origins, background)
    spots, origins, background = (arrays.as_float64(a) for a in (spots, origins, background))
    qx, qy = patterns.shape[1:]
    steps = arrays.from_numpy(disk_offsets(radius + BORDER), spots)
    at = xp.round(spots[:, None, :2]) + xp.astype(steps, xp.float64)
    size = arrays.from_numpy(np.array([qx, qy], np.float64), spots)
    inside = xp.all((at >= 0) & (at < size), axis=-1)
    whole = xp.astype(xp.where(inside[..., None], at, xp.zeros_like(at)), xp.int64)
    flat = xp.reshape((xp.astype(number, xp.int64)[:, None] * qx + whole[..., 0]) * qy + whole[..., 1], (-1,))
    pixels = xp.reshape(arrays.as_float64(patterns) if arrays.is_torch(patterns) else patterns, (-1,))  # torch takes no items of uint16
    counts = xp.reshape(arrays.as_float64(xp.take(pixels, flat)), inside.shape)
    good = inside & xp.reshape(xp.take(xp.reshape(usable, (-1,)), flat), inside.shape) & xp.isfinite(counts)
    away = xp.sqrt(xp.sum((at - spots[:, None, :2]) ** 2, axis=-1))
    mean = xp.where(good, spots[:, 2:] / (1 + xp.exp(4 * (away - radius) / EDGE)), xp.zeros_like(away))
    ring = xp.sqrt(xp.sum((at - xp.take(origins, number, axis=0)[:, None, :]) ** 2, axis=-1))
    gain = xp.where(good, counts, xp.zeros_like(counts)) * xp.log1p(mean / _level(xp, ring, background)) - mean
    return xp.sum(gain, axis=-1) / (1 + relative**2 * xp.sum(mean, axis=-1))


def _level(xp: Any, ring: Any, background: Any) -> Any:
    """Return the background at distances from the origin."""
    last = background.shape[0] - 1
    ring = xp.where(ring < last, ring, last + 0 * ring)
    low = xp.astype(xp.floor(ring), xp.int64)
    low = xp.where(low < last, low, xp.full_like(low, max(last - 1, 0)))
    part, shape = ring - xp.astype(low, xp.float64), low.shape
    take = lambda index: xp.reshape(xp.take(background, xp.reshape(index, (-1,))), shape)  # noqa: E731
    level = take(low) * (1 - part) + take(low + min(last, 1)) * part
    return xp.where(level > LEAST_BACKGROUND, level, xp.full_like(level, LEAST_BACKGROUND))


def disk_offsets(radius: float) -> np.ndarray:
    """Return whole-pixel steps (k, 2) within a radius.

    Examples
    --------
    >>> disk_offsets(1.0).tolist()
    [[-1, 0], [0, -1], [0, 0], [0, 1], [1, 0]]
    """
    side = np.arange(-math.ceil(radius), math.ceil(radius) + 1)
    x, y = np.meshgrid(side, side, indexing="ij")
    near = x * x + y * y <= radius * radius
    return np.stack([x[near], y[near]], axis=-1)


def check(patterns: Any, usable: Any, number: Any, spots: Any, origins: Any, background: Any) -> None:
    """Raise InputError if shapes do not fit each other."""
    fit = patterns.ndim == 3 and usable.shape == patterns.shape and number.ndim == 1 and background.ndim == 1 and background.shape[0] > 0
    if not fit or spots.shape != (number.shape[0], 3) or origins.shape != (patterns.shape[0], 2):
        named = zip(
            ("patterns", "usable", "number", "spots", "origins", "background"), (patterns, usable, number, spots, origins, background)
        )
        shapes = ", ".join(f"{name} {tuple(a.shape)}" for name, a in named)
        raise InputError(f"{shapes}: need patterns and usable (n, Qx, Qy), number (k,), spots (k, 3), origins (n, 2), background (r,)")
