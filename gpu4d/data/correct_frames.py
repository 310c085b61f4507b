"""Raw frames to corrected ones in one pass: background, streaks of each frame, gain, X-ray hits, bad pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayT
from gpu4d.errors import InputError
from gpu4d.operation import KERNEL_FRAME, KERNEL_PIXELS, REAL, Twin, operation

NEAR = 1  # px: a hit lights pixels up to here from the one that shows it
AROUND = 3  # px: half the side of the square in which the bright pixels of a hit are counted
MOST_OF_A_HIT = 9  # pixels: more bright ones in that square are a disk of the beam


def _problem(
    frames: Any,
    background: Any,
    gain: Any = None,
    edge: Any = None,
    clip: float = math.inf,
    axis: int = 0,
    hits: Any = None,
    taken_from: Any = None,
) -> str | None:
    shape = tuple(frames.shape)
    if len(shape) < 2 or 0 in shape[-2:]:
        return f"frames have shape {shape}, need (..., Qx, Qy) with pixels"
    for name, plane in (("background", background), ("gain", gain), ("edge", edge), ("taken_from", taken_from)):
        if plane is not None and tuple(plane.shape) != shape[-2:]:
            return f"{name} is {tuple(plane.shape)}, the frames are {shape[-2:]}: need one value per detector pixel"
    if hits is not None and tuple(hits.shape) != (3, *shape[-2:]):
        return f"hits is {tuple(hits.shape)}, need (3, Qx, Qy) = (3, {shape[-2]}, {shape[-1]}): usual value, lit from, certain from"
    if taken_from is not None and not arrays.is_integer(taken_from):
        return f"taken_from is {taken_from.dtype}: need whole numbers qx · Qy + qy"
    if isinstance(taken_from, np.ndarray) and not (0 <= taken_from.min() and taken_from.max() < taken_from.size):
        return f"taken_from runs from {taken_from.min()} to {taken_from.max()}: need numbers qx · Qy + qy from 0 to {taken_from.size - 1}"
    if not clip > 0 or axis not in (0, 1):
        return f"clip={clip}, axis={axis}: need clip > 0, and axis 0 (columns) or 1 (rows)"
    return None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.correct_frames", REAL, check=_problem),
    cuda=Twin("gpu4d.kernels.correct_frames", KERNEL_PIXELS, frame=KERNEL_FRAME, check=_problem),
)
def correct_frames(
    frames: ArrayT,
    background: Array,
    /,
    *,
    gain: Array | None = None,
    edge: Array | None = None,
    clip: float = math.inf,
    axis: int = 0,
    hits: Array | None = None,
    taken_from: Array | None = None,
) -> ArrayT:
    """Correct raw frames: each by itself, in single precision.

    With b the background, g the gain, and p a pixel of the line l (a column for axis 0, a row for axis 1), a frame v becomes

        d_p = v_p − b_p,    s_l = mean over the edge pixels of l with |d_p| ≤ clip of  edge_p d_p,    c_p = (d_p − s_l) / g_p

    s_l is 0 where a line has no such pixel. Then hits are replaced: a pixel with c > hits[1] gets its usual value hits[0] if one of the
    3 × 3 pixels about it has c > hits[2], and if at most 9 pixels of the 7 × 7 about it have. More are a disk of the beam. At last
    each pixel takes the value of the pixel that `taken_from` names.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Raw: the units of the detector, ADU.
    background : (Qx, Qy) real
        ADU.
    gain : (Qx, Qy) real, optional
        Relative response of each pixel.
    edge : (Qx, Qy) real, optional
        Above zero for pixels that no electron reaches. The value is the share of a line's mean that is subtracted, the same for all
        edge pixels of a line. None: no streaks of single frames are subtracted.
    clip : float
        ADU. Edge pixels farther from zero do not count: hits.
    axis : int
        Streaks go along this axis of the detector: 0 for columns, one value for each qy, 1 for rows.
    hits : (3, Qx, Qy) real, optional
        In the units of corrected frames: the usual value, the value above which a pixel beside a hit is part of it, and the value that
        only a hit has. Infinity for pixels that are no hit at any value.
    taken_from : (Qx, Qy) int, optional
        Number qx · Qy + qy of the pixel whose value each pixel takes, its own for good pixels.

    Returns
    -------
    (..., Qx, Qy) float32
        A pixel that is NaN stays NaN and changes no other. An empty frame (all zero) is corrected as any other.

    Raises
    ------
    InputError
        Planes of another shape, a clip that is not positive, an axis other than 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> raw = np.array([[[104, 111], [103, 110], [124, 110]]], "uint16")
    >>> edge = np.array([[1, 1], [1, 1], [0, 0]])
    >>> correct_frames(raw, np.full((3, 2), 100), edge=edge).tolist()
    [[[0.5, 0.5], [-0.5, -0.5], [20.5, -0.5]]]
    """
    planes = [a for a in (frames, background, gain, edge, hits, taken_from) if a is not None]
    xp = arrays.namespace(*planes)
    if (problem := _problem(frames, background, gain, edge, clip, axis, hits, taken_from)) is not None:
        raise InputError(problem)
    values = arrays.as_float64(frames) - arrays.as_float64(background)
    zero = xp.zeros_like(values)
    if edge is not None:
        share = arrays.as_float64(edge)
        used = (share > 0) & (xp.abs(values) <= clip)
        count = xp.sum(xp.astype(used, xp.float64), axis=axis - 2, keepdims=True)
        total = xp.sum(xp.where(used, values * share, zero), axis=axis - 2, keepdims=True)
        values = values - total / xp.maximum(count, xp.ones_like(count))
    if gain is not None:
        values = values / arrays.as_float64(gain)
    if hits is not None:
        usual, lit, certain = (arrays.as_float64(hits[i, :, :]) for i in range(3))
        bright = values > certain
        beside = boxed(bright, NEAR) > 0
        few = boxed(bright, AROUND) <= MOST_OF_A_HIT
        values = xp.where((values > lit) & beside & few, usual + zero, values)
    corrected = xp.astype(values, xp.float32)
    if taken_from is not None:
        flat = xp.reshape(corrected, (*frames.shape[:-2], frames.shape[-2] * frames.shape[-1]))
        corrected = xp.reshape(xp.take(flat, xp.reshape(xp.astype(taken_from, xp.int64), (-1,)), axis=-1), frames.shape)
    return corrected


def boxed(chosen: Any, reach: int) -> Any:
    """Count the chosen pixels in the square of `reach` pixels to each side of every pixel."""
    xp = arrays.namespace(chosen)
    counts = xp.astype(chosen, xp.int32)
    for axis in (-2, -1):
        size = counts.shape[axis]
        border = xp.zeros((*counts.shape[:axis], reach, *counts.shape[axis:][1:]), dtype=counts.dtype, device=arrays.device(counts))
        wide = xp.concat([border, counts, border], axis=axis)
        cuts = [(..., slice(i, i + size), *[slice(None)] * (-1 - axis)) for i in range(2 * reach + 1)]
        counts = sum((wide[cut] for cut in cuts[1:]), start=wide[cuts[0]])
    return counts
