"""Name how one lattice lies to another: twin, rotated, film, scaled, or another lattice."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.storable import Storable

SAME_CELL = 0.015  # of the lengths: cells that differ by less are the same; a strain of 1 % is part of it
SAME_SHAPE = 0.015  # difference of the two principal stretches below which a cell is only scaled
PARALLEL = math.radians(3.0)  # a film grows parallel to its substrate but for tilts of the order of a degree
LARGEST_MISFIT = 0.15  # of a film: cells that differ by more are no film's and its substrate's
LARGEST_INDEX = 2  # of a row that twins share; higher rows coincide by chance
ON_NODE = 0.02  # of a cell: two lattices are the same if their vectors are whole numbers to this accuracy, about 1°


@dataclass(frozen=True)
class Relation(Storable, stored="angle angle_error row_angle: [rad]"):
    """How a lattice lies to another one, with one standard error of each number where it is known.

    Attributes
    ----------
    kind : {"twin", "rotated", "film", "scaled", "other"}
        "twin": the same cell, mirrored in a lattice row that both share. "rotated": the same cell, turned. "film": nearly parallel, with
        other spacings. "scaled": the same shape, larger or smaller, and turned. "other": another phase, or another zone axis.
    of, to : int
        Numbers of the lattices: `of` is described relative to `to`.
    angle : float
        Rotation from `to` to `of`, rad, positive from x to y; the smallest of all that symmetry allows. For a twin the same, relative to
        the mirrored lattice: how far it is from the ideal twin.
    angle_error : float
        NaN where the errors of the vectors are not known.
    misfit : (float, float)
        Principal misfits of the real lattice, d / d_to − 1, the largest first. Positive: larger spacing.
    misfit_error : float
        Of each of them.
    row : (int, int) or None
        Indices of the shared row of twins in the basis of `to`, (h, k).
    row_angle : float
        Its direction on the detector without the ellipse, rad, from x to y. NaN if there is none.
    """

    kind: str
    of: int
    to: int
    angle: float
    angle_error: float
    misfit: tuple[float, float]
    misfit_error: float
    row: tuple[int, int] | None = None
    row_angle: float = math.nan

    def __str__(self) -> str:
        turned = _with_error(math.degrees(self.angle), math.degrees(self.angle_error), "°")
        misfits = " and ".join(_with_error(100 * m, 100 * self.misfit_error, " %", sign=True) for m in self.misfit)
        if self.kind == "twin" and self.row is not None:
            line = f"({self.row[0]} {self.row[1]}), at {math.degrees(self.row_angle):.1f}° on the detector"
            return f"twin of lattice {self.to}: mirrored in the row {line}, {turned} from the ideal twin"
        if self.kind == "rotated":
            return f"same cell as lattice {self.to}, rotated by {turned}"
        if self.kind == "film":
            return f"parallel to lattice {self.to} but for {turned}, misfit {misfits}"
        if self.kind == "scaled":
            return f"same shape as lattice {self.to}, misfit {misfits}, rotated by {turned}"
        return f"another phase or zone axis than lattice {self.to}"


def _with_error(value: float, error: float, unit: str, sign: bool = False) -> str:
    digits = 2 if not error > 0 else min(6, max(1, 1 - math.floor(math.log10(error))))
    known = f" ± {error:.{digits}f}" if error > 0 else ""
    return f"{value:{'+' if sign else ''}.{digits}f}{known}{unit}"


def relate(
    to: np.ndarray,
    of: np.ndarray,
    numbers: tuple[int, int] = (0, 1),
    covariances: tuple[np.ndarray, np.ndarray] | None = None,
    ellipse: tuple[float, float, float] | None = None,
) -> Relation:
    """Name how lattice `of` lies to lattice `to`.

    Of all bases of `of` the one is taken that maps `to` with the least stretch. The map is a rotation times a stretch. A twin is
    found by mirroring `to` in each of its low-index rows and comparing the lattices.

    Parameters
    ----------
    to, of : (2, 2) float64
        Rows g1 and g2, px on the detector as measured.
    numbers : (int, int)
        Numbers of `to` and `of`, for the text.
    covariances : two (2, 2) arrays, optional
        Covariance of g1 and g2 of each, px², the same for both detector axes.
    ellipse : (a, b, theta), optional
        Ellipse of the detector, which is removed first.

    Returns
    -------
    Relation

    Examples
    --------
    >>> square = np.array([[20.0, 0.0], [0.0, 20.0]])
    >>> print(relate(square, square / 1.03))
    parallel to lattice 0 but for 0.00°, misfit +3.00 % and +3.00 %
    """
    if ellipse is not None:
        to, of = (m @ ellipse_matrix(ellipse).T for m in (to, of))
    t, change = least_stretch(to, of)
    stretches = np.linalg.svd(t, compute_uv=False)
    angle = math.atan2(t[0, 1] - t[1, 0], t[0, 0] + t[1, 1])  # rows are vectors: v' = v T
    misfit = (float(1 / stretches[1] - 1), float(1 / stretches[0] - 1))
    if abs(misfit[1]) > abs(misfit[0]):
        misfit = (misfit[1], misfit[0])
    angle_error = misfit_error = math.nan
    if covariances is not None:
        first = np.linalg.inv(to) @ covariances[0] @ np.linalg.inv(to).T
        second = change @ covariances[1] @ change.T
        total = first + np.linalg.inv(change @ of) @ second @ np.linalg.inv(change @ of).T
        angle_error = 0.5 * math.sqrt(np.trace(total))
        misfit_error = math.sqrt(np.linalg.eigvalsh(total)[-1])
    row = None
    if max(map(abs, misfit)) < SAME_CELL:
        twin = _shared_row(to, of)
        if twin is not None:
            row, angle = twin
        kind = "rotated" if twin is None else "twin"
    elif abs(angle) < PARALLEL and max(map(abs, misfit)) < LARGEST_MISFIT:
        kind = "film"
    else:
        kind = "scaled" if abs(stretches[0] / stretches[1] - 1) < SAME_SHAPE else "other"
    line = math.nan if row is None else math.atan2(*(np.array(row) @ to)[::-1])
    return Relation(kind, numbers[1], numbers[0], float(angle), angle_error, misfit, misfit_error, row, line)


def least_stretch(to: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the map T with change @ of = to @ T, and the change of basis, for which T stretches least, then rotates least."""
    changes = np.array([np.reshape(e, (2, 2)) for e in itertools.product(range(-2, 3), repeat=4) if e[0] * e[3] - e[1] * e[2] == 1.0])
    t = np.linalg.inv(to) @ (changes @ of)
    if np.linalg.det(to) * np.linalg.det(of) < 0:
        t = np.linalg.inv(to) @ (changes @ np.array([[-1, 0], [0, 1]]) @ of)
        changes = changes @ np.array([[-1, 0], [0, 1]])
    stretch = np.abs(np.log(np.linalg.svd(t, compute_uv=False))).max(axis=-1)
    turned = np.abs(np.arctan2(t[:, 0, 1] - t[:, 1, 0], t[:, 0, 0] + t[:, 1, 1]))
    alike = stretch < stretch.min() + SAME_CELL  # bases that symmetry makes equal but for strain
    best = np.flatnonzero(alike)[np.argmin(turned[alike])]
    return t[best], changes[best]


def _shared_row(to: np.ndarray, of: np.ndarray) -> tuple[tuple[int, int], float] | None:
    """Return the lowest row in which `to` must be mirrored to give `of`, and the angle that is left, rad. None: they are no twins."""
    rows = [(h, k) for h, k in itertools.product(range(-LARGEST_INDEX, LARGEST_INDEX + 1), repeat=2) if math.gcd(h, k) == 1]
    rows = [(h, k) for h, k in rows if h > 0 or (h == 0 and k > 0)]
    best = None
    for row in sorted(rows, key=lambda r: float(np.hypot(*(np.array(r) @ to)))):
        n = np.array(row) @ to
        twin = to @ (2 * np.outer(n, n) / (n @ n) - np.eye(2))
        if _away(twin, of) < ON_NODE < _away(twin, to):
            t, _ = least_stretch(twin, of)
            left = math.atan2(t[0, 1] - t[1, 0], t[0, 0] + t[1, 1])
            if best is None or abs(left) < abs(best[1]) / 2:
                best = row, left
    return best


def _away(one: np.ndarray, other: np.ndarray) -> float:
    """Return how far the vectors of one lattice are from nodes of the other, in cells; 1 if the cells differ in area."""
    change = one @ np.linalg.inv(other)
    whole = np.rint(change)
    return float(np.abs(change - whole).max()) if abs(abs(np.linalg.det(whole)) - 1) < 0.5 else 1.0
