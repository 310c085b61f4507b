"""Compute the centre of mass of patterns: the mean momentum of the electrons at every position."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayT
from gpu4d.imaging.first_moments import EXACT_MOMENT, LONGEST_EXACT, first_moments, problem
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation


@operation(
    cpu=Twin("gpu4d.cpu_fallback.center_of_mass", DETECTOR_PIXELS, check=problem),
    cuda=Twin("gpu4d.kernels.center_of_mass", KERNEL_PIXELS, frame=KERNEL_FRAME, longest=LONGEST_EXACT, moment=EXACT_MOMENT, check=problem),
)
def center_of_mass(patterns: ArrayT, /, mask: Array | None = None) -> ArrayT:
    """Compute the centre of mass of every diffraction pattern, in detector pixels.

    ⟨q⟩ = Σ q I(q) / Σ I(q). For a thin object it is the mean momentum transfer, ⟨q⟩ = (∇φ ⊗ |ψ₀|²) / 2π
    (Müller-Caspary et al., Ultramicroscopy 178 (2017) 62; Lazić, Bosch, Lazar, Ultramicroscopy 160 (2016) 265).

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
        Sums of integers are exact where they stay below 2⁵³, with one division at the end.
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
