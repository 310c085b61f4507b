"""First and second moments of diffraction patterns: what the errors of their centres of mass are made from."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.imaging.first_moments import problem
from gpu4d.operation import DETECTOR_PIXELS, Twin, operation


@operation(cpu=Twin("gpu4d.cpu_fallback.second_moments", DETECTOR_PIXELS, check=problem))
def second_moments(patterns: Any, /, mask: Any = None) -> Any:
    """Compute sum, first and second moments of every pattern over the pixels that count.

    Σ I, Σ qx I, Σ qy I, Σ qx² I, Σ qx qy I, Σ qy² I, with pixel centres at whole numbers.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels are ignored, also if they are NaN.

    Returns
    -------
    (..., 6) float64
        Exact for integers where the moments stay below 2⁵³. NaN and infinite pixels make the moments of their own pattern NaN or
        infinite.

    Examples
    --------
    >>> import numpy as np
    >>> second_moments(np.array([[1, 0], [0, 3]], dtype="uint8")).tolist()
    [4.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    """
    xp = arrays.namespace(patterns) if mask is None else arrays.namespace(patterns, mask)
    if len(patterns.shape) < 2:
        raise InputError(f"patterns has shape {tuple(patterns.shape)}, need (..., Qx, Qy)")
    if mask is not None and tuple(mask.shape) != tuple(patterns.shape[-2:]):
        raise InputError(f"mask is {tuple(mask.shape)}, the patterns are {tuple(patterns.shape[-2:])}: need one bool per detector pixel")
    values = arrays.as_float64(patterns)
    if mask is not None:
        values = xp.where(xp.astype(mask, xp.bool), values, xp.zeros_like(values))
    qx, qy = (xp.arange(n, dtype=values.dtype, device=arrays.device(values)) for n in values.shape[-2:])
    rows, columns, leaning = xp.sum(values, axis=-1), xp.sum(values, axis=-2), xp.sum(values * qy, axis=-1)
    parts = [rows, rows * qx, columns * qy, rows * qx * qx, leaning * qx, columns * qy * qy]
    return xp.stack([xp.sum(part, axis=-1) for part in parts], axis=-1)
