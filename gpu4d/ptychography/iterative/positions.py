"""Correct probe positions by the likelihood of their patterns."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays, fft
from gpu4d.ptychography.iterative.wave_model import Ramps, WaveModel, forward, squared, through, whole


def position_equations(model: WaveModel, patches: Any, probes: Any, ramp: Ramps, counts: Any) -> tuple[Any, Any]:
    """Return the normal equations of small shifts of the probes, for Fisher scoring.

    With J = ∂E/∂s, the change of expected intensities E with the probe's place s, the Poisson score is Σ (n / E - 1) J and the
    information is Σ J Jᵀ / E. A shift multiplies Ψ by exp(-2πi k·s), and the changed wave goes through the object as the wave does.

    Parameters
    ----------
    model, patches, probes, ramp
        As in `forward`. n positions.
    counts : (n, N, N) real
        Zero frequency first.

    Returns
    -------
    score : (n, 2) float64
        Of shifts in pixels.
    information : (n, 2, 2) float64
    """
    xp = arrays.namespace(patches, probes)
    _, wave = forward(model, patches, probes, ramp)
    expected = xp.sum(squared(wave), axis=1) + model.background
    factor, weight = counts / expected - 1, 1 / expected
    if model.measured is not None:
        factor, weight = factor * model.measured, weight * model.measured
    changes = []
    for axis, size in enumerate(model.shape):
        k = -2 * math.pi * fft.frequencies(size)
        k = arrays.from_numpy((1j * (k[:, None] if axis == 0 else k[None, :])).astype(str(probes.dtype).rpartition(".")[2]), probes)
        _, change = through(patches, fft.ifft2_of_spent((k * probes)[None, ...] * whole(ramp)), model.propagator)
        changes.append(2 * xp.sum(xp.real(wave) * xp.real(change) + xp.imag(wave) * xp.imag(change), axis=1))

    def total(values: Any) -> Any:
        return xp.sum(values, axis=(1, 2), dtype=xp.float64)

    score = xp.stack([total(factor * change) for change in changes], axis=-1)
    rows = [xp.stack([total(a * b * weight) for b in changes], axis=-1) for a in changes]
    return score, xp.stack(rows, axis=-2)
