"""Find the size of a detector pixel from known spacings, or from the rings of known crystals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.ring_index import PRIOR, Crystals, KnownRings, is_lengths, known_rings, structures
from gpu4d.data.arguments import FARTHEST, LARGEST, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number

LEAST_ERROR = 1e-3  # of a length: a better agreement than this is no evidence, since few detectors are so free of distortion
OTHER = 0.02  # two scales that differ by more index the lengths differently
SURE = 1.0  # difference of the mean log (misfit / distance to the next ring) by which the best scale must beat all others
UNUSUAL = 5.0  # standard errors, rms over the lengths: more, and beyond LEAST_ERROR, is another crystal
TRIED = 12  # each length may be one of so many first rings


class _LengthFit(NamedTuple):
    q_pixel: float
    q_pixel_error: float
    g: np.ndarray
    names: tuple[str, ...]
    misfit: np.ndarray


class LengthFit(_LengthFit, Storable, stored="q_pixel q_pixel_error: [1/Å]; g: length [1/Å]; misfit: length"):
    """A pixel size, and how the lengths fit it.

    Attributes
    ----------
    q_pixel, q_pixel_error : float
        1/Å.
    g : (n,) float64
        Known |g| of each length, 1/Å.
    names : tuple of str
        Crystal and order of each length, or its spacing.
    misfit : (n,) float64
        By which part of itself each length is too long.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        worst = 100 * float(np.abs(self.misfit).max())
        return f"LengthFit(q_pixel {self.q_pixel:.6g} ± {self.q_pixel_error:.2g} 1/Å, {len(self.g)} lengths within {worst:.2g} %)"


@on_host("curve")
def pixel_size(
    lengths: ArrayLike,
    spacings: Crystals,
    weights: ArrayLike | None = None,
    *,
    errors: ArrayLike | None = None,
    q_pixel: float | None = None,
    tolerance: float = 0.02,
) -> tuple[float, float]:
    """Fit the detector pixel to measured |g| and known spacings d, by least squares of 1/d = q_pixel · |g|.

    Several orders and families at once give the best value. For the orders (h, k) of a lattice, pass |h g1 + k g2| and d_hk, or the
    crystal: which length is which ring is then found, too. `index_lengths` shows what was found.

    Parameters
    ----------
    lengths : (n,) array or float
        Measured |g|, px, with the elliptical distortion removed.
    spacings : (n,) array, float, Structure, str, or sequence of Structures and names
        Lattice spacings d, Å, one for each length; or known crystals, such as "Au" of `gpu4d.structures.STANDARDS`.
    weights : (n,) array, optional
        Weights of the squared residuals. By default 1, or 1 / errors².
    errors : (n,) array, optional
        Standard errors of the lengths, px.
    q_pixel : float, optional
        Pixel size known to 12 %, 1/Å. For crystals only.
    tolerance : float
        Largest rms of (q_pixel |g| d − 1). More is an indexing that does not fit.

    Returns
    -------
    q_pixel : float
        1/Å.
    error : float
        Its standard error, 1/Å: from `errors`, enlarged by the scatter if that is larger; without them from the scatter, and NaN for a
        single length.

    Raises
    ------
    InputError
        The lengths do not fit the spacings or crystals, or fit them in several ways; or the arguments cannot be used.

    Examples
    --------
    >>> q, error = pixel_size([24.6, 49.2], [2.039, 1.0195])  # Au 200 and 400
    >>> round(q, 6), error < 1e-9
    (0.019936, True)
    >>> q, error = pixel_size([21.3, 24.6, 34.8, 40.8], "Au", errors=[0.02, 0.02, 0.02, 0.02])
    >>> round(q, 4), round(error, 6)
    (0.0199, 6e-06)
    """
    found = index_lengths(lengths, spacings, weights, errors=errors, q_pixel=q_pixel, tolerance=tolerance)
    return found.q_pixel, found.q_pixel_error


@on_host("curve")
def index_lengths(
    lengths: ArrayLike,
    spacings: Crystals,
    weights: ArrayLike | None = None,
    *,
    errors: ArrayLike | None = None,
    q_pixel: float | None = None,
    tolerance: float = 0.02,
) -> LengthFit:
    """Say which ring of known crystals each measured length is, and fit the detector pixel. Parameters are those of `pixel_size`.

    The scale is that with the smallest mean of log(misfit / distance to the next ring): dense rings agree with anything, and count less.
    It must beat every other scale clearly.

    Raises
    ------
    InputError
        As `pixel_size`.

    Examples
    --------
    >>> index_lengths([21.3, 24.6, 34.8, 40.8], "Au").names
    ('Au 1 1 1', 'Au 2 0 0', 'Au 2 2 0', 'Au 3 1 1')
    """
    length = _positive(lengths, "lengths")
    error = None if errors is None else _positive(errors, "errors")
    w = np.ones_like(length) if weights is None else np.atleast_1d(real_values(weights, "weights")).astype(np.float64).ravel()
    if error is not None and error.shape != length.shape:
        raise InputError(f"{error.size} errors for {length.size} lengths: need one for each, px")
    if w.shape != length.shape or not (((w >= 0) & (w < LARGEST)).all() and w.any()):
        raise InputError(f"{w.size} weights for {length.size} lengths: need one for each, not negative, not all zero")
    if error is not None and weights is None:
        w = 1 / error**2
    if real_number(tolerance, "tolerance") <= 0:
        raise InputError(f"tolerance={tolerance}: need a positive part, as 0.02")
    if is_lengths(spacings):
        d = _positive(spacings, "spacings")
        if length.shape != d.shape:
            raise InputError(f"{length.size} lengths (px) and {d.size} spacings (Å): need as many of both, all positive")
        g, names = 1 / d, tuple(f"{v:.4g} Å" for v in d)
    else:
        g, names = _indexed(length, error, spacings, q_pixel)
    return _fitted(length, g, names, _Weights(w, error), tolerance)


class _Weights(NamedTuple):
    weight: np.ndarray
    error: np.ndarray | None


def _positive(given: Any, name: str) -> np.ndarray:
    values = np.atleast_1d(real_values(given, name)).astype(np.float64).ravel()
    if not values.size or not ((values > 0) & (values < FARTHEST)).all():
        raise InputError(
            f"{name} has {values.size} values, not all positive: need lengths (px) and spacings (Å), as many of both, all positive"
        )
    return values


def _fitted(length: np.ndarray, g: np.ndarray, names: tuple[str, ...], weights: _Weights, tolerance: float) -> LengthFit:
    """Fit the pixel, and refuse lengths that do not fit it."""
    w, error = weights
    total = float(np.sum(w * length * length))
    q = float(np.sum(w * length * g)) / total
    misfit = q * length / g - 1
    used = w > 0
    rms = float(np.sqrt(np.mean(misfit[used] ** 2)))
    strange = False
    chi2 = float("nan")
    if error is not None and length.size > 1:
        chi2 = float(np.sum(((length - g / q) / error)[used] ** 2) / max(int(used.sum()) - 1, 1))
        strange = chi2 > UNUSUAL**2 and rms > 2 * LEAST_ERROR
    if rms > tolerance or strange:
        i = int(np.argmax(np.abs(misfit) * used))
        raise InputError(
            f"the lengths do not fit: at the best pixel size, {q:.5g} 1/Å, they are off by {100 * rms:.2f} % rms; worst is {length[i]:.2f}"
            f" px as {names[i]}, {100 * misfit[i]:+.2f} %: check which length is which, remove the ellipse first, or give other crystals"
        )
    if error is not None:
        # variance of Σ w l g / Σ w l², to first order in the errors of l
        formal = q * float(np.sqrt(np.sum((w * length * error) ** 2))) / total
        return LengthFit(q, formal * float(np.sqrt(max(chi2, 1.0))) if length.size > 1 else formal, g, names, misfit)
    if length.size < 2:
        return LengthFit(q, float("nan"), g, names, misfit)
    variance = float(np.sum(w * (g - q * length) ** 2)) / (length.size - 1)
    return LengthFit(q, float(np.sqrt(variance / total)), g, names, misfit)


def _indexed(length: np.ndarray, error: np.ndarray | None, crystals: Any, q_pixel: float | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return |g| of the ring of each length, and its name."""
    if q_pixel is not None and not 0 < real_number(q_pixel, "q_pixel") < np.inf:
        raise InputError(f"q_pixel={q_pixel}: need a size in 1/Å")
    few = known_rings(crystals, 6 * max(float(np.linalg.norm(s.basis, axis=1).max()) for s in structures(crystals)))
    first = few.g[:TRIED]
    farthest = (1 + PRIOR) * q_pixel * length.max() if q_pixel is not None else first[-1] * length.max() / length.min()
    rings = known_rings(crystals, 1.1 * max(farthest, first[0]))
    trials = np.unique((rings.g[:, None] if q_pixel is not None else first[:, None]) / length[None, :])
    if q_pixel is not None:
        trials = trials[np.abs(trials / q_pixel - 1) < PRIOR]
    if not trials.size:
        raise InputError(f"with q_pixel = {q_pixel:g} 1/Å no ring of the crystals has one of these lengths: check both")
    floor = np.maximum(LEAST_ERROR, 0.0 if error is None else error / length)
    judged = sorted((_cost(rings, length, floor, float(q)) for q in trials), key=lambda t: t[0])
    cost, q, which = judged[0]
    rivals = [t for t in judged if abs(t[1] / q - 1) > OTHER]
    if rivals and rivals[0][0] < cost + SURE / np.sqrt(length.size):
        raise InputError(
            f"the {length.size} lengths fit the crystals with a pixel of {q:.4g} and of {rivals[0][1]:.4g} 1/Å alike:"
            " give more lengths, q_pixel (to 12 %), or the spacing of each length"
        )
    return rings.g[which], tuple(rings.names[i] for i in which)


def _cost(rings: KnownRings, length: np.ndarray, floor: np.ndarray, q: float) -> tuple[float, float, np.ndarray]:
    """Return the cost of a pixel size, the size improved by it, and the ring of each length."""
    for _ in range(3):
        which = np.argmin(np.abs(q * length[:, None] - rings.g), axis=1)
        q = float((rings.g[which] * length).sum() / (length**2).sum())
    g = rings.g[which]
    bounds = np.concatenate([[0.0], rings.g, [rings.g[-1] * 1.2]])
    gap = np.minimum(bounds[which + 1] - bounds[which], bounds[which + 2] - bounds[which + 1]) / g
    misfit = np.sqrt((q * length / g - 1) ** 2 + floor**2)
    return float(np.log(misfit / gap).mean()), q, which
