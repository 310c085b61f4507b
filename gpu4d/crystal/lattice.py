"""Describe a two-dimensional reciprocal lattice by one unique basis."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import FARTHEST, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError

TIE = 1.02  # lengths that differ by less are taken as equal, so that noise does not exchange g1 and g2


@dataclass(frozen=True, eq=False)
class Lattice(Storable, stored="g1 g2 residual: [px]; orders: order hk"):
    """Reciprocal lattice vectors on the detector.

    Attributes
    ----------
    g1, g2 : (2,) float64
        Detector pixels, in the basis of `canonical`.
    indexed_fraction : float
        Fraction of the points that lie on the lattice. They are weighted by √intensity, and the unscattered disk is left out.
    chance : float
        The same fraction for points at the same distances in random directions.
    residual : float
        Rms distance of the indexed points from the lattice, px (the local strain is part of it).
    points : int
        Number of points that were indexed. Of a large scan only a part is used.
    orders : (n, 2) int64
        Orders (h, k) that occur at 5 % of the positions or more, the most frequent first.
    """

    g1: np.ndarray
    g2: np.ndarray
    indexed_fraction: float = 1.0
    chance: float = 0.0
    residual: float = 0.0
    points: int = 0
    orders: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))

    @property
    def matrix(self) -> np.ndarray:
        """Return g1 and g2 as rows of a (2, 2) array."""
        return np.stack([self.g1, self.g2])

    @property
    def lengths(self) -> tuple[float, float]:
        """Return |g1| and |g2|, px."""
        return float(np.hypot(*self.g1)), float(np.hypot(*self.g2))

    @property
    def angle(self) -> float:
        """Return the angle from g1 to g2, rad, 0 … π."""
        return float(np.arctan2(cross(self.g1, self.g2), self.g1 @ self.g2))

    def __repr__(self) -> str:
        a, b = (f"({g[0]:.2f}, {g[1]:.2f})" for g in self.matrix)
        quality = f"{100 * self.indexed_fraction:.0f} % indexed, rms {self.residual:.2f} px"
        return f"Lattice(g1={a} px, g2={b} px, {np.degrees(self.angle):.1f}°, {quality})"


def two_vectors(given: ArrayLike, name: str = "lattice") -> np.ndarray:
    """Return g1 and g2 as rows of a (2, 2) float64 array. Raise InputError for anything else, and for lengths of no detector."""
    rows = real_values(given, name, "g1 and g2 as rows, (2, 2), px").astype(np.float64)
    if rows.shape != (2, 2) or not (np.abs(rows) < FARTHEST).all():
        what = rows.shape if rows.shape != (2, 2) else rows.tolist()
        raise InputError(f"{name} is {what}: need g1 and g2 as rows, (2, 2), px")
    return rows


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the z component of a × b over the last axis."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def reduced(basis: np.ndarray) -> np.ndarray:
    """Apply Gauss's reduction to bases (..., 2, 2), vectors as rows: |g1| ≤ |g2|, |g1·g2| ≤ |g1|²/2."""
    g = np.array(basis, dtype=np.float64)
    for _ in range(40):
        length = np.sum(g * g, axis=-1)
        g = np.where((length[..., 0] > length[..., 1])[..., None, None], g[..., ::-1, :], g)
        short = np.sum(g[..., 0, :] ** 2, axis=-1)
        times = np.rint(np.sum(g[..., 0, :] * g[..., 1, :], axis=-1) / np.where(short > 0, short, 1))
        if not times.any():
            break
        g[..., 1, :] -= times[..., None] * g[..., 0, :]
    return g


def canonical(basis: np.ndarray) -> np.ndarray:
    """Return the unique basis of a lattice, (2, 2) with rows g1, g2.

    g1 is the shortest vector of the lattice, and g2 the shortest one that is not parallel to it, with g1 × g2 > 0 (from x to y). g1
    points to positive x (angle -90° < φ ≤ 90°). Lengths within 2 % count as equal. Then g1 is the vector nearest to the x axis, and g2 is
    the one whose angle to g1 is nearest to 60 … 90°.

    Examples
    --------
    >>> canonical(np.array([[0.0, 10.0], [10.0, 10.1]])).round(3).tolist()
    [[10.0, 0.1], [0.0, 10.0]]
    """
    g = reduced(basis)
    near = np.array([[h, k] for h in (-1, 0, 1) for k in (-1, 0, 1) if (h, k) != (0, 0)]) @ g
    length = np.linalg.norm(near, axis=-1)
    first = near[length <= length.min() * TIE]
    g1 = first[np.argmin(np.abs(np.arctan2(first[:, 1], first[:, 0]) - 1e-9))]
    area = abs(cross(g[0], g[1]))
    turned = cross(g1, near)
    beside = (turned > 0.5 * area) & (turned < 1.5 * area)  # with g1 they span the whole lattice, right-handed
    second, size = near[beside], length[beside]
    equal = second[size <= size.min() * TIE]
    g2 = equal[np.argmax(equal @ g1)]
    return np.stack([g1, g2])
