"""Hold what classification looks at: counts of spots, their Friedel pairs, and the diffuse scattering between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from gpu4d.classification.spot_counts import SpotCounts
from gpu4d.classification.vector_map_maxima import between, disk_features, mates
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.storable import Storable
from gpu4d.streaming import sweep

ROOM = 0.5  # px beyond the radius of the template: the soft edge of a disk
PAIR = 0.5  # radii: mates lie at -g to within this distance
ENOUGH = 30  # rows of three neighbours from which a gain is measured
USUAL = (0.75, 1.33)  # gains that counts of single electrons can seem to have
FAINTEST = 20  # per cent of the found disks are fainter than what is taken as the limit
SMALLEST = 1.0  # px: the smallest circle of counts


@dataclass(frozen=True, eq=False)
class Features(Storable, stored="spots: spot xy [px]; radii: spot [px]; counts: position spot; diffuse: position ring; seen: Rx Ry"):
    """Counts of all positions that were looked at, as rows.

    Attributes
    ----------
    spots : (K, 2) float64
        Reflections relative to the origin, pixels.
    radii : (K,) float64
        Radii of their circles.
    counts : (N, K) float64
    diffuse : (N, D) float64
        Counts between the spots, in rings. D is 0 if patterns were not read.
    seen : (Rx, Ry) bool
        Positions of the rows. Others have no counts.
    gain : float
        What one electron counts: rows are divided by it, so that they have Poisson noise.
    limit : float
        Counts below which a disk is not found. 0 if counts were read from patterns.
    """

    spots: np.ndarray
    radii: np.ndarray
    counts: np.ndarray
    diffuse: np.ndarray
    seen: np.ndarray
    gain: float = 1.0
    limit: float = 0.0

    def rows(self, chosen: np.ndarray) -> Features:
        """Return the features of some of the rows, (N,) bool."""
        inside = self.seen.copy()
        inside[self.seen] = chosen
        return replace(self, counts=self.counts[chosen], diffuse=self.diffuse[chosen], seen=inside)

    def halves(self) -> tuple[Features, Features]:
        """Return two independent scans of half the dose: each count goes into one of them by chance.

        What is chosen in one is judged in the other, where it is not favoured by its noise.
        """
        rng = np.random.default_rng(0)
        first = []
        for counts in (self.counts, self.diffuse):
            whole = np.rint(counts).astype(np.int64)
            first.append((rng.binomial(whole, 0.5).astype(np.float64), whole.astype(np.float64)))
        (spots, all_spots), (diffuse, all_diffuse) = first
        half = replace(self, counts=spots, diffuse=diffuse, gain=2 * self.gain)
        return half, replace(self, counts=all_spots - spots, diffuse=all_diffuse - diffuse, gain=2 * self.gain)

    @property
    def mate(self) -> np.ndarray:
        """Return the number of the Friedel mate of every spot, -1 where there is none."""
        return mates(self.spots, PAIR * float(np.max(self.radii, initial=SMALLEST)))

    @property
    def pair_of_spot(self) -> np.ndarray:
        """Return the number of the pair of every spot, (K,) int. A spot without a mate is a pair of its own."""
        own, mate = np.arange(len(self.spots)), self.mate
        return np.unique(np.where(mate < 0, own, np.minimum(own, mate)), return_inverse=True)[1]

    @property
    def pairs(self) -> np.ndarray:
        """Return the counts of Friedel pairs, (N, M): bending moves counts from g to -g, and changes their sum less."""
        return summed(self.counts, self.pair_of_spot)

    @property
    def columns(self) -> np.ndarray:
        """Return the counts of pairs and of diffuse rings, (N, M + D)."""
        return np.concatenate([self.pairs, self.diffuse], axis=1)

    def smoothed(self, columns: np.ndarray, sigma: float | None = None) -> np.ndarray:
        """Return columns (N, …) summed over 3 × 3 positions, or averaged by a Gaussian of `sigma` positions. Unseen positions do not count.

        The sum of 3 × 3 keeps Poisson statistics.
        """
        grid = np.zeros((*self.seen.shape, columns.shape[1]))
        grid[self.seen] = columns
        if sigma is None:
            for axis in (0, 1):  # a correlation adds without the rounding of a running sum, which leaves counts below 0
                grid = ndimage.correlate1d(grid, np.ones(3), axis=axis, mode="constant")
            return grid[self.seen]
        if sigma <= 0:
            return columns
        weight = self.seen.astype(np.float64)
        blurred = ndimage.gaussian_filter(grid, (sigma, sigma, 0), mode="constant")
        return blurred[self.seen] / ndimage.gaussian_filter(weight, sigma, mode="constant")[self.seen][:, None]

    def on_scan(self, rows: np.ndarray, fill: Any = np.nan) -> np.ndarray:
        """Return rows (N, …) at their positions, (Rx, Ry, …), with `fill` at positions not seen."""
        out = np.full((*self.seen.shape, *rows.shape[1:]), fill, dtype=rows.dtype)
        out[self.seen] = rows
        return out


def summed(columns: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the sums of columns (…, K) that have the same group number (K,)."""
    matrix = np.zeros((len(groups), int(np.max(groups, initial=-1)) + 1))
    matrix[np.arange(len(groups)), groups] = 1.0
    return columns @ matrix


def circles(spots: np.ndarray, radius: float) -> np.ndarray:
    """Return radii of circles around spots that do not overlap, and not that of the unscattered beam."""
    seeds = np.concatenate([np.zeros((1, 2)), spots])
    if len(seeds) < 2:
        return np.zeros(0)
    return np.maximum(np.minimum(radius + ROOM, cKDTree(seeds).query(spots, k=2)[0][:, 1] / 2), SMALLEST)


def from_patterns(cube: DataCube, spots: np.ndarray, radius: float, origin: np.ndarray, options: Mapping[str, Any]) -> Features:
    """Read the counts of all spots, and of places between them, in one sweep. `origin` is (Rx, Ry, 2)."""
    half = float(np.nanmin(np.minimum(origin, np.asarray(cube.shape[2:]) - 1 - origin)))
    inside = np.abs(spots).max(-1, initial=0) <= half - radius
    spots = spots[inside]
    gaps, gap_radii = between(spots, radius, half)
    radii = circles(spots, radius)
    reduction = SpotCounts(np.concatenate([spots, gaps]), np.concatenate([radii, np.maximum(gap_radii, SMALLEST)]), origin)
    counts = np.asarray(sweep(cube, reduction, **options).to_host())
    seen = np.isfinite(counts).all(0)
    rows = np.maximum(counts[:, seen].T, 0.0)
    ring = np.floor(np.hypot(*gaps.T) / (2 * radius)).astype(int)
    ring = np.unique(ring, return_inverse=True)[1]
    diffuse = summed(rows[:, len(spots) :], ring)
    gain = counts_of_an_electron(diffuse, seen)
    return Features(spots, radii, rows[:, : len(spots)] / gain, diffuse / gain, seen, gain)


def counts_of_an_electron(diffuse: np.ndarray, seen: np.ndarray) -> float:
    """Return the gain of the detector: the variance of diffuse counts divided by their mean; 1 if it is about 1.

    The variance is that of second differences along a row of positions, Σ (a − 2 b + c)² / Σ (a + 4 b + c), the median over the rings.
    The specimen hardly changes it, because its shadows and borders are smooth.
    """
    grid = np.full((*seen.shape, diffuse.shape[1]), np.nan)
    grid[seen] = diffuse
    a, b, c = grid[:, :-2], grid[:, 1:-1], grid[:, 2:]
    bend = a - 2 * b + c
    good = np.isfinite(bend).all(-1)
    if good.sum() < ENOUGH or not diffuse.shape[1]:
        return 1.0
    above, below = (bend[good] ** 2).sum(0), (a + 4 * b + c)[good].sum(0)
    ratios = above[below > 0] / below[below > 0]
    gain = float(np.median(ratios)) if len(ratios) else 1.0
    return 1.0 if not gain > 0 or USUAL[0] < gain < USUAL[1] else gain


def from_disks(disks: PointListArray, spots: np.ndarray, radius: float, origin: np.ndarray, where: np.ndarray | None) -> Features:
    """Make counts of the disks alone: intensity (counts per pixel) times the area of the template. Faint spots are missing in them."""
    seen = np.isfinite(origin).all(-1) if where is None else where & np.isfinite(origin).all(-1)
    values = disk_features(disks.to_host(), spots, origin=origin, reach=2 * radius)
    rows = np.maximum(np.asarray(values)[seen], 0.0) * np.pi * radius**2
    limit = float(np.percentile(rows[rows > 0], FAINTEST)) if (rows > 0).any() else 0.0
    return Features(spots, circles(spots, radius), rows, np.zeros((len(rows), 0)), seen, limit=limit)
