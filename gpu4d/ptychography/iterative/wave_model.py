"""Propagate probes through the slices of an object to the detector, and the misfit's gradient back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays, fft


@dataclass(frozen=True)
class WaveModel:
    """What a run does not change.

    Attributes
    ----------
    shape : (int, int)
        Of a pattern, as it is reconstructed.
    propagator : (N, N) complex array or None
        exp(-iπλ k² Δz), from one slice to the next, zero frequency first. None for a single slice.
    measured : (N, N) real array or None
        1 where the detector counts, zero frequency first.
    likelihood : {"poisson", "amplitude"}
    background : float
        Counts per pixel.
    """

    shape: tuple[int, int]
    propagator: Any = None
    measured: Any = None
    likelihood: str = "poisson"
    background: float = 0.1


class Ramps(NamedTuple):
    """Phase ramps that put probes to their places: exp(-2πi kx sx), (n, N), and the same along y."""

    rows: Any
    columns: Any


def ramps(places: np.ndarray, shape: tuple[int, int], like: Any) -> Ramps:
    """Return the phase ramps of probes at places s (n, 2) in pixels, of the library and dtype of the complex array `like`."""
    kind = np.dtype(str(like.dtype).rpartition(".")[2])
    found = []
    for axis, size in enumerate(shape):
        turns = places[:, axis, None] * fft.frequencies(size)
        angle = (2 * np.pi * (np.rint(turns) - turns)).astype(kind.type(0).real.dtype)  # small angles keep their digits in single precision
        ramp = np.empty(angle.shape, kind)
        ramp.real, ramp.imag = np.cos(angle), np.sin(angle)
        found.append(arrays.from_numpy(ramp, like))
    return Ramps(*found)


def squared(wave: Any) -> Any:
    """Return |wave|²."""
    xp = arrays.namespace(wave)
    re, im = xp.real(wave), xp.imag(wave)
    return re * re + im * im


def forward(model: WaveModel, patches: Any, probes: Any, ramp: Ramps) -> tuple[list[Any], Any]:
    """Return the waves that enter every slice, and the wave on the detector.

    Parameters
    ----------
    model : WaveModel
    patches : (S, n, N, N) complex
        Transmission of the slices around every position.
    probes : (M, N, N) complex
        Ψ of every mode in the plane of the aperture, zero frequency first. Σ |Ψ|² is in counts.
    ramp : Ramps
        Of the place s of every probe in its patch.

    Returns
    -------
    incident : list of (n, M, N, N) complex
        At every slice.
    detector : (n, M, N, N) complex
        Zero frequency first. Σ |ψ|² over modes is the expected intensity.
    """
    return through(patches, fft.ifft2_of_spent(probes[None, ...] * whole(ramp)), model.propagator)


def whole(ramp: Ramps) -> Any:
    """Return the ramps of both axes together, (n, 1, N, N)."""
    return ramp.rows[:, None, :, None] * ramp.columns[:, None, None, :]


def through(patches: Any, wave: Any, transfer: Any) -> tuple[list[Any], Any]:
    """Take a wave (n, M, N, N) through the slices: `forward` from the entrance of the object on."""
    incident = [wave]
    for i in range(1, patches.shape[0]):
        wave = propagated(wave * patches[i - 1, :, None, ...], transfer)
        incident.append(wave)
    return incident, fft.fft2_of_spent(wave * patches[-1, :, None, ...])


def propagated(spent: Any, transfer: Any) -> Any:
    """Return waves filtered by a transfer function. The waves are not needed any more, and may be overwritten."""
    spectrum = fft.fft2_of_spent(spent)
    if isinstance(spectrum, np.ndarray):
        spectrum *= transfer
        return fft.ifft2_of_spent(spectrum)
    return fft.ifft2_of_spent(spectrum * transfer)


def propagator(shape: tuple[int, int], q_pixel: float, offset: tuple[float, float], wavelength: float, distance: float) -> np.ndarray:
    """Return exp(-iπλ k² Δz) on the grid of a pattern, (N, N) complex128, zero frequency first.

    Parameters
    ----------
    shape : (int, int)
    q_pixel : float
        1/Å.
    offset : (float, float)
        Where the axis is, in pixels from the zero frequency: frequencies are (i - offset) q_pixel.
    wavelength, distance : float
        Å.
    """
    kx, ky = ((np.fft.fftfreq(n, 1 / n) - o) * q_pixel for n, o in zip(shape, offset))
    return np.exp(-1j * np.pi * wavelength * distance * (kx[:, None] ** 2 + ky[None, :] ** 2))
