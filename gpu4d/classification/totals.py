"""Add up the counts of each part of a scan: what a class is known by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gpu4d.classification.features import Features, summed

RING = 1.0  # px: half the width of the rings over which medians are taken
UNPAIRED = 0.7  # asymmetry of a spot without mate: what bending does to it is unknown, and may be as much


@dataclass(frozen=True, eq=False)
class Totals:
    """Counts of parts of a scan, as rows.

    Attributes
    ----------
    pairs : (J, M) float64
        Counts of Friedel pairs.
    background : (J, M) float64
        Diffuse counts among them.
    diffuse : (J, D) float64
        Counts between spots, in rings.
    asymmetry : (J, M) float64
        |I(g) − I(−g)| / (I(g) + I(−g)) beyond noise, 0 to 1: how far bending has changed a pair.
    positions : (J,) float64
        Number of positions, or the sum of their weights.
    limit : float
        Counts of a pair that may be missing at every position, because disks so faint are not found.
    """

    pairs: np.ndarray
    background: np.ndarray
    diffuse: np.ndarray
    asymmetry: np.ndarray
    positions: np.ndarray
    limit: float = 0.0

    def __len__(self) -> int:
        return len(self.positions)

    def rows(self, chosen: list[int]) -> Totals:
        """Return some of the parts."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in ("pairs", "background", "diffuse", "asymmetry", "positions")})

    def joined(self, into: int, part: int) -> Totals:
        """Return the same parts, with the counts of one added to another. The part itself stays."""
        out = Totals(
            self.pairs.copy(), self.background.copy(), self.diffuse.copy(), self.asymmetry.copy(), self.positions.copy(), self.limit
        )
        share = self.positions[[into, part]] / max(self.positions[[into, part]].sum(), 1e-300)
        out.asymmetry[into] = share @ self.asymmetry[[into, part]]
        for sums in (out.pairs, out.background, out.diffuse, out.positions):
            sums[into] += sums[part]
        return out

    @property
    def counts(self) -> np.ndarray:
        """All counts of every part, (J,)."""
        return self.pairs.sum(1) + self.diffuse.sum(1)

    @property
    def net(self) -> np.ndarray:
        """Counts of pairs without the diffuse ones, (J, M)."""
        return np.maximum(self.pairs - self.background, 0.0)


def totals(features: Features, weights: np.ndarray, patterns: np.ndarray | None, center: np.ndarray) -> Totals:
    """Add up the counts of parts.

    Parameters
    ----------
    features : Features
    weights : (N, J) float64
        Weight of every position in every part.
    patterns : (J, Qx, Qy) float64 or None
        Mean patterns of the parts, in which the diffuse scattering of the spots is measured. None: it is taken as 0.
    center : (2,) float64
        Origin of these patterns, pixels.
    """
    counts = weights.T @ features.counts
    positions = weights.sum(0)
    background = np.zeros_like(counts)
    if patterns is not None and len(features.spots):
        density = np.nan_to_num(np.stack([diffuse_density(pattern, features.spots, features.radii, center) for pattern in patterns]))
        background = np.minimum(density / features.gain * np.pi * features.radii**2 * positions[:, None], counts)
    pair, mate = features.pair_of_spot, features.mate
    first = np.unique(pair, return_index=True)[1]
    net = counts - background
    difference = np.where(mate >= 0, np.abs(net - net[:, mate]), 0.0)[:, first]
    pairs, under = summed(counts, pair), summed(background, pair)
    noise = np.sqrt(pairs)
    asymmetry = np.clip((difference - noise) / np.maximum(pairs - under, noise + 1), 0.0, 1.0)
    asymmetry[:, mate[first] < 0] = UNPAIRED
    return Totals(pairs, under, weights.T @ features.diffuse, asymmetry, positions, features.limit)


def diffuse_density(pattern: np.ndarray, spots: np.ndarray, radius: float | np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the diffuse scattering under circles around spots, (K,), counts per pixel: the mean there of the pattern's radial median.

    Spots cover less than half of a ring, so the median over a ring is the diffuse scattering. Unlike a place between the spots it lies
    at the same distance from the origin, so a halo of an amorphous specimen is no spot.
    """
    x, y = (np.arange(n) - c for n, c in zip(pattern.shape, center))
    distance = np.hypot(x[:, None], y).ravel()
    order = np.argsort(distance, kind="stable")
    values, sorted_distance = pattern.ravel()[order], distance[order]
    middle = np.arange(int(sorted_distance[-1]) + 1) + 0.0
    edges = np.searchsorted(sorted_distance, [middle - RING, middle + RING])
    medians = np.array([_median(values[start:stop]) for start, stop in edges.T])
    smooth = np.interp(distance, middle, medians).reshape(pattern.shape)
    return circle_means(smooth, spots, radius, center)


def circle_means(image: np.ndarray, spots: np.ndarray, radius: float | np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return the means of an image in circles around spots, (K,). A circle without pixels gives 0."""
    x, y = (np.arange(n) - c for n, c in zip(image.shape, center))
    reach = np.broadcast_to(radius, (len(spots),))
    out = np.zeros(len(spots))
    for k, ((sx, sy), r) in enumerate(zip(spots, reach)):
        rows, columns = np.flatnonzero(np.abs(x - sx) < r), np.flatnonzero(np.abs(y - sy) < r)
        part = image[np.ix_(rows, columns)]
        inside = (x[rows, None] - sx) ** 2 + (y[columns] - sy) ** 2 < r * r
        out[k] = part[inside].mean() if inside.any() else 0.0
    return out


def _median(values: np.ndarray) -> float:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if len(good) else 0.0
