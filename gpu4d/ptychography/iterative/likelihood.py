"""Compare expected intensities with counts: the misfit, and the factor that makes its gradient from the wave on the detector."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays

LIKELIHOODS = ("poisson", "amplitude")
TINY = 1e-12  # counts: keeps logarithms and quotients of empty pixels finite
STEP = {"poisson": 0.5, "amplitude": 1.0}  # a full step along the gradient: one over the curvature of the misfit for the wave's modulus


def misfit(counts: Any, expected: Any, measured: Any, *, kind: str, background: float) -> tuple[Any, Any]:
    """Return the misfit and the factor f of its gradient ∂L/∂ψ* = f ψ.

    Poisson: L = Σ E - n + n ln(n / E) with E = |ψ|² + background, so that f = 1 - n / E. It is half the deviance.
    Amplitude: L = Σ (√E - √n)², so that f = 1 - √(n / E). √n has the same variance for all n, so it is the Gaussian likelihood
    of counts that are not few.

    Parameters
    ----------
    counts, expected : (n, N, N) real
        n of the patterns, and Σ |ψ|² over probe modes.
    measured : (N, N) real or None
        1 where the detector counts, 0 where it is masked. Masked pixels may hold any finite value. None if all count.
    kind : {"poisson", "amplitude"}
    background : float
        Counts per pixel that are expected without a wave. It keeps f finite where a count falls on a dark pixel.

    Returns
    -------
    misfit : () float64
        Sum over all patterns.
    factor : (n, N, N) real

    Examples
    --------
    >>> import numpy as np
    >>> value, factor = misfit(np.array([[[4.0]]]), np.array([[[9.0]]]), None, kind="amplitude", background=0.0)
    >>> float(value), round(float(factor[0, 0, 0]), 4)
    (1.0, 0.3333)
    """
    xp = arrays.namespace(counts, expected)
    total = expected + max(background, TINY)
    ratio = counts / total
    if kind == "poisson":
        factor = 1.0 - ratio
        terms = total * factor + counts * xp.log(xp.clip(ratio, TINY))
    else:
        root = xp.sqrt(ratio)
        factor = 1.0 - root
        terms = total * (factor * factor)
    if measured is not None:
        factor, terms = factor * measured, terms * measured
    return xp.sum(terms, dtype=xp.float64), factor
