"""Hold reflections of a crystal, and the powder rings made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.data.storable import Storable

SAME_RING = 1e-6  # 1/Å: g of one ring agree to rounding; no two rings of a real cell are so close


@dataclass(frozen=True, eq=False)
class Reflections(Storable, stored="hkl: reflection index; g: reflection xyz [1/Å]; structure_factor: reflection [Å]"):
    """Reflections of a crystal, both mates of each Friedel pair, from small g to large.

    Attributes
    ----------
    hkl : (n, 3) int64
    g : (n, 3) float64
        Reciprocal vectors in the cartesian axes of the crystal, 1/Å (g = 1/d).
    structure_factor : (n,) complex128
        Of the cell for electrons, Å, first Born approximation without the relativistic factor.
    """

    hkl: np.ndarray
    g: np.ndarray
    structure_factor: np.ndarray

    def __len__(self) -> int:
        return len(self.hkl)

    def __repr__(self) -> str:
        return f"Reflections({len(self)})"

    @property
    def length(self) -> np.ndarray:
        """|g| of each reflection, (n,), 1/Å."""
        return np.linalg.norm(self.g, axis=-1)

    @property
    def intensity(self) -> np.ndarray:
        """|F|² of each reflection, (n,), Å²."""
        return np.abs(self.structure_factor) ** 2


@dataclass(frozen=True, eq=False)
class Rings(Storable, stored="g: ring [1/Å]; multiplicity: ring; intensity: ring [Å²]; hkl: ring index"):
    """Rings of a powder, from small g to large.

    Attributes
    ----------
    g : (n,) float64
        Radius, 1/Å.
    multiplicity : (n,) int64
        Number of reflections on the ring.
    intensity : (n,) float64
        Sum of |F|² of these reflections, Å².
    hkl : (n, 3) int64
        The name of the ring: of its reflections, the one with the largest h, then k, then l.
    """

    g: np.ndarray
    multiplicity: np.ndarray
    intensity: np.ndarray
    hkl: np.ndarray

    def __len__(self) -> int:
        return len(self.g)

    def __repr__(self) -> str:
        return f"Rings({len(self)})"

    @property
    def d(self) -> np.ndarray:
        """Spacing 1/g, (n,), Å."""
        return 1 / self.g


def rings_of(reflections: Reflections) -> Rings:
    """Join reflections of one length to rings. Reflections must be sorted by length."""
    length = reflections.length
    first = np.flatnonzero(np.diff(length, prepend=-1.0) > SAME_RING)
    if not len(first):
        return Rings(np.zeros(0), np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 3), np.int64))
    ring = np.searchsorted(first, np.arange(len(length)), side="right") - 1
    count = np.bincount(ring)
    order = np.lexsort((*reflections.hkl.T[::-1], ring))
    last = np.cumsum(count) - 1
    return Rings(np.bincount(ring, length) / count, count, np.bincount(ring, reflections.intensity), reflections.hkl[order[last]])
