"""Compare expected intensities with counts: the misfit, and the factor that makes its gradient from the wave on the detector."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays

LIKELIHOODS = ("poisson", "amplitude")
TINY = 1e-12  # counts: keeps logarithms and quotients of empty pixels finite


def misfits(counts: Any, expected: Any, measured: Any, *, likelihood: str, background: float) -> tuple[Any, Any]:
    """Return the misfit L of every pattern, and the factor f of its gradient ∂L/∂ψ* = f ψ.

    Poisson: L = Σ E - n + n ln(n / E) with E = Σ_m |ψ_m|² + background, half the deviance, so that f = 1 - n / E. Amplitude:
    L = Σ (√E - √n)², so that f = 1 - √(n / E). √n has the same variance for all n, so this is the Gaussian likelihood of counts
    that are not few.

    Parameters
    ----------
    counts, expected : (n, N, N) real
        n, at least 0, and Σ_m |ψ_m|².
    measured : (N, N) real or None
        1 where the detector counts, else 0. Counts elsewhere must be finite. None if it counts everywhere.
    likelihood : {"poisson", "amplitude"}
    background : float
        Counts per pixel. It keeps f finite where a count falls on a dark pixel.

    Returns
    -------
    misfit : (n,) float64
    factor : (n, N, N) real

    Examples
    --------
    >>> import numpy as np
    >>> value, factor = misfits(np.array([[[4.0]]]), np.array([[[9.0]]]), None, likelihood="amplitude", background=0.0)
    >>> value.round(6).tolist(), factor.round(4).tolist()
    ([1.0], [[[0.3333]]])
    """
    xp = arrays.namespace(counts, expected)
    total = expected + max(background, TINY)
    ratio = counts / total
    if likelihood == "poisson":
        factor = 1.0 - ratio
        terms = total * factor + counts * xp.log(xp.clip(ratio, TINY))
    else:
        factor = 1.0 - xp.sqrt(ratio)
        terms = total * (factor * factor)
    if measured is not None:
        factor, terms = factor * measured, terms * measured
    return xp.sum(terms, axis=(1, 2), dtype=xp.float64), factor
