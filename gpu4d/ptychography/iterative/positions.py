"""Correct probe positions by the likelihood of their patterns."""

from __future__ import annotations

import math
from typing import Any

from gpu4d import arrays, fft
from gpu4d.ptychography.iterative.likelihood import misfit
from gpu4d.ptychography.iterative.wave_model import WaveModel, forward, modes_sum, squared, through


def position_equations(model: WaveModel, patches: Any, probes: Any, ramp: Any, counts: Any) -> tuple[Any, Any]:
    """Return the normal equations of small shifts of the probes, for Fisher scoring.

    With J = ∂E/∂s, the change of expected intensities E with the probe's place s, the Poisson score is Σ (n / E - 1) J and the
    information is Σ J Jᵀ / E. A shift multiplies Ψ by exp(-2πi k·s), and the changed wave goes through the object as the wave does.

    Parameters
    ----------
    model, patches, probes, ramp, counts
        As in `gradients`. n positions.

    Returns
    -------
    score : (n, 2) float64
        Of shifts in pixels.
    information : (n, 2, 2) float64
    """
    xp = arrays.namespace(patches, probes)
    _, wave = forward(model, patches, probes, ramp)
    expected = modes_sum(squared(wave)) + model.background
    _, factor = misfit(counts, expected, model.measured, kind="poisson", background=0.0)
    changes = []
    for axis, size in enumerate(model.shape):
        k = -2 * math.pi * fft.frequencies(size)
        k = arrays.from_numpy(k[:, None] if axis == 0 else k[None, :], probes)
        moved = xp.astype(1j * xp.astype(k, xp.complex128), probes.dtype) * probes
        _, change = through(model, patches, fft.ifft2(moved[None, ...] * ramp))
        product = xp.real(wave) * xp.real(change) + xp.imag(wave) * xp.imag(change)
        changes.append(2 * modes_sum(product))

    def total(values: Any) -> Any:
        return xp.sum(values, axis=(1, 2), dtype=xp.float64)

    weight = 1 / expected if model.measured is None else model.measured / expected
    score = xp.stack([-total(factor * change) for change in changes], axis=-1)
    rows = [xp.stack([total(a * b * weight) for b in changes], axis=-1) for a in changes]
    return score, xp.stack(rows, axis=-2)
