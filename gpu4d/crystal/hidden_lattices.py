"""Find positions whose disks may be of two lattices that nearly coincide, though they look like those of one.

A film and its substrate that differ by a few per cent have their disks nearly in the same places. Where both are in a pattern, and no two
disks are found apart, each disk is measured between both nodes. The lattice fitted to them lies between both lattices. It has small
residuals, and it is wrong by a part f of their difference. Where it lies tells:

    E = B⁻¹ L − 1 = f d + strain,      d = B⁻¹ (B' − B)

with L the local lattice, B and B' the mean lattices. Three kinds of positions are told apart: one lattice alone (f = 0), the other alone
(f = 1), and both (f between, with a beta distribution). Shares of the three, that distribution and the width of the strain are those of
the largest likelihood (expectation maximisation). The three components of E across d hold strain and no f. The strain along d is taken to
be as wide.

Host by design: one small matrix a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.data.pointlist import PointListArray

CLOSE = 0.15  # of deformation: lattices farther apart than this do not pass for one
CLEAR = 4  # disks so far from nodes of the other lattice that its disks would be seen apart: then it is not there
SURE = 0.5  # least probability of one lattice alone for it to have a fit; what is left of the doubt is in its errors
ROUNDS = 60  # of expectation maximisation
STEPS = 41  # values of f
USUAL, USUAL_POSITIONS = 0.002, 2  # strain of crystals, counted as so many positions: a few positions do not say how wide it is
NARROWEST = 1e-6  # of strain: exact disks have none


class Hidden(NamedTuple):
    """What lattices that may be hidden do to the fits.

    Attributes
    ----------
    doubtful : (K, P) bool
        The lattice is likely not alone there, or not there at all: no fit.
    variance : (K, P, 2, 2, 2) float64
        To be added to the covariance of a fit, by component and both vectors, px².
    """

    doubtful: np.ndarray
    variance: np.ndarray


class _Pair(NamedTuple):
    """Local deformation of positions from the first of two lattices towards the second: along d in its unit, (n,), and across, (n, 3)."""

    along: np.ndarray
    across: np.ndarray
    size: float


def hidden_lattices(
    disks: PointListArray, bases: np.ndarray, present: np.ndarray, own: np.ndarray, fits: Sequence[LatticeFit], reach: float
) -> Hidden:
    """Return where one of two close lattices may hide in the disks of the other, and what this adds to the errors.

    Parameters
    ----------
    disks : PointListArray
    bases : (K, 2, 2) float64
        Mean lattices, px.
    present : (K, P) bool
    own : (K, n) bool
        Disks that belong to each lattice.
    fits : K LatticeFit
    reach : float
        Disks that are nearer to each other than this may overlap, px.
    """
    many, disks = len(bases), disks.to_host()
    hidden = Hidden(np.zeros(present.shape, bool), np.zeros((*present.shape, 2, 2, 2)))
    local = [np.stack([arrays.to_numpy(f.g1), arrays.to_numpy(f.g2)], axis=-2).reshape(-1, 2, 2) for f in fits]
    for k in range(many):
        for j in range(k + 1, many):
            other = _same_orders(bases[k], bases[j])
            if other is None:
                continue
            change, difference = other @ np.linalg.inv(bases[j]), other - bases[k]
            found, ends = [], []
            for one, two, to_orders in ((k, j, np.eye(2)), (j, k, change)):
                alone = present[one] & ~present[two] & np.isfinite(local[one]).all(axis=(-2, -1))
                apart = _apart(disks, own[one], fits[one], np.linalg.solve(to_orders, difference))
                found.append(np.flatnonzero(alone & (_each(disks, own[one] & (apart > reach)) < CLEAR)))
                ends.append(to_orders @ local[one][found[-1]])
            if not sum(map(len, found)):
                continue
            doubt, square = _judged(_compared(bases[k], difference, np.concatenate(ends)), len(found[0]))
            for one, at, part, to_orders in (
                (k, found[0], slice(len(found[0])), np.eye(2)),
                (j, found[1], slice(len(found[0]), None), change),
            ):
                moved = np.linalg.solve(to_orders, difference)
                hidden.doubtful[one][at] |= doubt[part]
                hidden.variance[one][at] += square[part][:, None, None, None] * np.einsum("ic,jc->cij", moved, moved)
    return hidden


def _same_orders(basis: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """Return vectors of `other` that are nearest to those of `basis`. None if the lattices are not close, or the same."""
    change = np.rint(basis @ np.linalg.inv(other))
    if abs(abs(float(np.linalg.det(change))) - 1) > 1e-6:
        return None
    moved = change @ other
    size = float(np.linalg.norm(np.linalg.inv(basis) @ moved - np.eye(2), 2))
    return moved if NARROWEST < size < CLOSE else None


def _apart(disks: PointListArray, own: np.ndarray, fit: LatticeFit, difference: np.ndarray) -> np.ndarray:
    """Return how far the nodes of both lattices are apart where the disks of one are, (n,), px. NaN for other disks."""
    local = np.concatenate([arrays.to_numpy(part) for part in (fit.origin, fit.g1, fit.g2)], axis=-1).reshape(-1, 3, 2)
    at = np.asarray(disks.positions)
    q = np.stack([disks.flat(name).astype(np.float64) for name in ("qx", "qy")], axis=-1)
    out = np.full(len(q), np.nan)
    use = own & np.isfinite(local[at]).all(axis=(-2, -1))
    theirs = local[at[use]]
    order = np.rint(np.linalg.solve(np.swapaxes(theirs[:, 1:], 1, 2), (q[use] - theirs[:, 0])[..., None])[..., 0])
    out[use] = np.linalg.norm(order @ difference, axis=-1)
    return out


def _each(disks: PointListArray, which: np.ndarray) -> np.ndarray:
    """Count chosen disks of each position."""
    return np.bincount(np.asarray(disks.positions)[which], minlength=int(np.prod(disks.shape)))


def _compared(basis: np.ndarray, difference: np.ndarray, local: np.ndarray) -> _Pair:
    """Return local deformations along and across the difference of two lattices."""
    inverse = np.linalg.inv(basis)
    toward, strain = (inverse @ difference).ravel(), (inverse @ local - np.eye(2)).reshape(-1, 4)
    size = float(np.linalg.norm(toward))
    axes = np.linalg.svd(toward[None] / size)[2]
    return _Pair(strain @ (toward / size) / size, strain @ axes[1:].T, size)


def _judged(pair: _Pair, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which positions are doubtful, (n,), and the mean square of f from the lattice that is fitted there, (n,).

    The first positions are fitted with the first lattice, the others with the second.
    """
    f = (np.arange(STEPS) + 0.5) / STEPS
    one_alone, other_alone, both = 0, 1, slice(2, None)
    places = np.concatenate([[0.0, 1.0], f])
    shares, between = np.array([1.0, 1.0, 1.0]) / 3, np.full(STEPS, 1 / STEPS)
    near = np.minimum(np.abs(pair.along), np.abs(pair.along - 1)) < 0.25
    start = near if near.any() else np.ones(len(near), bool)
    strain = blurred = _width(pair.across[start] ** 2, np.zeros(0), np.ones(int(start.sum())))
    posterior = np.zeros((len(pair.along), len(places)))
    for _ in range(ROUNDS):
        off = pair.along[:, None] - places
        log = -0.5 * (off * pair.size / strain) ** 2 - np.log(strain)
        for part, wide in ((slice(0, 2), strain), (both, blurred)):
            log[:, part] += -0.5 * (pair.across**2).sum(axis=1)[:, None] / wide**2 - 3 * np.log(wide)
        log += np.log(np.concatenate([shares[:2], shares[2] * between]))
        posterior = np.exp(log - log.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        alone = posterior[:, :2].sum(axis=1)
        kinds = np.array([posterior[:, one_alone].sum(), posterior[:, other_alone].sum(), posterior[:, both].sum()])
        shares = (kinds + 1) / (kinds.sum() + 3)
        ends = (posterior[:, :2] * off[:, :2] ** 2).sum(axis=1) * pair.size**2
        strain = _width(pair.across**2, ends, alone)
        between = _beta(f, posterior[:, both].sum(axis=0))
        blurred = max(strain, _width(pair.across**2, np.zeros(0), 1 - alone))
    fitted_second = np.arange(len(pair.along)) >= first
    sure = np.where(fitted_second, posterior[:, other_alone], posterior[:, one_alone])
    square = np.where(fitted_second, posterior @ (1 - places) ** 2, posterior @ places**2)
    return sure < SURE, square


def _beta(f: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the beta distribution with the mean and variance of f, with one even position more. It has one maximum."""
    weight = weight + 1 / len(f)
    mean = float((weight * f).sum() / weight.sum())
    variance = float((weight * (f - mean) ** 2).sum() / weight.sum())
    size = mean * (1 - mean) / variance - 1
    a, b = (max(size * part, 1.0) for part in (mean, 1 - mean))
    density = f ** (a - 1) * (1 - f) ** (b - 1)
    return np.asarray(density / density.sum())


def _width(across: np.ndarray, along: np.ndarray, weight: np.ndarray) -> float:
    """Return the width of strain from squares across d (n, 3) and, weighted already, along it (n,)."""
    total = float((weight[:, None] * across).sum() + along.sum()) + USUAL_POSITIONS * 4 * USUAL**2
    count = (4 if along.size else 3) * float(weight.sum()) + USUAL_POSITIONS * 4
    return max(float(np.sqrt(total / count)), NARROWEST)


def added(fit: LatticeFit, variance: np.ndarray) -> Any:
    """Return the covariance of a fit with more variance, (Rx, Ry, 2, 2, 2)."""
    more = np.ascontiguousarray(variance.reshape(*fit.shape, 2, 2, 2))
    return fit.covariance + arrays.from_numpy(more, fit.covariance)
