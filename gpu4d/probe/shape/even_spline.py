"""Smooth values over the distance from a centre. Their own noise determines how smooth the result is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpu4d.errors import InputError

STRENGTHS = 10.0 ** np.arange(6.0, -12.0, -0.5)  # strengths of smoothing that are tried, relative to the data
LEAST_NOISE = 1e-4  # rms, in the unit of the values: deviation of clean images from a function of the distance
REGULAR = 1e-10  # of the mean weight of a coefficient; needed if the terms and a weakly smoothed spline can describe the same curve

LEAST_KNOTS = 4  # coefficients: the third differences, which are kept small, need so many

Terms = Callable[[Any], np.ndarray]


def even_spline(
    r: np.ndarray, values: np.ndarray, variance: np.ndarray, terms: Terms, step: float, noisy: float | None = None
) -> Callable[[Any], Any]:
    """Fit a smoothing spline, even in r, plus terms without a penalty. Beyond the last r only the terms are left.

    The model is values = Σ c_j B_j(r) + Σ d_k terms_k(r) + noise, with cubic B-splines on knots `step` apart. The third differences of c
    are taken as normally distributed with variance σ²/λ. The noise has σ² times the given variance. λ is the value of largest
    restricted likelihood, with σ, c and d unknown. So neither the scale of the values nor their noise has to be known. In a gap
    between the distances the spline is as smooth as elsewhere.

    Generalised maximum likelihood: Wahba, Annals of Statistics 13, 1378 (1985); splines with penalised differences: Eilers and Marx,
    Statistical Science 11, 89 (1996).

    Parameters
    ----------
    r, values, variance : (n,) float64
        Distances, pixels; measured values; their relative variances, on any scale.
    terms : callable
        Takes distances (m,) and returns (m, terms).
    step : float
        Distance of the knots, pixels.
    noisy : float, optional
        Number of values that have noise. Default: all. Values with less noise than their variance would make the noise of the others
        seem too small.

    Returns
    -------
    callable
        Takes distances of any shape and returns the smooth values.
    """
    from scipy.interpolate import BSpline
    from scipy.sparse import csr_array, diags_array

    last = float(r.max(initial=0.0))
    count = int(np.ceil(last / step)) + 2  # coefficients of the B-splines centred on 0, step, 2 step, …
    if not len(r) or count < LEAST_KNOTS:
        raise InputError(f"{len(r)} pixels within {last:.2f} px are too few to find the shape of the probe: use refine='correlation'")
    knots = step * np.arange(-count - 1, count + 2)
    shared = np.abs(np.arange(1 - count, count))  # coefficient of each B-spline: the two at -r and r share one
    fold = csr_array((np.ones(len(shared)), (np.arange(len(shared)), shared)))
    design = csr_array(BSpline.design_matrix(r, knots, 3)) @ fold
    weighted, beside = design.T @ diags_array(1 / variance), terms(r)
    normal = weighted @ design
    bands = np.stack([np.pad(normal.diagonal(k), (0, k)) for k in range(4)])
    corner = np.einsum("ni,n,nj->ij", beside, 1 / variance, beside)
    power = float((values**2 / variance).sum())
    c, d = _likeliest(
        bands, weighted @ beside, corner, weighted @ values, (values / variance) @ beside, power, len(r) if noisy is None else noisy
    )
    spline = BSpline(knots, c[shared], 3)

    def curve(q: Any) -> Any:
        """Return the smooth values at distances q of any shape."""
        q = np.asarray(q)
        return np.where(q <= last, spline(np.minimum(q, last)), 0.0) + (terms(q.ravel()) @ d).reshape(q.shape)

    return curve


def _likeliest(
    bands: np.ndarray, beside: np.ndarray, corner: np.ndarray, right: np.ndarray, below: np.ndarray, power: float, noisy: float
) -> tuple[np.ndarray, np.ndarray]:
    """Solve for coefficients c, d, with the penalty of the likeliest strength.

    The normal equations are [[bands, beside], [besideᵀ, corner]] [c, d] = [right, below]. `power` is the sum of squares of the values.
    The matrix is banded except for a few full columns, and is solved by its Schur complement.
    """
    from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded

    count, terms = beside.shape
    rough = _roughness(count)
    small = REGULAR * bands[0].mean()
    scale = bands[0].sum() / rough[0].sum()
    bands, rough = bands + small * (np.arange(4) == 0)[:, None], scale * rough
    columns = np.concatenate([right[:, None], beside], axis=1)
    freedom = max(noisy - terms - 2, 1.0)  # the penalty does not act on the terms, nor on a constant and r²
    least, found = np.inf, (np.zeros(count), np.zeros(terms))
    for strength in STRENGTHS:
        try:
            factor = cholesky_banded(bands + strength * rough, lower=True)
        except LinAlgError:
            continue  # too little smoothing for double precision
        solved = cho_solve_banded((factor, True), columns)
        complement = corner + small * np.eye(terms) - np.einsum("ni,nj->ij", beside, solved[:, 1:])
        sign, size = np.linalg.slogdet(complement)
        if sign <= 0:
            continue
        d = np.linalg.solve(complement, below - np.einsum("ni,n->i", beside, solved[:, 0]))
        c = solved[:, 0] - (solved[:, 1:] * d).sum(-1)
        misfit = max(power - (right * c).sum() - (below * d).sum(), 0.0) + noisy * LEAST_NOISE**2
        deviance = freedom * np.log(misfit) + 2 * np.log(factor[0]).sum() + size - (count - 2) * np.log(strength)
        if deviance < least:
            least, found = deviance, (c, d)
    return found


def _roughness(count: int) -> np.ndarray:
    """Return the main and lower diagonals (4, count) of DᵀD, with D the third differences of …, c₁, c₀, c₁, c₂, … (even about 0)."""
    index = np.abs(np.arange(-2, count))
    fold = np.zeros((len(index), count))
    fold[np.arange(len(index)), index] = 1
    differences = np.diff(fold, 3, axis=0)
    bands = [(differences[:, k:] * differences[:, : count - k]).sum(0) for k in range(4)]
    return np.stack([np.pad(band, (0, k)) for k, band in enumerate(bands)])
