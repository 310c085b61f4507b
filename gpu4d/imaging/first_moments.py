"""Sum and first moments of diffraction patterns: what their centres of mass are made from."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

# pixels a side: a lane's first moment, 8 counts of 2³² times a place, stays below the 2⁵¹ that a warp adds exactly
LONGEST_EXACT = {"uint32": 1 << 16}


def problem(patterns: Any, mask: Any = None) -> str | None:
    """Say why twins cannot take these arguments, or None."""
    fit = len(patterns.shape) >= 2 and (mask is None or tuple(mask.shape) == tuple(patterns.shape[-2:]))
    return None if fit else "the shapes do not fit"


@operation(
    cpu=Twin("gpu4d.cpu_fallback.first_moments", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.first_moments", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST_EXACT, check=problem),
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
    (..., 3) int64 for integer patterns (exact), float64 for others
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
    values = arrays.as_sum_dtype(patterns)
    if mask is not None:
        values = xp.where(xp.astype(mask, xp.bool), values, xp.zeros_like(values))
    rows, columns = xp.sum(values, axis=-1), xp.sum(values, axis=-2)
    qx, qy = (xp.arange(n, dtype=values.dtype, device=arrays.device(values)) for n in values.shape[-2:])
    return xp.stack([xp.sum(rows, axis=-1), xp.sum(rows * qx, axis=-1), xp.sum(columns * qy, axis=-1)], axis=-1)
