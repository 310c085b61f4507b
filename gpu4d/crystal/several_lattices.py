"""Hold the lattices that were found in a scan, with their shares and how they lie to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from gpu4d.crystal.explained import Spread
from gpu4d.crystal.lattice import Lattice
from gpu4d.crystal.relation import Relation
from gpu4d.data.storable import Storable


@dataclass(frozen=True, eq=False)
class Lattices(Sequence[Lattice], Storable, stored="shares evidence: lattice; covariances: lattice row column [px²]; shift: [px]"):
    """Lattices of a scan, the one in most positions first. It is a sequence: ``found[0]``, ``len(found)``.

    Attributes
    ----------
    lattices : tuple of K Lattice
    shares : (K,) float64
        Fraction of the examined positions with each lattice. They add up to more than 1 where lattices overlap.
    evidence : (K,) float64
        How much worse the disks of the scan are explained without this lattice and with the others, nats. NaN for a single one: it was
        judged by `find_lattice`.
    covariances : (K, 2, 2) float64
        Covariance of g1 and g2 of each, px², the same for both detector axes. From the scatter of the disks, so strain within the scan
        makes it larger. NaN for a single one: `gpu4d.crystal.lattice_lengths` has its errors.
    relations : tuple of K − 1 Relation
        How each further lattice lies to the one it is nearest to: a twin or rotated grain to the first of the same cell, others to the
        first lattice.
    shift : (2,) float64
        Mean error of the given origin, px: the lattices lie best at origin + shift.
    spreads : tuple of K Spread
        Widths of the disks about the nodes, which weigh disks between lattices.
    """

    lattices: tuple[Lattice, ...]
    shares: np.ndarray
    evidence: np.ndarray
    covariances: np.ndarray
    relations: tuple[Relation, ...]
    shift: np.ndarray
    spreads: tuple[Spread, ...]

    @overload
    def __getitem__(self, index: int) -> Lattice: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Lattice]: ...
    def __getitem__(self, index: int | slice) -> Lattice | Sequence[Lattice]:
        return self.lattices[index]

    def __len__(self) -> int:
        return len(self.lattices)

    def __iter__(self) -> Iterator[Lattice]:
        return iter(self.lattices)

    @property
    def matrices(self) -> np.ndarray:
        """Return g1 and g2 of each as rows, (K, 2, 2)."""
        return np.stack([one.matrix for one in self.lattices]) if self.lattices else np.zeros((0, 2, 2))

    @property
    def names(self) -> tuple[str, ...]:
        """Return a short text for each lattice: "first lattice", and what the others are."""
        return tuple("first lattice" if k == 0 else str(self.relations[k - 1]) for k in range(len(self)))

    def __repr__(self) -> str:
        if not self.lattices:
            return "Lattices(none)"
        lines = [
            f"  {k}: {one!r}, at {100 * s:.0f} % of the positions; {name}"
            for k, (one, s, name) in enumerate(zip(self, self.shares, self.names))
        ]
        return f"Lattices({len(self)}:\n" + "\n".join(lines) + ")"


def no_lattices() -> Lattices:
    """Return the result for a scan without a lattice."""
    return Lattices((), np.zeros(0), np.zeros(0), np.zeros((0, 2, 2)), (), np.zeros(2), ())
