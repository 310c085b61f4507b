"""Choose the unstrained lattice that strain is relative to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.crystal.fit_lattice import FROM_CEPSTRUM, LatticeFit
from gpu4d.crystal.lattice import Lattice, two_vectors
from gpu4d.data.arguments import positions_of
from gpu4d.data.calibration import Calibration
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.robust import robust_sigma
from gpu4d.structures import Structure

WORDS = ("median", "mean", "auto")
ALIKE = 3.0  # standard deviations of the noise: lattices of positions that differ by less are the same
LEAST_ALIKE = 2e-4  # least such deviation of strain: structure of the specimen that no strain map shows
LEAST_REGION = 9  # positions of a region: the median of fewer is hardly better than one lattice
LOOKED_AT = 1000  # positions whose neighbours in strain are counted
MISMATCH = 0.1  # of the lengths: a crystal whose lattice differs by more is not the one that is seen


@dataclass(frozen=True, eq=False)
class Reference(Storable, stored="g1 g2: [px]; region: Rx Ry"):
    """The unstrained lattice.

    Attributes
    ----------
    g1, g2 : (2,) float64
        px, with the detector's ellipse removed.
    how : str
        How they were found.
    region : (Rx, Ry) bool or None
        Positions whose lattices were averaged.
    ellipse : (a, b, theta) or None
        Ellipse of the detector that was removed.
    """

    g1: np.ndarray
    g2: np.ndarray
    how: str
    region: np.ndarray | None = None
    ellipse: tuple[float, float, float] | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Return g1 and g2 as rows of a (2, 2) array."""
        return np.stack([self.g1, self.g2])

    def __repr__(self) -> str:
        a, b = (f"({g[0]:.2f}, {g[1]:.2f})" for g in self.matrix)
        return f"Reference(g1={a} px, g2={b} px, {self.how})"


@runtime_checkable
class HasReference(Protocol):
    """A result that is relative to a reference, as a `Strain` is."""

    @property
    def reference(self) -> Reference:
        """The unstrained lattice."""


def choose_reference(g: np.ndarray, fit: LatticeFit, given: Any, region: ArrayLike | None, calibration: Calibration | None) -> Reference:
    """Return the reference lattice that the caller names. `strain_map` describes what can be given.

    Parameters
    ----------
    g : (Rx, Ry, 2, 2) float64
        Local lattices, rows g1 and g2, without the detector's ellipse.
    fit : LatticeFit
        They are from it.
    given : str, array, Lattice, LatticeFit, Structure, or a result with a `reference`
    region : (Rx, Ry) bool array or None
        Positions that "median", "mean" and "auto" look at.
    calibration : Calibration or None
    """
    ellipse = None if calibration is None else calibration.ellipse
    where = None if region is None else positions_of(region, fit.shape, "region")
    if where is not None and not isinstance(given, str):
        words = ", ".join(map(repr, WORDS))
        raise InputError(f"region= says where reference={words} look, and the reference is a {type(given).__name__}: leave out one of both")
    _check_lengths(fit, given)
    if isinstance(given, HasReference):
        return _of_result(given.reference, calibration)
    if isinstance(given, Structure):
        return _of_crystal(g, given, calibration)
    if isinstance(given, LatticeFit):
        rows = _median(np.stack([arrays.to_numpy(given.g1), arrays.to_numpy(given.g2)], axis=-2), "the other scan")
        return _given(rows, calibration, "median lattice of another scan")
    if isinstance(given, Lattice):
        return _given(given.matrix, calibration, "given lattice vectors")
    if isinstance(given, str):
        if given not in WORDS:
            named = "a region (Rx, Ry), lattice vectors (2, 2), a Structure, or another result"
            raise InputError(f"reference={given!r}: need {', '.join(map(repr, WORDS))}, {named}")
        found = _auto(g, fit, where) if given == "auto" else _average(g, given, where)
        return replace(found, ellipse=ellipse)
    try:
        values = np.asarray(arrays.to_numpy(given) if arrays.is_array(given) else given)
    except (TypeError, ValueError):  # no array; two_vectors says so
        values = np.zeros((2, 2))
    if values.dtype == bool or values.shape == fit.shape != (2, 2):
        return replace(_average(g, "median", positions_of(given, fit.shape, "reference")), ellipse=ellipse)
    return _given(two_vectors(given, "reference"), calibration, "given lattice vectors")


def _check_lengths(fit: LatticeFit, given: Any) -> None:
    """Raise InputError if lengths from a cepstrum, which are too short, are to be compared with others."""
    cepstral = fit.weights == FROM_CEPSTRUM
    advice = (
        "lattices from a cepstrum are up to 2 % short, all by the same part: compare them with a region of their own scan, or with another"
    )
    if isinstance(given, LatticeFit) and (given.weights == FROM_CEPSTRUM) != cepstral:
        which = ("a cepstrum", "Bragg disks") if cepstral else ("Bragg disks", "a cepstrum")
        raise InputError(f"the fit is from {which[0]}, and the reference from {which[1]}: {advice} cepstral fit")
    if isinstance(given, Structure) and cepstral:
        raise InputError(f"the fit is from a cepstrum, and the reference is a crystal: {advice} cepstral fit")


def _of_result(other: Reference, calibration: Calibration | None) -> Reference:
    """Return the reference of another result, with the ellipse removed that is calibrated now, and not the one it had."""
    rows = other.matrix if other.ellipse is None else other.matrix @ np.linalg.inv(ellipse_matrix(other.ellipse)).T
    return _given(rows, calibration, f"reference of another result ({other.how})")


def _given(rows: np.ndarray, calibration: Calibration | None, how: str) -> Reference:
    """Return a reference that was measured on the same detector, without its ellipse."""
    if not abs(np.linalg.det(rows)) > 1e-9 * np.sum(rows**2):
        raise InputError(f"the reference lattice is {np.round(rows, 3).tolist()} px: need two vectors that are not parallel")
    if calibration is not None and calibration.ellipse is not None:
        rows = rows @ ellipse_matrix(calibration.ellipse).T
    return Reference(rows[0], rows[1], how, None, None if calibration is None else calibration.ellipse)


def _known(g: np.ndarray) -> np.ndarray:
    return np.asarray(np.isfinite(g).all(axis=(-2, -1)))


def _median(g: np.ndarray, where: str) -> np.ndarray:
    ok = _known(g)
    if not ok.any():
        raise InputError(f"no position of {where} has a lattice: choose another reference")
    return np.asarray(np.median(g[ok], axis=0))


def _average(g: np.ndarray, statistic: str, region: np.ndarray | None) -> Reference:
    """Return the median or mean lattice of a region, or of the scan."""
    ok = _known(g)
    where = f"{ok.sum()} positions"
    if region is not None:
        ok = ok & region
        where = f"{ok.sum()} positions of the region"
    if not ok.any():
        raise InputError("no position of the reference region has a lattice: choose another region=, or give lattice=")
    rows = (np.median if statistic == "median" else np.mean)(g[ok], axis=0)
    return Reference(rows[0], rows[1], f"{statistic} of {where}", ok if region is not None else None)


def _auto(g: np.ndarray, fit: LatticeFit, where: np.ndarray | None) -> Reference:
    """Return the median lattice of the largest connected region in which the lattice is the same within the noise.

    Strained material changes from place to place, and unstrained material does not. So lattices of unstrained positions lie close
    together: the position with most others of the same lattice is taken, and the largest connected part of those is the region.
    """
    from scipy import ndimage
    from scipy.spatial import cKDTree

    ok = _known(g) & (True if where is None else where)
    if ok.sum() < LEAST_REGION:
        raise InputError(f"reference='auto' needs {LEAST_REGION} positions with a lattice, and there are {int(ok.sum())}: name a reference")
    f = np.linalg.solve(np.where(ok[..., None, None], g, np.eye(2)), np.median(g[ok], axis=0))  # deformation from the median
    parts = np.stack([f[..., 0, 0], f[..., 1, 1], f[..., 0, 1] + f[..., 1, 0], f[..., 0, 1] - f[..., 1, 0]], axis=-1)
    parts = parts / np.maximum(_noise(parts, ok), LEAST_ALIKE)
    points = parts[ok]
    tree = cKDTree(points)
    some = np.linspace(0, len(points) - 1, min(len(points), LOOKED_AT)).astype(int)
    many = tree.query_ball_point(points[some], ALIKE, return_length=True)
    center = points[some[int(np.argmax(many))]]
    center = np.median(points[tree.query_ball_point(center, ALIKE)], axis=0)
    alike = ok & (np.linalg.norm(parts - center, axis=-1) < ALIKE)
    label, count = ndimage.label(alike)
    if not count:
        raise InputError("reference='auto' found no region of the same lattice: name a reference")
    region = label == 1 + int(np.argmax(ndimage.sum_labels(alike, label, np.arange(1, count + 1))))
    if region.sum() < LEAST_REGION:
        raise InputError(f"the largest region of the same lattice has {int(region.sum())} positions, need {LEAST_REGION}: name a reference")
    rows = np.median(g[region], axis=0)
    x, y = np.nonzero(region)
    place = f"rows {x.min()}–{x.max()}, columns {y.min()}–{y.max()}"
    return Reference(rows[0], rows[1], f"median of the least strained region ({int(region.sum())} positions, {place})", region)


def _noise(parts: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Return the noise of each component, (4,), from differences of neighbours: strain changes slowly between most of them."""
    steps = []
    for axis in (0, 1):
        both = np.logical_and(*(np.take(ok, np.arange(n, ok.shape[axis] - 1 + n), axis=axis) for n in (0, 1)))
        steps.append(np.diff(parts, axis=axis)[both])
    together = np.concatenate(steps)
    return np.asarray(robust_sigma(together, 0.0, axis=0) / np.sqrt(2)) if len(together) else np.zeros(parts.shape[-1])


def _of_crystal(g: np.ndarray, crystal: Structure, calibration: Calibration | None) -> Reference:
    """Return the crystal's own lattice in the plane that fits the measured one, turned as the measured median.

    Of all pairs of the crystal's reciprocal vectors with nearly the measured lengths, the pair is taken whose lengths and angle are
    nearest to the measured ones.
    """
    if calibration is None or not calibration.q_pixel:
        raise InputError(f"reference={crystal!r}: the pixel size must be known: give a calibration with q_pixel")
    mean = _median(g, "the scan")
    length = np.linalg.norm(mean, axis=1) * calibration.q_pixel
    reflections = crystal.reflections(float(length.max()) * (1 + MISMATCH))
    away = [np.abs(reflections.length / one - 1) for one in length]
    first, second = (np.flatnonzero(a < MISMATCH) for a in away)
    if not first.size or not second.size:
        raise InputError(
            f"{crystal.name} has no lattice planes within 10 % of the measured {1 / length[0]:.3f} and {1 / length[1]:.3f} Å: give the "
            "right crystal, or check q_pixel"
        )
    a, b = reflections.g[first][:, None], reflections.g[second][None]
    cosine = np.sum(a * b, axis=-1) / (reflections.length[first][:, None] * reflections.length[second][None])
    seen = float(mean[0] @ mean[1] / np.prod(np.linalg.norm(mean, axis=1)))
    misfit = away[0][first][:, None] ** 2 + away[1][second][None] ** 2 + (cosine - seen) ** 2
    one, other = np.unravel_index(int(np.argmin(misfit)), misfit.shape)
    if misfit[one, other] > MISMATCH**2:
        raise InputError(
            f"no zone axis of {crystal.name} has two vectors within 10 % of the measured lattice: give the right crystal, or check q_pixel"
        )
    angle = np.arccos(np.clip(cosine[one, other], -1, 1))
    lengths = reflections.length[first[one]], reflections.length[second[other]]
    turned = np.sign(np.linalg.det(mean))
    ideal = np.array([[lengths[0], 0.0], [lengths[1] * np.cos(angle), turned * lengths[1] * np.sin(angle)]]) / calibration.q_pixel
    f = np.linalg.solve(mean, ideal)  # its rotation is taken over, so that the mean rotation of the lattice is zero
    turn = np.arctan2(f[1, 0] - f[0, 1], f[0, 0] + f[1, 1])
    c, s = np.cos(turn), np.sin(turn)
    rows = ideal @ np.array([[c, s], [-s, c]])
    hkl = [" ".join(map(str, reflections.hkl[n])) for n in (first[one], second[other])]
    return Reference(rows[0], rows[1], f"lattice of {crystal.name} ({hkl[0]} and {hkl[1]})", None, calibration.ellipse)
