"""Count electrons: find the pixels that electrons struck in raw frames of a direct detector."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.errors import InputError
from gpu4d.imaging.neighbours import ABOVE, NOT_BELOW
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation
from gpu4d.preprocess.electrons import Electrons


def problem(frames: Any, dark: Any, lower: float, upper: float, electron: float = 1.0, gain: Any = None, mask: Any = None) -> str | None:
    """Return why these arguments cannot be counted with, or None."""
    shape = tuple(frames.shape)
    if len(shape) < 2 or max(shape[-2:]) > 65535:
        return f"frames have shape {shape}, need (..., Qx, Qy) with at most 65535 pixels a side"
    for name, plane in (("dark", dark), ("gain", gain), ("mask", mask)):
        if plane is not None and tuple(plane.shape) != shape[-2:]:
            return f"{name} is {tuple(plane.shape)}, the frames are {shape[-2:]}: need one value per detector pixel"
    if not (0 < lower < upper):
        return f"lower={lower}, upper={upper}: need 0 < lower < upper, in electrons"
    if not electron > 0:
        return f"electron={electron}: need the mean signal of one electron, > 0"
    return None


@operation(
    cpu=Twin("gpu4d.cpu_fallback.count_electrons", tuple(name for name in DETECTOR_PIXELS if name != "int64"), check=problem),
    cuda=Twin("gpu4d.kernels.count_electrons", KERNEL_PIXELS, frame=KERNEL_FRAME, check=problem),
)
def count_electrons(
    frames: Array,
    dark: Array,
    lower: float,
    upper: float,
    /,
    *,
    electron: float = 1.0,
    gain: Array | None = None,
    mask: Array | None = None,
) -> Electrons:
    """Find electrons in raw frames of a direct detector: local maxima of 3 × 3 pixels between two thresholds.

    The signal of a pixel is (frame − dark) / (electron · gain), in electrons. It is rounded to single precision after each of its two
    steps, so that every implementation finds the same electrons. A pixel counts as one electron if lower ≤ signal < upper and no
    neighbour has a larger signal. Of two equal neighbours one is taken.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Frames as the detector writes them.
    dark : (Qx, Qy) real
        Mean of frames without a beam.
    lower, upper : float
        Thresholds in electrons. Signals below `lower` are background, signals from `upper` on are X-rays.
        `gpu4d.preprocess.thresholds` finds them.
    electron : float
        Mean signal of one electron in the units of the frames (ADU).
    gain : (Qx, Qy) real, optional
        Relative response of every pixel. The signal is divided by it.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels hold no electron, and do not hide one beside them. The same is true of pixels whose
        signal is NaN or whose gain is not positive.

    Returns
    -------
    Electrons
        `offsets` (n + 1,), and by electron `qx`, `qy`, `intensity`. An empty or NaN frame has none.

    Raises
    ------
    InputError
        Shapes that do not fit, thresholds out of order, a detector of more than 65535 pixels a side.

    Notes
    -----
    Of two electrons that strike neighbouring pixels only one is found (coincidence loss), about 6 % at 0.003 electrons a pixel.

    Examples
    --------
    >>> import numpy as np
    >>> frames = np.full((2, 5, 6), 10, "uint16")
    >>> frames[1, 2, 3], frames[1, 2, 4] = 130, 50      # one electron; two pixels share its charge
    >>> events = count_electrons(frames, np.full((5, 6), 10.0), 0.3, 10.0, electron=150.0)
    >>> events.offsets.tolist(), events.qx.tolist(), events.qy.tolist(), events.intensity.tolist()
    ([0, 0, 1], [2], [3], [0.800000011920929])
    """
    if (wrong := problem(frames, dark, lower, upper, electron, gain, mask)) is not None:
        raise InputError(wrong)
    values = signals(frames, dark, electron, gain, mask)
    xp = arrays.namespace(values)
    _, nx, ny = values.shape
    maxima = is_maximum(values, lower, upper)
    frame, x, y = xp.nonzero(maxima)
    counts = xp.sum(xp.astype(maxima, xp.int64), axis=(1, 2))
    offsets = xp.cumulative_sum(counts, include_initial=True)
    flat = xp.take(xp.reshape(values, (-1,)), (frame * nx + x) * ny + y)
    return Electrons(offsets, xp.astype(x, xp.uint16), xp.astype(y, xp.uint16), flat)


def signals(frames: Any, dark: Any, electron: float, gain: Any, mask: Any) -> Any:
    """Return the signal of every pixel in electrons, (n, Qx, Qy) float32, -∞ for pixels that do not count."""
    xp = arrays.namespace(*(a for a in (frames, dark, gain, mask) if a is not None))
    nx, ny = frames.shape[-2:]
    level, scale = per_pixel(dark, electron, gain, mask)
    values = (xp.astype(xp.reshape(frames, (math.prod(frames.shape[:-2]), nx, ny)), xp.float32) - level) * scale
    return xp.where(xp.isnan(values), xp.full_like(values, -math.inf), values)


def is_maximum(values: Any, lower: float, upper: float) -> Any:
    """Return where a signal between the thresholds is the maximum of 3 × 3 pixels, (n, Qx, Qy) bool."""
    found = (values >= lower) & (values < upper)
    for dx, dy in ABOVE:
        found &= values > neighbour(values, dx, dy)
    for dx, dy in NOT_BELOW:
        found &= values >= neighbour(values, dx, dy)
    return found


def per_pixel(dark: Any, electron: float, gain: Any = None, mask: Any = None) -> tuple[Any, Any]:
    """Return level to subtract and factor to multiply with, (Qx, Qy) float32. Pixels that do not count have an infinite level."""
    xp = arrays.namespace(dark)
    level = arrays.as_float64(dark)
    response = xp.ones_like(level) if gain is None else arrays.as_float64(gain)
    good = xp.isfinite(level) & xp.isfinite(response) & (response > 0)
    if mask is not None:
        good &= xp.astype(mask, xp.bool)
    factor = 1 / (electron * xp.where(good, response, xp.ones_like(level)))
    return xp.astype(xp.where(good, level, xp.full_like(level, math.inf)), xp.float32), xp.astype(factor, xp.float32)


def neighbour(values: Any, dx: int, dy: int) -> Any:
    """Return the value of pixel (x + dx, y + dy) at (x, y), -∞ outside of the frame."""
    xp = arrays.namespace(values)
    for axis, step in ((-2, dx), (-1, dy)):
        if step == 0 or values.shape[axis] == 0:
            continue
        edge = xp.full_like(values[..., :1, :] if axis == -2 else values[..., :1], -math.inf)
        inner = (slice(1, None) if step > 0 else slice(None, -1),)
        rest = values[(..., *inner, slice(None))] if axis == -2 else values[(..., *inner)]
        values = xp.concat([rest, edge] if step > 0 else [edge, rest], axis=axis)
    return values
