"""Compute the centre of mass of patterns: the mean momentum of the electrons at every position."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation

# pixels a side: the first moment of a thread, 8 counts of 2³² times a coordinate, stays below 2⁵¹, which a warp adds exactly
LONGEST_EXACT = {"uint32": 1 << 16}


def _problem(patterns: Any, mask: Any = None) -> str | None:
    fit = len(patterns.shape) >= 2 and (mask is None or tuple(mask.shape) == tuple(patterns.shape[-2:]))
    return None if fit else "the shapes do not fit"


@operation(
    cpu=Twin("gpu4d.cpu_fallback.center_of_mass", DETECTOR_PIXELS, check=_problem),
    cuda=Twin("gpu4d.kernels.center_of_mass", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST_EXACT, check=_problem),
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


@operation(
    cpu=Twin("gpu4d.cpu_fallback.center_of_mass", DETECTOR_PIXELS, check=_problem),
    cuda=Twin("gpu4d.kernels.center_of_mass", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST_EXACT, check=_problem),
)
def center_of_mass(patterns: Any, /, mask: Any = None) -> Any:
    """Compute the centre of mass of every diffraction pattern, in detector pixels.

    ⟨q⟩ = Σ q I(q) / Σ I(q). For a thin object it is the mean momentum transfer, ⟨q⟩ = (∇φ ⊗ |ψ₀|²) / 2π
    (Müller-Caspary et al., Ultramicroscopy 178 (2017) 62; Lazić, Bosch, Lazar, Ultramicroscopy 160 (2016) 265).

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
        Sums of integers are exact, with one division at the end.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Other pixels are ignored, also if they are NaN.

    Returns
    -------
    (..., 2) float64
        (qx, qy), with pixel centres at integers, in the namespace and on the device of `patterns`. NaN for a pattern whose sum
        is not positive, or that has a NaN or infinite pixel.

    Raises
    ------
    InputError
        Fewer than two dimensions, or a mask of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> center_of_mass(np.array([[[0, 0], [1, 3]], [[0, 0], [0, 0]]], dtype="uint16"))
    array([[1.  , 0.75],
           [ nan,  nan]])
    """
    return divided(first_moments.definition(patterns, mask))


def divided(moments: Any) -> Any:
    """Divide first moments (..., 3) to get centres of mass (..., 2)."""
    xp = arrays.namespace(moments)
    usable = (moments[..., 0] > 0) & xp.all(xp.isfinite(moments), axis=-1)
    value = arrays.as_float64(moments)
    total = xp.where(usable, value[..., 0], xp.ones_like(value[..., 0]))
    return xp.where(usable[..., None], value[..., 1:] / total[..., None], xp.full_like(value[..., 1:], float("nan")))
