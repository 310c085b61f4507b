"""A scan of Bragg disks on a strained lattice, and how well its counts permit disks and strain to be known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import Place

SIDE, RADIUS, EDGE = 128, 6.0, 2.0  # px: detector, disks, the width over which their edge falls
REFERENCE = np.array([[21.5, 4.0], [-4.0, 21.5]])  # px, g1 and g2 without strain
ORIGIN = np.array([63.3, 64.2])  # px
ORDERS = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)])
STATES = 16  # of strain; the first is none
LARGEST = 0.01  # strain
DIRECT, BACKGROUND = 100.0, 0.5  # counts of a pixel


@dataclass(frozen=True)
class StrainedScan:
    """Sixteen states of strain, whose patterns are repeated with noise of their own.

    Attributes
    ----------
    deformation : (16, 2, 2)
        F of the real lattice.
    heights : (16, 25)
        Counts of a pixel inside each disk.
    """

    deformation: np.ndarray
    heights: np.ndarray

    @classmethod
    def make(cls, seed: int) -> StrainedScan:
        random = data.uniform(seed, STATES * 4 + STATES * len(ORDERS))
        deformation = np.eye(2) + LARGEST * (2 * random[: 4 * STATES].reshape(STATES, 2, 2) - 1)
        deformation[0] = np.eye(2)
        heights = DIRECT * (0.3 + 0.3 * random[4 * STATES :].reshape(STATES, -1))
        heights[:, len(ORDERS) // 2] = DIRECT
        return cls(deformation, heights)

    @cached_property
    def lattices(self) -> np.ndarray:
        """Rows g1, g2 of every state, (16, 2, 2) px: g = F⁻ᵀ g_ref."""
        (a, b), (c, d) = np.moveaxis(self.deformation, 0, -1)
        inverse = np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / (a * d - b * c)[:, None, None]
        first, second = (REFERENCE[:, i, None] * inverse[:, None, i] for i in (0, 1))  # products of matrices round otherwise elsewhere
        return first + second

    @cached_property
    def positions(self) -> np.ndarray:
        """Centres of the disks, (16, 25, 2) px."""
        h, k = ORDERS.T[:, None, :, None]
        return ORIGIN + h * self.lattices[:, None, 0] + k * self.lattices[:, None, 1]

    @cached_property
    def expected(self) -> np.ndarray:
        """Expected counts, (16, 128, 128)."""
        out = np.full((STATES, SIDE, SIDE), BACKGROUND)
        for state, (centers, heights) in enumerate(zip(self.positions, self.heights)):
            for center, height in zip(centers, heights):
                out[state] += height * data.disk((SIDE, SIDE), RADIUS, (center[0], center[1]), EDGE)
        return out

    def patterns(self, place: Place, shape: tuple[int, int], seed: int) -> Any:
        """Return the patterns of a scan (Rx, Ry, 128, 128), uint16, where the place computes."""
        made = data.counts(place.xp, self.expected, self.states(shape).reshape(-1), seed)
        return made.reshape(*shape, SIDE, SIDE)

    def states(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the state of every position, (Rx, Ry): the first quarter of the rows is not strained."""
        number = np.arange(shape[0] * shape[1]).reshape(shape) % STATES
        number[self.region(shape)] = 0
        return number

    def region(self, shape: tuple[int, int]) -> np.ndarray:
        """Return where the scan is not strained, (Rx, Ry) bool."""
        return np.broadcast_to((np.arange(shape[0]) < max(1, shape[0] // 4))[:, None], shape).copy()

    @cached_property
    def disk_errors(self) -> np.ndarray:
        """The Cramér–Rao bound on the standard errors of a disk's centre, (16, 25, 2) px: 1 / √Σ (∂λ/∂x)² / λ over its edge."""
        near = np.arange(-int(RADIUS) - 2, int(RADIUS) + 3)
        out = np.empty((STATES, len(ORDERS), 2))
        for state, (centers, heights) in enumerate(zip(self.positions, self.heights)):
            for number, (center, height) in enumerate(zip(centers, heights)):
                i, j = (int(np.rint(c)) + near for c in center)
                x, y = (i - center[0])[:, None], (j - center[1])[None, :]
                r = np.maximum(np.hypot(x, y), 1e-9)
                slope = np.where(np.abs(r - RADIUS) < EDGE / 2, height / EDGE, 0.0)
                for axis, away in enumerate((x, y)):
                    out[state, number, axis] = ((slope * away / r) ** 2 / self.expected[state][np.ix_(i, j)]).sum() ** -0.5
        return out

    @cached_property
    def strain_errors(self) -> np.ndarray:
        """The same bound on e_xx, e_yy, e_xy and theta, (16, 4), with the origin unknown and to first order in the strain."""
        rho = np.concatenate([np.ones((len(ORDERS), 1)), ORDERS], 1)
        information = np.einsum("ka,kb,skc->scab", rho, rho, self.disk_errors**-2)
        of_vectors = np.linalg.inv(information)[:, :, 1:, 1:]  # of component c of g1 and g2
        inverse = np.linalg.inv(self.lattices)
        variance = np.einsum("sai,saj,scij->sac", inverse, inverse, of_vectors)  # of F[a, c], whose columns c are independent
        mixed = (variance[:, 0, 1] + variance[:, 1, 0]) / 4
        return np.sqrt(np.stack([variance[:, 0, 0], variance[:, 1, 1], mixed, mixed], -1))


def strain_components(deformation: np.ndarray) -> np.ndarray:
    """Return e_xx, e_yy, e_xy of U - 1 and theta of F = R U, (…, 4), from singular values: the rotation is -theta."""
    w, s, vt = np.linalg.svd(deformation)
    u = np.matmul(np.swapaxes(vt, -1, -2) * s[..., None, :], vt)
    r = np.matmul(w, vt)
    return np.stack([u[..., 0, 0] - 1, u[..., 1, 1] - 1, u[..., 0, 1], -np.arctan2(r[..., 1, 0], r[..., 0, 0])], -1)
