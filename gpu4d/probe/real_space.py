"""Compute the probe in real space from the wave in the aperture, and how large it is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpu4d import fft, physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import complex_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe.wavefunction import OPEN
from gpu4d.real_arrays import real_number

RIM = 0.9  # of half the field, to each side: current beyond it is at the border of the field
FULL = 0.05  # of the current at the border: with more the probe is as large as the field. An even fill has 0.19, tails of apertures 0.02
LIGHT = (0.5, 0.8)  # parts of the current whose radii are given
FINE = 8  # samples of the radial profile for each period of the highest frequency of the intensity
EMPTY = 1e-9  # of the largest amplitude: frequencies with less are not used
BINS = 16  # of the frequency, in each pixel of it: between them the phase at the border of the field is off by a tenth of a radian at most
GROWS = 1.1  # ratio of the rms radii in the whole field and in half of it, from which on the rms radius is not finite


@dataclass(frozen=True, eq=False)
class RealSpaceProbe(Storable, stored="psi: x y [1/Å]; pixel: [Å]"):
    """A probe in the plane of the specimen.

    Attributes
    ----------
    psi : (Nx, Ny) complex128
        ψ(r), centred: r = 0 is at pixel (Nx // 2, Ny // 2). Σ |ψ|² dA = 1, so |ψ|² is in 1/Å².
    pixel : (float, float)
        Å.

    Examples
    --------
    >>> import gpu4d
    >>> wave = gpu4d.probe.wavefunction(20.0, energy=300e3, q_pixel=0.05, shape=(64, 64))
    >>> real_space(wave, 0.05)
    RealSpaceProbe(64×64, 0.3125 Å a pixel)
    """

    psi: np.ndarray
    pixel: tuple[float, float]

    @property
    def intensity(self) -> np.ndarray:
        """Return |ψ|², (Nx, Ny) float64, 1/Å²."""
        return self.psi.real**2 + self.psi.imag**2

    @property
    def area(self) -> float:
        """Return the area of a pixel, Å²."""
        return self.pixel[0] * self.pixel[1]

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x (Nx, 1) and y (1, Ny) of the pixels, Å."""
        x, y = ((np.arange(n) - n // 2) * d for n, d in zip(self.psi.shape, self.pixel))
        return x[:, None], y[None, :]

    def __repr__(self) -> str:
        same = math.isclose(*self.pixel)
        size = f"{self.pixel[0]:.4g} Å" if same else f"{self.pixel[0]:.4g} × {self.pixel[1]:.4g} Å"
        return f"RealSpaceProbe({'×'.join(map(str, self.psi.shape))}, {size} a pixel)"


class _ProbeSize(NamedTuple):
    fwhm: float
    r50: float
    r80: float
    rms: float
    peak: float
    center: tuple[float, float]


class ProbeSize(_ProbeSize, Storable, stored="fwhm r50 r80 rms center: [Å]; peak: [1/Å²]"):
    """How large a probe is. Lengths in Å, from the centre of its intensity.

    Attributes
    ----------
    fwhm : float
        Full width at half of the maximum of the mean over angles. For a probe that is dark in the middle it is measured on the outer
        side of the ring.
    r50, r80 : float
        Radii that hold half and four fifths of the current.
    rms : float
        √⟨r²⟩. Infinite for a hard aperture, whose tails fall as 1/r³.
    peak : float
        Highest intensity, 1/Å².
    center : (float, float)
        Å from the middle of the field.
    """

    __slots__ = ()

    @property
    def d50(self) -> float:
        """Return the diameter that holds half of the current, Å."""
        return 2 * self.r50

    @property
    def d80(self) -> float:
        """Return the diameter that holds four fifths of the current, Å."""
        return 2 * self.r80


@on_host("image")
def real_space(wave: ArrayLike, q_pixel: float, *, sampling: float | None = None) -> RealSpaceProbe:
    """Transform the wave in the aperture to the probe ψ(r).

    ψ(r) = ∫ Ψ₀(k) exp(2πi k·r) d²k, normalised so that Σ |ψ|² dA = 1. The field of view is 1 / q_pixel.

    Parameters
    ----------
    wave : (Qx, Qy) complex array
        From `gpu4d.probe.wavefunction`, with k = 0 at pixel (Qx // 2, Qy // 2).
    q_pixel : float
        1/Å.
    sampling : float, optional
        Largest pixel of the probe, Å. The wave is padded with zeros to reach it. Default: 1 / (Qx q_pixel).

    Returns
    -------
    RealSpaceProbe

    Raises
    ------
    InputError
        The wave is no image or holds nothing, a number is not positive, or the wave reaches the border of the detector, which cuts its
        aperture.

    Warns
    -----
    UserWarning
        The probe is as large as the field of view. What leaves it comes back on the other side, and `probe_size` refuses such a probe.

    Examples
    --------
    >>> import gpu4d
    >>> wave = gpu4d.probe.wavefunction(20.0, energy=300e3, q_pixel=0.02, shape=(128, 128))
    >>> probe = real_space(wave, 0.02, sampling=0.1)
    >>> probe, round(float(probe.intensity.sum() * probe.area), 6)
    (RealSpaceProbe(500×500, 0.1 Å a pixel), 1.0)
    """
    given = complex_values(wave, "wave", "a wave (Qx, Qy)")
    if given.ndim != 2 or min(given.shape) < 2 or not given.any():
        raise InputError(f"wave has shape {given.shape}: need a wave (Qx, Qy) that is not all 0")
    if not (real_number(q_pixel, "q_pixel") > 0 and (sampling is None or real_number(sampling, "sampling") > 0)):
        raise InputError(f"q_pixel={q_pixel}, sampling={sampling}: need positive numbers, 1/Å and Å")
    q_pixel = float(q_pixel)
    _check_uncut(given, q_pixel)
    size = [n if sampling is None else max(n, math.ceil(1 / (q_pixel * sampling) - 1e-9)) for n in given.shape]
    wide = np.zeros(size, np.complex128)
    place = tuple(slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in zip(size, given.shape))
    wide[place] = given
    psi = np.fft.fftshift(fft.ifft2(np.fft.ifftshift(wide)))
    pixel = (1 / (size[0] * q_pixel), 1 / (size[1] * q_pixel))
    psi /= math.sqrt(float((psi.real**2 + psi.imag**2).sum()) * pixel[0] * pixel[1])
    probe = RealSpaceProbe(psi, pixel)
    _warn_if_full(probe, q_pixel)
    return probe


def _check_uncut(wave: np.ndarray, q_pixel: float) -> None:
    """Raise InputError if a wave reaches the border of the detector."""
    size = np.abs(wave)
    border = np.concatenate([size[0], size[-1], size[1:-1, 0], size[1:-1, -1]]) > OPEN * size.max()
    if border.any():
        shape = "×".join(map(str, wave.shape))
        far = " and ".join(f"{n // 2 * q_pixel:.3g}" for n in dict.fromkeys(wave.shape))
        raise InputError(
            f"the wave is cut: {border.sum()} of the {border.size} pixels at the border of the detector are open. {shape} pixels of "
            f"{q_pixel:g} 1/Å reach {far} 1/Å, and the aperture reaches further. Give more pixels, or a larger q_pixel (the field of "
            "view is 1/q_pixel)"
        )


def _warn_if_full(probe: RealSpaceProbe, q_pixel: float) -> None:
    """Warn if much of the current is at the border of the field."""
    share = _at_border(probe)
    if share > FULL:
        warnings.warn(
            f"{share:.0%} of the current is at the border of the field of view 1/q_pixel = {1 / q_pixel:.3g} Å: the probe is as large as "
            f"the field, or larger, and has no size. Need a q_pixel of {q_pixel / 2:.2g} 1/Å or less, with as many more pixels",
            stacklevel=3,
        )


def _at_border(probe: RealSpaceProbe) -> float:
    """Return the part of the current that is at the border of the field."""
    x, y = (np.abs(v) <= RIM * 0.5 * n * d for v, n, d in zip(probe.grid(), probe.psi.shape, probe.pixel))
    intensity = probe.intensity
    return 1 - float(intensity[x & y].sum() / intensity.sum())


def probe_size(probe: RealSpaceProbe) -> ProbeSize:
    """Measure the size of a probe: full width at half maximum, radii that hold half and four fifths of the current, rms radius, peak.

    The field of view must be several times the probe. Tails that leave it come back on the other side.

    Parameters
    ----------
    probe : RealSpaceProbe

    Returns
    -------
    ProbeSize

    Raises
    ------
    InputError
        The probe is as large as the field of view, or larger: more than a twentieth of its current is at the border. It has no size then,
        because what leaves the field comes back on the other side.

    Notes
    -----
    A focused probe of a round aperture with semi-angle α has fwhm = 0.5145 λ/α, r50 = 0.267 λ/α and r80 = 0.448 λ/α (Airy).

    Mean over angles and enclosed current are computed from the Fourier transform Â(k) of the intensity: Σ Â J₀(2πkr) dk² and
    Σ Â r J₁(2πkr) / k dk². So they do not depend on where the pixels lie.

    Examples
    --------
    >>> import gpu4d
    >>> wave = gpu4d.probe.wavefunction(20.0, energy=300e3, q_pixel=0.01, shape=(256, 256))
    >>> size = probe_size(real_space(wave, 0.01))
    >>> unit = gpu4d.physics.wavelength(300e3) / 20e-3
    >>> round(size.fwhm / unit, 3), round(size.r50 / unit, 3), size.rms
    (0.514, 0.267, inf)
    """
    share = _at_border(probe)
    if share > FULL:
        field = " × ".join(f"{n * d:.3g}" for n, d in zip(probe.psi.shape, probe.pixel))
        raise InputError(
            f"{share:.0%} of the current is at the border of the field of {field} Å: the probe is as large as it, or larger, and its "
            "size would be that of the field. Make the wave with half of the q_pixel and twice as many pixels, or less defocus"
        )
    center = _center(probe.intensity, probe.pixel)
    half = 0.5 * min(n * d for n, d in zip(probe.psi.shape, probe.pixel))
    profile = _Profile(probe, center)
    r = np.linspace(0.0, half, max(int(FINE * profile.highest * half), 64))
    light, held = profile.mean(r), profile.enclosed(r)
    rms, inner = (_rms_radius(probe, center, part * half) for part in (1.0, 0.5))
    rms = math.inf if rms > GROWS * inner else rms
    r50, r80 = (profile.solve(profile.enclosed, part, r, held) for part in LIGHT)
    top = int(np.argmax(light))
    falling = np.flatnonzero(light[top:] < 0.5 * light[top])
    width = math.nan
    if len(falling):
        j = top + int(falling[0])
        width = 2 * profile.solve(profile.mean, 0.5 * float(light[top]), r[j - 1 : j + 1], light[j - 1 : j + 1])
    return ProbeSize(width, r50, r80, rms, float(probe.intensity.max()), center)


class _Profile:
    """Mean over angles, and enclosed current, about the centre of a probe."""

    def __init__(self, probe: RealSpaceProbe, center: tuple[float, float]):
        # |ψ|² has twice the frequencies of ψ: on so fine a grid none of them comes back as another one. Empty frequencies are left out.
        waves = np.fft.fftshift(fft.fft2(np.fft.ifftshift(probe.psi)))
        seen = np.argwhere(np.abs(waves) > EMPTY * np.abs(waves).max()) - np.array(waves.shape) // 2
        reach = [min(int(m) + 1, n // 2) for m, n in zip(np.abs(seen).max(axis=0), waves.shape)]
        size = tuple(4 * m + 2 for m in reach)
        wide = np.zeros(size, np.complex128)
        for_each = [(n // 2 - m, min(n // 2 + m + 1, n)) for n, m in zip(waves.shape, reach)]
        part = waves[slice(*for_each[0]), slice(*for_each[1])]
        first = [n // 2 - m for n, m in zip(size, reach)]
        wide[first[0] : first[0] + part.shape[0], first[1] : first[1] + part.shape[1]] = part
        psi = fft.ifft2(np.fft.ifftshift(wide))
        pixel = [d * n / m for d, n, m in zip(probe.pixel, probe.psi.shape, size)]
        density = psi.real**2 + psi.imag**2
        density /= density.sum() * pixel[0] * pixel[1]
        kx, ky = (np.fft.fftfreq(n, d) for n, d in zip(size, pixel))
        turn = np.exp(2j * math.pi * kx * center[0])[:, None] * np.exp(2j * math.pi * ky * center[1])[None, :]
        power = (fft.fft2(density) * turn).real * pixel[0] * pixel[1]  # Â(k); the imaginary part is odd
        step = [1 / (n * d) for n, d in zip(size, pixel)]
        k = np.hypot(kx[:, None], ky[None, :])
        number = np.rint(k * (BINS / min(step))).astype(np.int64).ravel()
        weight = np.bincount(number, power.ravel())
        count = np.bincount(number)
        used = (count > 0) & (np.abs(weight) > 1e-12 * np.abs(weight).max())
        self.k = (np.bincount(number, k.ravel()) / np.maximum(count, 1))[used]
        self.weight = weight[used] * step[0] * step[1]
        self.highest = float(self.k.max())

    def mean(self, r: np.ndarray) -> np.ndarray:
        """Return the mean intensity at distances r, 1/Å²."""
        from scipy.special import j0

        return self._sum(lambda some: j0(2 * math.pi * self.k * some), r)

    def enclosed(self, r: np.ndarray) -> np.ndarray:
        """Return the part of the current inside r."""
        from scipy.special import j1

        safe = np.where(self.k > 0, self.k, 1.0)
        return self._sum(lambda some: np.where(self.k > 0, some * j1(2 * math.pi * safe * some) / safe, math.pi * some**2), r)

    def _sum(self, term: Callable[[np.ndarray], np.ndarray], r: np.ndarray) -> np.ndarray:
        parts = [term(some[:, None]) @ self.weight for some in np.array_split(np.atleast_1d(r), max(1, np.size(r) // 64))]
        return np.concatenate(parts)

    def solve(self, function: Callable[[np.ndarray], np.ndarray], value: float, r: np.ndarray, known: np.ndarray) -> float:
        """Return the first distance at which a function passes a value, Å. NaN if it does not on r."""
        from scipy.optimize import brentq

        passed = np.flatnonzero(np.diff(np.sign(known - value)) != 0)
        if not len(passed):
            return math.nan
        first = int(passed[0])
        return float(brentq(lambda at: float(function(np.asarray([at]))[0]) - value, r[first], r[first + 1], xtol=1e-10))


def _rms_radius(probe: RealSpaceProbe, center: tuple[float, float], reach: float) -> float:
    """Return √⟨r²⟩ of the current within `reach` of the centre, Å."""
    x, y = (v - c for v, c in zip(probe.grid(), center))
    square = x * x + y * y
    light = np.where(square <= reach**2, probe.intensity, 0.0)
    return math.sqrt(float((light * square).sum() / light.sum()))


def angular_momentum(probe: RealSpaceProbe) -> float:
    """Compute the mean orbital angular momentum of an electron along the beam, in units of ħ.

    ⟨L⟩ = Σ ψ* (−i) (x ∂ψ/∂y − y ∂ψ/∂x) / Σ |ψ|². It is the charge of a vortex, and 0 for any real wave.

    Parameters
    ----------
    probe : RealSpaceProbe

    Examples
    --------
    >>> import gpu4d
    >>> wave = gpu4d.probe.wavefunction(gpu4d.probe.apertures.vortex(20.0, 2), energy=300e3, q_pixel=0.02, shape=(128, 128))
    >>> round(angular_momentum(real_space(wave, 0.02)), 1)
    2.0
    """
    psi = probe.psi
    waves = fft.fft2(np.fft.ifftshift(psi))
    kx, ky = (np.fft.fftfreq(n, d) for n, d in zip(psi.shape, probe.pixel))
    by_x, by_y = (np.fft.fftshift(fft.ifft2(waves * (2j * math.pi * k))) for k in (kx[:, None], ky[None, :]))
    x, y = probe.grid()
    density = np.conj(psi) * -1j * (x * by_y - y * by_x)
    return float(density.sum().real / (psi.real**2 + psi.imag**2).sum())


def depth_of_focus(semiangle: float, energy: float) -> float:
    """Return the depth over which a round probe stays focused: λ / α².

    The criterion: at a defocus of half of it, to either side, the phase at the rim is π/2, and the intensity on the axis has fallen to
    (sin u / u)² = 0.81 of that in focus, with u = π/4. Whether a specimen counts as a projection is often judged by 1.7 λ/α² (the guide's
    pitfall 3), about the full width at half maximum of the intensity along the axis (1.77 λ/α²): 1.7 times this depth.

    Parameters
    ----------
    semiangle : float
        mrad.
    energy : float
        eV.

    Returns
    -------
    float
        Å.

    Examples
    --------
    >>> round(depth_of_focus(20.0, 300e3), 1)
    49.2
    """
    if not real_number(semiangle, "semiangle") > 0:
        raise InputError(f"semiangle={semiangle}: need a positive angle in mrad")
    return physics.wavelength(energy) / (semiangle * 1e-3) ** 2


def _center(intensity: np.ndarray, pixel: tuple[float, float]) -> tuple[float, float]:
    """Return the centre of the intensity on a periodic field, Å from its middle."""
    out = []
    for axis, d in enumerate(pixel):
        line = intensity.sum(axis=1 - axis)
        n = len(line)
        turn = (line * np.exp(2j * math.pi * (np.arange(n) - n // 2) / n)).sum()
        out.append(float(np.angle(turn)) / (2 * math.pi) * n * d)
    return out[0], out[1]
