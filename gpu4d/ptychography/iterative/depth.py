"""Damp differences between slices that the patterns cannot tell."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays, fft

DARK = 1e-3  # modulus of a transmission: its logarithm stays finite


def depth_filtered(planes: Any, strength: float, thickness: float, pixel: tuple[float, float]) -> Any:
    """Damp the spectrum of a transmission where the frequency in depth is large against the lateral one.

    A probe of finite angle sees depth only through details: coarse features look the same in all slices. The spectrum of the
    phase and of the logarithm of the modulus is multiplied by 1 - 2/π arctan(β² kz² / k²). In depth it is a cosine transform: the
    object is continued by its mirror image, so that the first slice is not beside the last one.

    Parameters
    ----------
    planes : (S, X, Y) complex
        Transmission. Phases of more than π in a slice would be wrapped.
    strength : float
        β.
    thickness : float
        Of a slice, Å.
    pixel : (float, float)
        Å.

    Returns
    -------
    (S, X, Y) complex

    Notes
    -----
    Chen et al., Science 372 (2021) 826, supplement.
    """
    xp = arrays.namespace(planes)
    slices, rows, columns = planes.shape
    kx, ky = (np.fft.fftfreq(n, p) for n, p in zip((rows, columns), pixel))
    lateral = np.maximum(kx[:, None] ** 2 + ky[None, :] ** 2, 1e-12)
    n = np.arange(slices)
    weight = 1 - 2 / np.pi * np.arctan(strength**2 * (n / (2 * slices * thickness))[:, None, None] ** 2 / lateral)
    cosine = np.sqrt((2 - (n == 0)) / slices)[:, None] * np.cos(np.pi * n[:, None] * (n[None, :] + 0.5) / slices)
    kind = planes.dtype
    weight, cosine = (xp.astype(arrays.from_numpy(a + 0j, planes), kind) for a in (weight, cosine))
    logarithm = xp.log(xp.astype(xp.clip(xp.abs(planes), DARK), kind)) + 1j * xp.astype(xp.atan2(xp.imag(planes), xp.real(planes)), kind)
    flat = (slices, rows * columns)
    spectrum = xp.reshape(cosine @ xp.reshape(fft.fft2(logarithm), flat), planes.shape) * weight
    back = xp.reshape(xp.permute_dims(cosine, (1, 0)) @ xp.reshape(spectrum, flat), planes.shape)
    return xp.exp(fft.ifft2(back))
