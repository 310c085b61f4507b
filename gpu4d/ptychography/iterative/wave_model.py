"""Propagate probes through the slices of an object to the detector, and the misfit's gradient back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.ptychography.iterative.likelihood import misfit


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


@dataclass(frozen=True)
class Gradients:
    """Gradients of the misfit for some positions, and what a preconditioner needs.

    Attributes
    ----------
    misfit : () float64
    patches : (S, n, N, N) complex
        ∂L/∂O* / N² for the patch of every slice and position; N² is the number of pixels.
    illumination : (S, n, N, N) real
        Σ |incident wave|² over modes.
    probes : (M, N, N) complex
        ∂L/∂Ψ*, summed over positions.
    """

    misfit: Any
    patches: Any
    illumination: Any
    probes: Any


def ramps(places: np.ndarray, shape: tuple[int, int], like: Any) -> Any:
    """Return exp(-2πi k·s) for probes at places s (n, 2) in pixels: (n, 1, N, N), of the library and dtype of the complex array `like`."""
    xp = arrays.namespace(like)
    rows, columns = (
        xp.astype(arrays.from_numpy(np.exp(-2j * np.pi * places[:, axis, None] * fft.frequencies(size)), like), like.dtype)
        for axis, size in enumerate(shape)
    )
    return rows[:, None, :, None] * columns[:, None, None, :]


def squared(wave: Any) -> Any:
    """Return |wave|²."""
    xp = arrays.namespace(wave)
    re, im = xp.real(wave), xp.imag(wave)
    return re * re + im * im


def modes_sum(values: Any) -> Any:
    """Return the sum over modes, axis 1. A single mode is not copied."""
    return values[:, 0, ...] if values.shape[1] == 1 else arrays.namespace(values).sum(values, axis=1)


def forward(model: WaveModel, patches: Any, probes: Any, ramp: Any) -> tuple[list[Any], Any]:
    """Return the waves that enter every slice, and the wave on the detector.

    Parameters
    ----------
    model : WaveModel
    patches : (S, n, N, N) complex
        Transmission of the slices around every position.
    probes : (M, N, N) complex
        Ψ of every mode in the plane of the aperture, zero frequency first. Σ |Ψ|² is in counts.
    ramp : (n, 1, N, N) complex
        exp(-2πi k·s) with the place s of every probe in its patch, pixels.

    Returns
    -------
    incident : list of (n, M, N, N) complex
        At every slice.
    detector : (n, M, N, N) complex
        Zero frequency first. Σ |ψ|² over modes is the expected intensity.
    """
    return through(model, patches, fft.ifft2(probes[None, ...] * ramp))


def through(model: WaveModel, patches: Any, wave: Any) -> tuple[list[Any], Any]:
    """Take a wave (n, M, N, N) through the slices: `forward` from the entrance of the object on."""
    incident = [wave]
    for i in range(1, patches.shape[0]):
        wave = fft.ifft2(fft.fft2(wave * patches[i - 1, :, None, ...]) * model.propagator)
        incident.append(wave)
    return incident, fft.fft2(wave * patches[-1, :, None, ...])


def gradients(model: WaveModel, patches: Any, probes: Any, ramp: Any, counts: Any, *, of_probes: bool = True) -> Gradients:
    """Compute the misfit and its gradients for the object and the probes.

    The gradients are those of Wirtinger, ∂L/∂z* with L real: a small step dz changes L by 2 Re Σ conj(∂L/∂z*) dz. The wave that
    the misfit wants on the detector is taken back through the adjoint of every step of `forward`.

    Parameters
    ----------
    model, patches, probes, ramp
        As in `forward`.
    counts : (n, N, N) real
        Patterns, zero frequency first.
    of_probes : bool
        False leaves the gradient for the probes out: zeros.

    Returns
    -------
    Gradients
    """
    xp = arrays.namespace(patches, probes)
    incident, detector = forward(model, patches, probes, ramp)
    value, factor = misfit(counts, modes_sum(squared(detector)), model.measured, kind=model.likelihood, background=model.background)
    back = fft.ifft2(detector * factor[:, None, ...])
    found, light = [], []
    for i in range(patches.shape[0] - 1, -1, -1):
        found.append(modes_sum(xp.conj(incident[i]) * back))
        light.append(modes_sum(squared(incident[i])))
        if i or of_probes:
            back = back * xp.conj(patches[i, :, None, ...])
        if i:
            back = fft.ifft2(fft.fft2(back) * xp.conj(model.propagator))
    of_probe = xp.sum(fft.fft2(back) * xp.conj(ramp), axis=0) if of_probes else xp.zeros_like(probes)
    return Gradients(value, xp.stack(found[::-1]), xp.stack(light[::-1]), of_probe)


def propagator(shape: tuple[int, int], q_pixel: tuple[float, float], offset: tuple[float, float], wavelength: float, distance: float) -> np.ndarray:
    """Return exp(-iπλ k² Δz) on the grid of a pattern, (N, N) complex128, zero frequency first.

    Parameters
    ----------
    shape, q_pixel : (int, int), (float, float)
        Pixels, 1/Å.
    offset : (float, float)
        The place of the axis in pixel [0, 0], pixels: frequencies are (i - offset) q_pixel.
    wavelength, distance : float
        Å.
    """
    kx, ky = ((np.fft.fftfreq(n, 1 / n) - o) * q for n, q, o in zip(shape, q_pixel, offset))
    return np.exp(-1j * np.pi * wavelength * distance * (kx[:, None] ** 2 + ky[None, :] ** 2))
