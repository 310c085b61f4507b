"""Carry the errors of a profile through scale, background and sine transform. All of them are linear, so this is exact to first order."""

from __future__ import annotations

import numpy as np

from gpu4d.amorphous.band import Nodes
from gpu4d.amorphous.normalise import Scaled


class Propagation:
    """Standard errors of what is linear in the structure factor.

    Parameters
    ----------
    nodes : Nodes
    found : Scaled
        Of g groups and n rings.
    s : (g, n) float64
        Structure factor at the rings.
    error : (g, n) float64
        Standard error of I / ⟨f⟩²; rings are independent.
    """

    def __init__(self, nodes: Nodes, found: Scaled, s: np.ndarray, error: np.ndarray):
        atoms = found.atoms[:, None]
        self.nodes, self.error, self.atoms, self.response = nodes, error, atoms, found.response
        per_height = [(s - 1 + found.shapes[0]) / atoms, *(shape / atoms for shape in found.shapes[1:])]
        self.change = np.stack(per_height, axis=1)  # (g, p, n): how much S falls when a height grows by 1

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Return the errors (g,) of Σ rows · S, with one row (g, nodes) for each group."""
        weights = self.nodes.gathered(rows)
        moved = np.einsum("gpn,gn->gp", self.change, weights)
        total = weights / self.atoms - np.einsum("gp,gpn->gn", moved, self.response)
        return np.sqrt(np.einsum("gn,gn->g", total**2, self.error**2))

    def of_matrix(self, matrix: np.ndarray) -> np.ndarray:
        """Return the errors (g, m) of matrix @ S for one matrix (m, nodes)."""
        weights = self.nodes.gathered(matrix)
        variance = self.error**2
        moved = np.einsum("gpn,mn->gmp", self.change, weights)
        spread = np.einsum("gpn,gn->gpn", self.response, variance)
        own = variance @ (weights**2).T / self.atoms**2
        mixed = np.einsum("gmp,gpm->gm", moved, np.einsum("gpn,mn->gpm", spread, weights)) / self.atoms
        heights = np.einsum("gmp,gpq,gmq->gm", moved, np.einsum("gpn,gqn->gpq", spread, self.response), moved)
        return np.sqrt(np.maximum(own - 2 * mixed + heights, 0.0))

    def of_rings(self) -> np.ndarray:
        """Return the errors (g, n) of S itself."""
        variance = self.error**2
        spread = np.einsum("gpn,gn->gpn", self.response, variance)
        mixed = np.einsum("gpn,gpn->gn", self.change, spread) / self.atoms
        heights = np.einsum("gpn,gpq,gqn->gn", self.change, np.einsum("gpn,gqn->gpq", spread, self.response), self.change)
        return np.sqrt(np.maximum(variance / self.atoms**2 - 2 * mixed + heights, 0.0))
