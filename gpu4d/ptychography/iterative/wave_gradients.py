"""Compute the misfit of patterns and its gradients for object and probes: what a step of iterative ptychography costs."""

from __future__ import annotations

from typing import Any, NamedTuple

from gpu4d import arrays, fft
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation
from gpu4d.ptychography.iterative.add_patches import add_patches, take_patches
from gpu4d.ptychography.iterative.likelihood import LIKELIHOODS, misfits
from gpu4d.ptychography.iterative.wave_model import Ramps, propagated, squared, through, whole


class WaveGradients(NamedTuple):
    """Misfit and gradients, and what a preconditioner needs. N² is the number of pixels of a pattern."""

    misfit: Any
    """(n,) float64"""
    wanted: Any
    """(S, X, Y) complex: ∂L/∂O* / N²"""
    light: Any
    """(S, X, Y) real: Σ |incident wave|² over positions and modes"""
    probes: Any
    """(M, N, N) complex: ∂L/∂Ψ*, zeros if not asked for"""


def check(objects: Any, corners: Any, probes: Any, ramp: Ramps, counts: Any) -> None:
    """Raise an error if the shapes do not fit together."""
    n, nx, ny = counts.shape
    fits = len(objects.shape) == len(probes.shape) == 3 and tuple(probes.shape[1:]) == (nx, ny) and tuple(corners.shape) == (n, 2)
    if not fits or tuple(ramp.rows.shape) != (n, nx) or tuple(ramp.columns.shape) != (n, ny):
        shapes = ", ".join(str(tuple(a.shape)) for a in (objects, corners, probes, ramp.rows, ramp.columns, counts))
        raise InputError(f"shapes are {shapes}: need (S, X, Y), (n, 2), (M, Nx, Ny), (n, Nx), (n, Ny), (n, Nx, Ny)")


def check_options(slices: int, propagator: Any, likelihood: str) -> None:
    """Raise an error if slices have no propagator, or a likelihood is not known."""
    if slices > 1 and propagator is None:
        raise InputError(f"{slices} slices and no propagator: need exp(-iπλ k² Δz), (Nx, Ny)")
    if likelihood not in LIKELIHOODS:
        raise InputError(f"likelihood={likelihood!r}: need one of {', '.join(map(repr, LIKELIHOODS))}")


@operation(
    cpu=Twin("gpu4d.cpu_fallback.wave_gradients", ("complex64", "complex128")),
    cuda=Twin("gpu4d.kernels.wave_gradients", ("complex64",)),
)
def wave_gradients(
    objects: Any,
    corners: Any,
    probes: Any,
    rows: Any,
    columns: Any,
    counts: Any,
    measured: Any = None,
    propagator: Any = None,
    /,
    *,
    likelihood: str = "poisson",
    background: float = 0.1,
    of_probes: bool = True,
) -> WaveGradients:
    """Compute the misfit of patterns and its gradients for object and probes, summed over positions.

    Expected intensities are Σ_m |ψ_m|² + background, with ψ_m on the detector as `gpu4d.ptychography.iterative.wave_model.forward`
    has it. The gradients are those of Wirtinger, ∂L/∂z* with L real: a small step dz changes L by 2 Re Σ conj(∂L/∂z*) dz. The
    gradient for the wave on the detector is taken back through the adjoint of every step.

    Parameters
    ----------
    objects : (S, X, Y) complex
        Transmission of the slices.
    corners : (n, 2) int
        Where pixel [0, 0] of the patch under a probe lies. A patch must lie inside the object.
    probes : (M, Nx, Ny) complex
        Ψ of every mode in the plane of the aperture, zero frequency first. Σ |Ψ|² is in counts.
    rows, columns : (n, Nx), (n, Ny) complex
        Phase ramps that put the probes to their places in their patches.
    counts : (n, Nx, Ny) real
        Patterns, at least 0, zero frequency first.
    measured : (Nx, Ny) real or None
        1 where the detector counts, else 0. None if it counts everywhere.
    propagator : (Nx, Ny) complex or None
        From a slice to the next. It is needed for more than one.
    likelihood : {"poisson", "amplitude"}
    background : float
        Counts per pixel.
    of_probes : bool
        False leaves the gradient for the probes out.

    Returns
    -------
    WaveGradients
        Sums are made in the order of the positions.

    Examples
    --------
    >>> import numpy as np
    >>> one, at, counts = np.ones((1, 1, 1), complex), np.array([[0, 0]]), np.full((1, 1, 1), 4.0)
    >>> found = wave_gradients(one, at, 3 * one, one[0], one[0], counts, likelihood="amplitude", background=0.0)
    >>> found.misfit.round(6).tolist(), found.wanted.round(6).ravel().tolist(), found.light.ravel().tolist()
    ([1.0], [(3+0j)], [9.0])
    """
    ramp = Ramps(rows, columns)
    check(objects, corners, probes, ramp, counts)
    check_options(objects.shape[0], propagator, likelihood)
    xp = arrays.namespace(objects, probes)
    patch, shape = tuple(counts.shape[1:]), tuple(objects.shape[1:])
    patches = take_patches(objects, corners, patch)
    incident, detector = through(patches, fft.ifft2(probes[None, ...] * whole(ramp)), propagator)
    misfit, factor = misfits(counts, xp.sum(squared(detector), axis=1), measured, likelihood=likelihood, background=background)
    back = fft.ifft2(detector * factor[:, None, ...])
    wanted, light = [], []
    for i in range(objects.shape[0] - 1, -1, -1):
        wanted.append(xp.sum(xp.conj(incident[i]) * back, axis=1))
        light.append(xp.sum(squared(incident[i]), axis=1))
        back = back * xp.conj(patches[i, :, None, ...])
        if i:
            back = propagated(back, xp.conj(propagator))
    of_probe = xp.sum(fft.fft2(back) * xp.conj(whole(ramp)), axis=0) if of_probes else xp.zeros_like(probes)
    wanted_planes, light_planes = (add_patches(xp.stack(parts[::-1]), corners, shape=shape) for parts in (wanted, light))
    return WaveGradients(misfit, wanted_planes, light_planes, of_probe)
