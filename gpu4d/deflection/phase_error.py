"""Carry the errors of a field through the integration: standard errors of the phase, and of the curl-free part of the field."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values, scan_mask
from gpu4d.deflection.curl_free import box_of
from gpu4d.deflection.integrate_gradient import integrate_gradient
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

ORDERS = {None: None, "mean": 0, "plane": 1}  # descan -> order of the polynomial that was subtracted


@on_host("map")
def phase_error(
    variance: ArrayLike,
    step: float = 1.0,
    lambda1: float = 0.0,
    lambda2: float = 0.0,
    boundary: str = "mirror",
    *,
    descan: str | None = None,
    where: ArrayLike | None = None,
) -> np.ndarray:
    """Compute the standard error of an integrated phase at every position, from the variance of the field that was integrated.

    The phase is linear in the field, φ = L g. The integration is diagonal in cosines of the scan (sines for the components), so for
    errors that do not depend on each other the variance is

        var φ(x, y) = Δ² Σ_k (k_x² s_x² + k_y² s_y²) / (2π (λ₁ + k² + λ₂ k⁴))² c_kx(x)² c_ky(y)²

    with the orthonormal cosines c and the mean variances s² of the components. If a mean or a plane of descan was fitted and subtracted,
    the part of the noise that went with it is taken out exactly.

    Parameters
    ----------
    variance : (Rx, Ry, 2) real
        Of the components of the field along x and y. The mean over the finite positions counts: for unequal errors the map of
        the result is an approximation.
    step, lambda1, lambda2
        As for `integrate_gradient`.
    boundary : {"mirror", "periodic"}
        The noise of "padded" depends on its rounds: it was 1.2 to 1.3 times that of "mirror" after 25, and is not computed.
    descan : {"mean", "plane", None}
        What was fitted to the field and subtracted from it.
    where : (Rx, Ry) bool, optional
        Positions to which the descan was fitted.

    Returns
    -------
    (Rx, Ry) float64
        On the host, in the unit of field × step. NaN where the variance is NaN.

    Raises
    ------
    InputError
        Wrong shapes, negative numbers, or a word that is not known.

    Examples
    --------
    >>> import numpy as np
    >>> error = phase_error(np.full((32, 32, 2), 0.01), step=2.0)
    >>> error.shape, bool(error[0, 0] > error[16, 16])      # corners are known least
    ((32, 32), True)
    """
    spread, shape, known = _mean_variance(variance)
    fitted = scan_mask(where, shape)
    step, lambda1, lambda2 = (float(real_number(v, n)) for v, n in ((step, "step"), (lambda1, "lambda1"), (lambda2, "lambda2")))
    if boundary not in ("mirror", "periodic"):
        raise InputError(f"boundary={boundary!r}: errors are known for 'mirror' and 'periodic'")
    if descan not in ORDERS:
        raise InputError(f"descan={descan!r}: need one of {', '.join(map(repr, ORDERS))}")
    if not (lambda1 >= 0 and lambda2 >= 0):
        raise InputError(f"lambda1={lambda1}, lambda2={lambda2}: need numbers ≥ 0")
    periodic = boundary == "periodic"
    kx, ky, full = _frequencies(shape, periodic)
    square, usable = kx**2 + ky**2, kx**2 + ky**2 > 0
    weight = 2 * np.pi * (lambda1 + square + lambda2 * full**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(usable, (kx**2 * spread[0] + ky**2 * spread[1]) / weight**2, 0.0)
    found = _over_scan(share, (_cosines, _cosines), periodic)
    order = ORDERS[descan]
    if order is not None:
        found = found - _lost_with_descan(shape, fitted, order, spread, (lambda1, lambda2, boundary))
    return np.where(known, step * np.sqrt(np.maximum(found, 0.0)), np.nan)


@on_host("map")
def curl_free_error(variance: ArrayLike) -> np.ndarray:
    """Compute the standard errors of the curl-free part of a field, from the variance of the field.

    Parameters
    ----------
    variance : (Rx, Ry, 2) real
        Of the components of the field; its means count, as for `phase_error`.

    Returns
    -------
    (Rx, Ry, 2) float64
        On the host. About √½ of those of the field.

    Raises
    ------
    InputError
        Wrong shapes or negative numbers.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(np.sqrt(np.mean(curl_free_error(np.ones((24, 24, 2))) ** 2))), 2)
    0.71
    """
    spread, _, known = _mean_variance(variance)
    box = box_of(known)
    shape = known[box].shape
    kx, ky, _ = _frequencies(shape, False)
    square, usable = kx**2 + ky**2, kx**2 + ky**2 > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        along = (kx**2 * spread[0] + ky**2 * spread[1]) / square**2
        shares = [np.where(usable, k**2 * along, 0.0) for k in (kx, ky)]
    found = np.full((*known.shape, 2), np.nan)
    for i, basis in enumerate(((_sines, _cosines), (_cosines, _sines))):
        found[(*box, i)] = np.sqrt(_over_scan(shares[i], basis, False))
    return np.where(known[..., None], found, np.nan)


def _mean_variance(variance: ArrayLike) -> tuple[np.ndarray, tuple[int, int], np.ndarray]:
    """Return the mean variances of both components, the shape of the scan, and where values are known."""
    values = real_values(variance, "variance", "(Rx, Ry, 2)").astype(np.float64)
    if values.ndim != 3 or values.shape[-1] != 2 or 0 in values.shape:
        raise InputError(f"variance has shape {values.shape}: need (Rx, Ry, 2), that of both components at every position")
    known: np.ndarray = np.asarray(np.isfinite(values).all(axis=-1))
    if (values[known] < 0).any():
        raise InputError("variance has negative values: need squares of standard errors")
    spread = values[known].mean(axis=0) if known.any() else np.full(2, np.nan)
    return spread, (values.shape[0], values.shape[1]), known


def _frequencies(shape: tuple[int, int], periodic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return k_x and k_y of the derivatives, which have no Nyquist frequency, and k² with it; cycles per position."""
    if periodic:
        kx, ky = (np.fft.fftfreq(n) for n in shape)
    else:
        kx, ky = (np.arange(n) / (2 * n) for n in shape)
    full = kx[:, None] ** 2 + ky**2
    kx, ky = (np.where(np.abs(np.abs(k) - 0.5) < 1e-12, 0.0, k) for k in (kx, ky))
    return kx[:, None] + 0 * ky, 0 * kx[:, None] + ky, full


def _over_scan(share: np.ndarray, bases: tuple, periodic: bool) -> np.ndarray:
    """Sum variances of independent waves at every position."""
    if periodic:
        return np.full(share.shape, share.sum() / share.size)
    left, right = (basis(n) ** 2 for basis, n in zip(bases, share.shape))
    return left.T @ share @ right


def _cosines(n: int) -> np.ndarray:
    """Return orthonormal cosines (frequency, position) that are even about both ends."""
    table = math.sqrt(2 / n) * np.cos(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n)
    table[0] = math.sqrt(1 / n)
    return table


def _sines(n: int) -> np.ndarray:
    """Return the orthonormal sines that are derivatives of `_cosines`; the first is zero."""
    return math.sqrt(2 / n) * np.sin(np.pi * np.outer(np.arange(n), np.arange(n) + 0.5) / n)


def _lost_with_descan(shape: tuple[int, int], where: np.ndarray | None, order: int, spread: np.ndarray, how: tuple) -> np.ndarray:
    """Return by how much the variance falls because a polynomial is fitted and subtracted: 2 (L T)(L A) − (L T) G (L T).

    T are the terms, M the fitted positions, G = (Tᵀ M T)⁻¹, and A = M T G gives the coefficients of the noise.
    """
    x, y = (np.linspace(-1, 1, n).reshape(s) for n, s in ((shape[0], (-1, 1)), (shape[1], (1, -1))))
    one = np.ones(shape)
    terms = np.stack([one] if order == 0 else [one, one * x, one * y])
    fitted = terms if where is None else terms * where
    inverse = np.linalg.pinv(np.einsum("iab,jab->ij", fitted, fitted))
    back = np.einsum("ij,jab->iab", inverse, fitted)
    lost = np.zeros(shape)
    for component in (0, 1):
        solved = []
        for group in (terms, back):
            fields = np.zeros((*group.shape, 2))
            fields[..., component] = group
            solved.append(integrate_gradient(fields, 1.0, *how))
        of_terms, of_back = solved
        change = 2 * (of_terms * of_back).sum(axis=0) - np.einsum("iab,ij,jab->ab", of_terms, inverse, of_terms)
        lost += spread[component] * change
    return lost
