"""Correlate measured peaks with a library of zone axes, over all in-plane angles at once: an operation."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays, fft
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation

SHARED = 47 * 1024  # bytes that a block of the kernels may have on every card


def shared_bytes(harmonics: int) -> int:
    """Return the bytes of shared memory that a block of the kernel needs: spectra and samples of sixteen curves."""
    return 16 * (8 * harmonics + 4 * 2 * (harmonics - 1))


def _too_many(peaks: Any, shells: Any, real: Any, *_: Any, **options: Any) -> str | None:
    """Return why the kernels cannot take a library, or None."""
    needed = shared_bytes(real.shape[0])
    return None if needed <= SHARED else f"{real.shape[0]} harmonics need {needed} bytes of shared memory, of {SHARED}"


@operation(cuda=Twin("gpu4d.kernels.correlate_orientations", check=_too_many), cpu=Twin("gpu4d.cpu_fallback.correlate_orientations"))
def correlate_orientations(peaks: Any, shells: Any, real: Any, imaginary: Any, /, *, width: float) -> tuple[Any, Any]:
    """Return for each pattern and zone axis the best correlation over the in-plane angle, and this angle.

    With polar peaks (q, φ, w) and shells of radius g_s, the angular spectrum of a pattern is
    X(m, s) = Σ w max(1 − |q − g_s| / width, 0) exp(−imφ), scaled to Σ|X|² = 1 over positive and negative m. With the spectra P of the
    library, C(φ) = Σ_m Σ_s X(m, s) P*(m, s) exp(imφ) is a product of matrices and a Fourier transform. Its largest value and the angle
    follow from a parabola through three samples. The mirrored pattern (qy → −qy) has the spectrum X*.

    Parameters
    ----------
    peaks : (n, p, 3) real
        qx, qy in 1/Å and weight of the peaks of each pattern. A weight of 0 is no peak.
    shells : (s,) real
        Radii of shells, 1/Å.
    real, imaginary : (m, s, a) real
        Spectra of the patterns of zone axes, for harmonics 0 … m − 1.
    width : float
        Half width of a shell, 1/Å.

    Returns
    -------
    correlation : (n, 2, a)
        0 … 1, for the pattern and its mirror image. 0 for a pattern without peaks on any shell.
    angle : (n, 2, a)
        φ in rad, 0 … 2π: the pattern is that of the zone axis turned by φ from x to y.

    Raises
    ------
    InputError
        Shapes that do not fit each other.

    References
    ----------
    C. Ophus et al., Microsc. Microanal. 28 (2022) 390, equations 6 to 9.
    """
    check(peaks, shells, real, imaginary)
    xp = arrays.namespace(peaks, shells, real, imaginary)
    peaks, shells, real, imaginary = (arrays.as_float64(a) for a in (peaks, shells, real, imaginary))
    harmonics, samples = real.shape[0], 2 * (real.shape[0] - 1)
    order = xp.arange(harmonics, dtype=xp.float64, device=arrays.device(peaks))
    q = xp.sqrt(peaks[..., 0] ** 2 + peaks[..., 1] ** 2)
    phase = order[:, None] * xp.atan2(peaks[..., 1], peaks[..., 0])[:, None, :]
    away = 1 - xp.abs(q[..., None] - shells) / width
    weight = xp.where(away > 0, away, xp.zeros_like(away)) * peaks[..., 2:3]
    even, odd = xp.matmul(xp.cos(phase), weight), -xp.matmul(xp.sin(phase), weight)  # X = even + i odd, (n, m, s)
    twice = xp.where(order > 0, 2 * xp.ones_like(order), xp.ones_like(order))
    norm = xp.sqrt(xp.sum((even**2 + odd**2) * twice[:, None], axis=(1, 2)))[:, None, None]
    norm = xp.where(norm > 0, norm, xp.ones_like(norm))
    even, odd = (xp.permute_dims(a / norm, (1, 0, 2)) for a in (even, odd))
    aa, bb, ab, ba = (xp.matmul(x, p) for x, p in ((even, real), (odd, imaginary), (even, imaginary), (odd, real)))
    planes = xp.stack([aa + bb, aa - bb], axis=2), xp.stack([ba - ab, -ba - ab], axis=2)  # X P* and X* P*, (m, n, 2, a)
    spectrum = xp.astype(planes[0], xp.complex128) + 1j * xp.astype(planes[1], xp.complex128)
    curve = fft.irfft(xp.permute_dims(spectrum, (1, 2, 3, 0)), samples) * samples
    return _highest(curve)


def _highest(curve: Any) -> tuple[Any, Any]:
    """Return height and angle of the highest point of periodic curves (..., samples), by a parabola."""
    xp = arrays.namespace(curve)
    samples = curve.shape[-1]
    at = xp.argmax(curve, axis=-1, keepdims=True)
    before, top, after = (arrays.gather(curve, (at + d + samples) % samples)[..., 0] for d in (-1, 0, 1))
    bend = before - 2 * top + after
    move = xp.where(bend < 0, (before - after) / (2 * xp.where(bend < 0, bend, -xp.ones_like(bend))), xp.zeros_like(bend))
    angle = (xp.astype(at[..., 0], curve.dtype) + move) * (2 * math.pi / samples)
    return top - (before - after) * move / 4, angle - 2 * math.pi * xp.floor(angle / (2 * math.pi))


def check(peaks: Any, shells: Any, real: Any, imaginary: Any) -> None:
    """Raise InputError if shapes do not fit each other."""
    fit = peaks.ndim == 3 and peaks.shape[2] == 3 and real.ndim == 3 and real.shape == imaginary.shape
    if not fit or shells.shape != (real.shape[1],) or real.shape[0] < 2:
        shapes = ", ".join(
            f"{name} {tuple(a.shape)}" for name, a in zip(("peaks", "shells", "real", "imaginary"), (peaks, shells, real, imaginary))
        )
        raise InputError(f"{shapes}: need peaks (n, p, 3), shells (s,), real and imaginary (m, s, a)")
