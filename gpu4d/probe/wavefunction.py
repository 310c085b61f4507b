"""Compute the wave in the probe-forming aperture, with aberrations of the lens as Krivanek coefficients."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from gpu4d import physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import complex_values
from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.apertures import Aperture, disk
from gpu4d.real_arrays import floats

COEFFICIENTS = {  # name: (n, m) of λ^n k^(n+1) / (n + 1) cos m(φ - φ_nm)
    f"C{n}{m}": (n, m) for n in range(1, 6) for m in range((n + 1) % 2, n + 2, 2)
}
OPEN = 0.01  # of the largest modulus: pixels with less count as dark
DEGREE = 6  # highest power of kx and ky in χ, for aberrations up to fifth order


def aberration_terms(aberrations: Mapping[str, float] | None) -> list[tuple[int, int, float, float]]:
    """Return named coefficients as (n, m, C_nm in Å, φ_nm in rad). Coefficients that are 0 are left out.

    Parameters
    ----------
    aberrations : mapping, optional
        C10, C12, phi12, C21, phi21, C23, phi23, C30, … C56, phi56, in Å and radians. `defocus` means -C10.

    Examples
    --------
    >>> aberration_terms({"defocus": 200.0, "C12": 15.0, "phi12": 0.3})
    [(1, 0, -200.0, 0.0), (1, 2, 15.0, 0.3)]
    """
    given = {str(name): float(value) for name, value in (aberrations or {}).items()}
    if "defocus" in given:
        if "C10" in given:
            raise InputError("both defocus and C10 are given: defocus = -C10, leave one out")
        given["C10"] = -given.pop("defocus")
    angles = {f"phi{name[1:]}" for name, (_, m) in COEFFICIENTS.items() if m}
    for name, value in given.items():
        if name not in COEFFICIENTS and name not in angles:
            raise InputError(f"aberrations has {name!r}; it takes defocus, {', '.join(COEFFICIENTS)}, and angles phi12, phi21, …")
        if not math.isfinite(value):
            raise InputError(f"aberrations[{name!r}] is {value}, need a finite number")
    found = [(n, m, given.get(name, 0.0), given.get(f"phi{n}{m}", 0.0)) for name, (n, m) in COEFFICIENTS.items()]
    return [term for term in found if term[2]]


def chi(kx: Any, ky: Any, aberrations: Mapping[str, float] | None, energy: float) -> np.ndarray:
    """Return the aberration function χ(k), radians. The lens multiplies the wave by exp(-iχ).

    χ = 2π Σ λⁿ kⁿ⁺¹ C_nm cos(m (φ - φ_nm)) / (n + 1), with φ from the first axis to the second (Krivanek; as abTEM).

    Parameters
    ----------
    kx, ky : array
        1/Å, broadcast together.
    aberrations : mapping
        See `aberration_terms`. defocus = -C10, positive for underfocus.
    energy : float
        eV.

    Examples
    --------
    >>> round(float(chi(0.5, 0.0, {"defocus": 100.0}, 80e3)), 4)  # -π λ k² · 100 Å
    -3.2796
    """
    k, phi = np.hypot(kx, ky), np.arctan2(ky, kx)
    wavelength = physics.wavelength(energy)
    out = np.zeros(np.shape(k))
    for n, m, size, angle in aberration_terms(aberrations):
        out = out + size * wavelength**n * k ** (n + 1) / (n + 1) * np.cos(m * (phi - angle))
    return 2 * math.pi * out


def chi_polynomial(aberrations: Mapping[str, float] | None, energy: float, q_pixel: float) -> np.ndarray | None:
    """Return χ / π as a polynomial in detector pixels: coefficients c[i, j] of x^i y^j, (7, 7) float64. None without aberrations.

    kᵐ cos m(φ - φ_nm) is the real part of (kx + i ky)ᵐ e^(-i m φ_nm). The remaining factor kⁿ⁺¹⁻ᵐ is an even power.
    """
    terms = aberration_terms(aberrations)
    if not terms:
        return None
    wavelength = physics.wavelength(energy)
    total = np.zeros((DEGREE + 1, DEGREE + 1))
    square = np.zeros((DEGREE + 1, DEGREE + 1))
    square[2, 0] = square[0, 2] = 1.0
    for n, m, size, angle in terms:
        part = np.zeros((DEGREE + 1, DEGREE + 1))
        for power in range(m + 1):  # binomial theorem for (x + iy)^m
            part[m - power, power] = math.comb(m, power) * (1j**power * np.exp(-1j * m * angle)).real
        for _ in range((n + 1 - m) // 2):
            part = _product(part, square)
        total += 2 * size * wavelength**n * q_pixel ** (n + 1) / (n + 1) * part
    return total


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply two polynomials. The degree of the product must not exceed `DEGREE`."""
    out = np.zeros_like(a)
    for i, j in np.argwhere(b):
        out[i:, j:] += b[i, j] * a[: len(a) - i, : len(a) - j]
    return out


@on_host("image")
def wavefunction(
    aperture: ArrayLike | Aperture,
    aberrations: Mapping[str, float] | None = None,
    *,
    energy: float,
    q_pixel: float,
    shape: tuple[int, int] | None = None,
    center: tuple[float, float] | None = None,
) -> np.ndarray:
    """Compute the wave Ψ₀(k) of a probe in the plane of the detector: A(k) exp(-iχ(k)).

    Parameters
    ----------
    aperture : float, Aperture, or (Qx, Qy) array
        Convergence semi-angle, mrad, of a round aperture whose edge falls from 1 to 0 over one pixel. Or an aperture of
        `gpu4d.probe.apertures`: annulus, bullseye, phase plate, vortex, and products of them. Or A(k) itself, real or complex.
    aberrations : mapping, optional
        Krivanek coefficients in Å, angles in radians from qx to qy: C10, C12, phi12, C21, phi21, C23, phi23, C30, …
        `defocus` = -C10, positive for underfocus.
    energy : float
        eV.
    q_pixel : float
        Detector pixel, 1/Å.
    shape : (Qx, Qy), optional
        Shape of the detector. It is needed if `aperture` is no array.
    center : (float, float), optional
        Centre of the aperture, pixels. Default: (Qx // 2, Qy // 2).

    Returns
    -------
    (Qx, Qy) complex128
        Its modulus is 1 at the centre of a round aperture. The probe in real space is its inverse Fourier transform
        (`gpu4d.probe.real_space`).

    Raises
    ------
    InputError
        A coefficient is unknown, both defocus and C10 are given, or a semi-angle is given without a shape.

    Warns
    -----
    UserWarning
        χ changes by more than π from pixel to pixel inside the aperture: the probe is larger than the field 1 / q_pixel.

    Notes
    -----
    The detector may cut the aperture, as it does for a bright-field disk at its border. `gpu4d.probe.real_space` refuses such a wave.

    Examples
    --------
    >>> wave = wavefunction(25.0, {"defocus": 200.0}, energy=80e3, q_pixel=0.05, shape=(32, 32))
    >>> wave.shape, round(float(abs(wave[16, 16])), 3), round(float(np.angle(wave[16, 20])), 3)
    ((32, 32), 1.0, 1.049)
    """
    known = Calibration(energy=energy, q_pixel=q_pixel)
    energy, q_pixel = known.require("energy"), known.require("q_pixel")
    given, form = (None, aperture) if isinstance(aperture, Aperture) else (_plain(aperture), None)
    if given is not None and given.ndim == 0:
        form, given = disk(float(given.real)), None
    if given is not None and (given.ndim != 2 or (shape is not None and tuple(shape) != given.shape)):
        raise InputError(f"aperture has shape {given.shape}, need {tuple(shape) if shape is not None else '(Qx, Qy)'}")
    if given is None and shape is None:
        raise InputError("aperture is a semi-angle in mrad: give shape=(Qx, Qy) of the detector with it")
    size = given.shape if given is not None else tuple(shape)  # type: ignore[arg-type]
    cx, cy = floats(center) if center is not None else (size[0] // 2, size[1] // 2)
    x, y = np.arange(size[0])[:, None] - cx, np.arange(size[1])[None, :] - cy
    if given is None:
        assert form is not None
        unit = physics.frequency_to_angle(q_pixel, energy)  # mrad of a pixel
        kx, ky = np.broadcast_arrays(x * unit, y * unit)
        given = form.at(kx, ky, unit)
    phase = chi(x * q_pixel, y * q_pixel, aberrations, energy)
    _warn_if_steep(given, phase, q_pixel)
    return given * np.exp(-1j * phase)


def _warn_if_steep(aperture: np.ndarray, phase: np.ndarray, q_pixel: float) -> None:
    """Warn if χ changes by more than π from pixel to pixel: the probe, |∇χ| / 2π to each side, is larger than the field 1 / q_pixel."""
    size = np.abs(aperture)
    if min(size.shape) < 2:
        return
    lit = size > OPEN * size.max()
    steepest = max(float(np.abs(slope[lit]).max(initial=0.0)) for slope in np.gradient(phase))
    if steepest > math.pi:
        width = steepest / (math.pi * q_pixel)
        warnings.warn(
            f"the aberrations spread the probe over {width:.3g} Å, and the field of view 1/q_pixel is {1 / q_pixel:.3g} Å (χ changes by up "
            f"to {steepest / math.pi:.3g} π from pixel to pixel): need a q_pixel below {1 / width:.2g} 1/Å, with as many more pixels",
            stacklevel=3,
        )


def _plain(aperture: ArrayLike) -> np.ndarray:
    """Return a semi-angle or A(k) on the host, as real numbers if it has no imaginary part."""
    values = complex_values(aperture, "aperture", "a semi-angle in mrad, or A(k) as an array (Qx, Qy)")
    return values if values.imag.any() else values.real.copy()
