"""Sum and first moments of diffraction patterns: what their centres of mass are made from."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, dtype_name, operation

# pixels a side: a lane's first moment, 8 counts of 2³² times a place, stays below the 2⁵¹ that a warp adds exactly
LONGEST_EXACT = {"uint32": 1 << 16}
# pixels · longest side: a first moment, at most 2³² counts in each pixel times half of the longest side, stays below 2⁶³
EXACT_MOMENT = {"uint32": 1 << 32}


def moments_are_exact(dtype: Any, shape: tuple[int, ...]) -> bool:
    """Return True if first moments of frames (…, Qx, Qy) of a dtype stay below 2⁶³ for any counts. They are then made in int64.

    Examples
    --------
    >>> import numpy as np
    >>> moments_are_exact(np.dtype("uint32"), (512, 512)), moments_are_exact(np.dtype("uint32"), (2048, 2048))
    (True, False)
    """
    if not arrays.sums_are_exact(dtype):
        return False
    bits = int("".join(c for c in dtype_name(dtype) if c.isdigit()) or 1)
    nx, ny = shape[-2:]
    return 2**bits * nx * ny * max(nx, ny) < 2**64


def problem(patterns: Any, mask: Any = None) -> str | None:
    """Say why twins cannot take these arguments, or None."""
    fit = len(patterns.shape) >= 2 and (mask is None or tuple(mask.shape) == tuple(patterns.shape[-2:]))
    return None if fit else "the shapes do not fit"


@operation(
    cpu=Twin("gpu4d.cpu_fallback.first_moments", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.first_moments", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST_EXACT, moment=EXACT_MOMENT, check=problem),
)
def first_moments(patterns: Any, /, mask: Any = None) -> Any:
    """Compute sum and first moments of every pattern: Σ I, Σ qx I, Σ qy I over the pixels that count.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels are ignored, also if they are NaN.

    Returns
    -------
    (..., 3) int64 (exact) or float64
        int64 for integer patterns, except those of 64 bits, and of 32 bits on detectors of more than about 1600 pixels a side: their
        moments may pass 2⁶³.
        NaN and infinite pixels make the moments of their own pattern NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> first_moments(np.array([[1, 0], [0, 3]], dtype="uint8"))
    array([4, 3, 3])
    """
    xp = arrays.namespace(patterns) if mask is None else arrays.namespace(patterns, mask)
    if len(patterns.shape) < 2:
        raise InputError(f"patterns has shape {tuple(patterns.shape)}, need (..., Qx, Qy)")
    if mask is not None and tuple(mask.shape) != tuple(patterns.shape[-2:]):
        raise InputError(f"mask is {tuple(mask.shape)}, the patterns are {tuple(patterns.shape[-2:])}: need one bool per detector pixel")
    exact = moments_are_exact(patterns.dtype, patterns.shape)
    values = arrays.as_sum_dtype(patterns) if exact else arrays.as_float64(patterns)
    if mask is not None:
        values = xp.where(xp.astype(mask, xp.bool), values, xp.zeros_like(values))
    rows, columns = xp.sum(values, axis=-1), xp.sum(values, axis=-2)
    qx, qy = (xp.arange(n, dtype=values.dtype, device=arrays.device(values)) for n in values.shape[-2:])
    return xp.stack([xp.sum(rows, axis=-1), xp.sum(rows * qx, axis=-1), xp.sum(columns * qy, axis=-1)], axis=-1)
