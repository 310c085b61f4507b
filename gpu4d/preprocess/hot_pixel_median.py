"""Hot pixels of single frames, found and replaced by the median of their neighbours."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayT
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation
from gpu4d.robust import MAD_TO_SIGMA

NEIGHBOURS = tuple((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0))
LEAST_NEIGHBOURS = 3  # neighbours that say something about a pixel: what a corner has


def _problem(frames: Any, threshold: float = 5.0, unit: float = 1.0, noise: float = 0.0, mask: Any = None) -> str | None:
    shape = tuple(frames.shape)
    if len(shape) < 2 or 0 in shape[-2:]:
        return f"frames have shape {shape}, need (..., Qx, Qy) with pixels"
    if mask is not None and tuple(mask.shape) != shape[-2:]:
        return f"mask is {tuple(mask.shape)}, the frames are {shape[-2:]}: need one bool per detector pixel"
    if not (threshold > 0 and unit > 0 and noise >= 0):
        return f"threshold={threshold}, unit={unit}, noise={noise}: need threshold and unit > 0, noise ≥ 0"
    return None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.hot_pixel_median", DETECTOR_PIXELS, check=_problem),
    cuda=Twin("gpu4d.kernels.hot_pixel_median", KERNEL_PIXELS, frame=KERNEL_FRAME, check=_problem),
)
def hot_pixel_median(
    frames: ArrayT, /, *, threshold: float = 5.0, unit: float = 1.0, noise: float = 0.0, mask: Array | None = None
) -> tuple[ArrayT, ArrayT]:
    """Find and replace hot pixels in every frame.

    With m the median of the up to eight neighbours that count, t the threshold and u the unit, a pixel v is hot if it exceeds m by

        limit = max( t · 1.4826 · median |neighbour − m|, t · √(u (m + ⅜ u)) + ¼ t² u, t · noise )

    and the second largest neighbour by half of that. The first term is the spread of the neighbours. The second is the Poisson noise
    of m: 2 (√(v/u + ⅜) − √(m/u + ⅜)) has a normal distribution down to a few counts (Anscombe, Biometrika 35 (1948) 246). The third
    is the readout noise. The condition on the second largest neighbour protects corners of bright disks. Two hot pixels side by side
    are still found, three are not.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
    threshold : float
        In standard deviations. The guide recommends 3 (noisy data) to 5 (clean data).
    unit : float
        Signal of one electron in a pixel: 1 for counts, 1/n for the mean of n frames of counts, the gain for ADU.
    noise : float
        Readout noise of a pixel: standard deviation in the units of the frames.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels are not used to judge their neighbours, and are replaced.

    Returns
    -------
    corrected : (..., Qx, Qy), dtype of `frames`
        Hot and masked pixels are replaced by the median of their neighbours (integers: rounded half up). Others are unchanged.
    hot : (..., Qx, Qy) bool
        Hot pixels, without masked ones. A NaN pixel is not hot and stays NaN. A pixel with fewer than three neighbours that count
        is not hot.

    Raises
    ------
    InputError
        Fewer than two dimensions, a mask of another shape, a threshold or unit that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> frame = np.full((5, 5), 4, "uint16")
    >>> frame[2, 3] = 90
    >>> corrected, hot = hot_pixel_median(frame)
    >>> int(corrected[2, 3]), int(hot.sum())
    (4, 1)
    """
    found = [a for a in (frames, mask) if a is not None]
    xp = arrays.namespace(*found)
    if (problem := _problem(frames, threshold, unit, noise, mask)) is not None:
        raise InputError(problem)
    values = arrays.as_float64(frames)
    valid = xp.isfinite(values)
    good = xp.ones(values.shape[-2:], dtype=xp.bool, device=arrays.device(values)) if mask is None else xp.astype(mask, xp.bool)
    valid = valid & good
    infinite = xp.full_like(values, math.inf)
    around = [_neighbour(xp.where(valid, values, infinite), dx, dy) for dx, dy in NEIGHBOURS]
    near = xp.stack(around, axis=-1)
    count = xp.sum(xp.astype(xp.isfinite(near), xp.int64), axis=-1, keepdims=True)
    median = _middle(near, count)
    far = xp.where(xp.isfinite(near), xp.abs(near - median[..., None]), infinite[..., None])
    spread = threshold * (_middle(far, count) * MAD_TO_SIGMA)
    rate = unit * (xp.maximum(median, xp.zeros_like(median)) + 0.375 * unit)
    poisson = threshold * xp.sqrt(rate) + 0.25 * threshold * threshold * unit
    limit = xp.maximum(xp.maximum(spread, poisson), xp.full_like(poisson, threshold * noise))
    second = _ranked(xp.sort(near, axis=-1), count - 2)
    count = count[..., 0]
    hot = valid & (count >= LEAST_NEIGHBOURS) & (values - median > limit)
    hot = hot & (values - xp.where(hot, second, xp.zeros_like(second)) > 0.5 * limit)
    replaced = xp.floor(median + 0.5) if arrays.is_integer(frames) else median
    replace = (hot | ~good) & (count > 0)
    if xp.isdtype(frames.dtype, (xp.int64, xp.uint64)):  # float64 does not hold all their values
        return xp.where(replace, xp.astype(xp.where(replace, replaced, xp.zeros_like(replaced)), frames.dtype), frames), hot
    # Use float64, which holds all values of other types: `where` of torch on CUDA does not take uint16 and uint32.
    return xp.astype(xp.where(replace, replaced, values), frames.dtype), hot


def _middle(near: Any, count: Any) -> Any:
    """Return the median of the `count` smallest values on the last axis, 0 if there are none."""
    xp = arrays.namespace(near)
    near, some = xp.sort(near, axis=-1), count[..., 0] > 0
    low, high = (xp.where(some, v, xp.zeros_like(v)) for v in (_ranked(near, (count - 1) // 2), _ranked(near, count // 2)))
    return (low + high) * 0.5


def _ranked(near: Any, rank: Any) -> Any:
    """Return the value of a rank, (..., 1), on the last axis of sorted values."""
    return arrays.gather(near, arrays.namespace(near).clip(rank, 0, 7))[..., 0]


def _neighbour(values: Any, dx: int, dy: int) -> Any:
    """Return the value of pixel (x + dx, y + dy) at (x, y), infinite outside of the frame."""
    xp = arrays.namespace(values)
    nx, ny = values.shape[-2:]
    column = xp.full_like(values[..., :1], math.inf)
    wide = xp.concat([column, values, column], axis=-1)
    row = xp.full_like(wide[..., :1, :], math.inf)
    wide = xp.concat([row, wide, row], axis=-2)
    return wide[..., 1 + dx : 1 + dx + nx, 1 + dy : 1 + dy + ny]
