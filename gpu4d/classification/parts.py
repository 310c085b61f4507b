"""Split a scan into parts of similar patterns: more of them than there are classes. Statistics join them afterwards."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from gpu4d.classification.cooccurrence import cooccurrence_seeds
from gpu4d.classification.factorise import factorise, scikit_learn
from gpu4d.classification.features import Features

FITTED = 20_000  # positions that parts are fitted to; all are assigned to them
LEAST = 8  # positions in a part, on average
STARTS = 4  # of k-means: the best is taken
REACH = 3  # positions: the patterns at this distance on both sides are compared, so that soft borders show too
EDGES = (
    0.2,
    0.1,
    0.06,
    0.04,
    0.03,
    0.02,
    0.015,
    0.01,
    0.007,
    0.005,
)  # shares of the counts by which patterns on both sides of a border differ
BENDING = 0.25  # relative change of a pair between neighbouring patterns that is no border
DOMAIN = 12  # positions of the smallest domain
EMPTY = 1e-9  # counts: positions with no more have no pattern


def clusters(features: Features, parts: int) -> np.ndarray:
    """Split positions by k-means, (N,) int.

    The features are roots of shares, √(c_k / Σ c), of counts summed over 3 × 3 positions: their distance is that of Hellinger. Thickness
    does not change shares, and roots give all counts the same noise.
    """
    rows = hellinger(features.smoothed(features.columns))
    return _k_means(rows, max(1, min(parts, len(rows) // LEAST)))


def factorised(features: Features, parts: int) -> np.ndarray:
    """Split positions as the guide does: factorise their counts from classes of shared spots, (N,) int.

    Positions are then split by k-means of the shares of the components, because the largest component alone would split a bent crystal,
    and not the order that shows in a few faint spots.
    """
    rows = features.smoothed(features.columns)
    level = np.percentile(rows[:, : features.pairs.shape[1]], 10, axis=0) if len(rows) else 0.0
    shown = rows[:, : features.pairs.shape[1]]
    present = (shown - level) > 4 * np.sqrt(shown + 1)
    count = max(1, min(parts, len(rows) // LEAST))
    if count < 2:
        return np.zeros(len(rows), int)
    many = min(count, rows.shape[1])
    weights, profiles = factorise(rows, many, start=cooccurrence_seeds(present, rows, many))
    return _k_means(hellinger(weights * profiles.sum(1)), count)


def _k_means(rows: np.ndarray, count: int) -> np.ndarray:
    """Split rows (N, F) into `count` clusters, (N,) int."""
    if count < 2:
        return np.zeros(len(rows), int)
    few = rows
    if len(rows) > FITTED:
        few = rows[np.random.default_rng(0).choice(len(rows), FITTED, replace=False)]
    count = min(count, len(np.unique(few, axis=0)))
    model = scikit_learn("cluster").KMeans(count, n_init=STARTS, random_state=0).fit(few)
    return compact(model.predict(rows))


def domains(features: Features, parts: int) -> np.ndarray:
    """Split positions into closed domains of similar neighbours, (N,) int.

    Counts of 3 × 3 positions on both sides of a position are compared, along both axes. Where they differ by more than bending and noise
    explain, there is a border. Domains are regions that borders enclose. Only the `parts` largest are kept. Positions on a border
    are in none, -1.
    """
    number = _closed(features.on_scan(border_strength(features), np.inf))[features.seen]
    order = [k for k in np.argsort(-np.bincount(number), kind="stable") if k > 0][:parts]
    if not order:
        return np.zeros(len(number), int)
    place = np.full(int(number.max(initial=0)) + 1, -1)
    place[order] = np.arange(len(order))
    return place[number]


def _closed(strength: np.ndarray) -> np.ndarray:
    """Number the closed domains (Rx, Ry), from 1; 0 on borders.

    A border is closed if it separates its two sides. How strong borders are is not known before. So they are looked for at falling limits:
    a domain is replaced by its parts if a lower limit closes borders inside of it.
    """
    number = np.zeros(strength.shape, int)
    for limit in EDGES:
        found, count = ndimage.label(strength < limit)
        sizes = np.bincount(found.ravel(), minlength=count + 1)
        large = [k for k in range(1, count + 1) if sizes[k] >= DOMAIN]
        parents = [int(number[found == k].max()) for k in large]
        for parent in set(parents):
            parts = [k for k, one in zip(large, parents) if one == parent]
            if parent and len(parts) < 2:
                continue
            number[number == parent] *= parent == 0
            for k in parts:
                number[found == k] = number.max() + 1
    return number


def border_strength(features: Features) -> np.ndarray:
    """Return the share of the counts by which the patterns on both sides of every position differ, (N,) float64, 0 to 1."""
    grid = features.on_scan(features.smoothed(features.columns), 0.0)
    strength = np.zeros(features.seen.shape)
    for axis in (0, 1):
        places = np.arange(grid.shape[axis])
        a = np.take(grid, np.maximum(places - REACH, 0), axis)
        b = np.take(grid, np.minimum(places + REACH, len(places) - 1), axis)
        sa, sb = a.sum(-1, keepdims=True), b.sum(-1, keepdims=True)
        both = (sa > EMPTY) & (sb > EMPTY)
        mean = np.where(both, (sa + sb) / 2, 0.0)
        pa, pb = mean / np.where(both, sa, 1.0), mean / np.where(both, sb, 1.0)
        noise = np.sqrt(a * pa**2 + b * pb**2)
        beyond = np.maximum(np.abs(a * pa - b * pb) - noise - BENDING * np.maximum(a * pa, b * pb), 0.0).sum(-1)
        strength = np.maximum(strength, beyond / np.where(both, 2 * mean, 1.0)[..., 0])
    return strength[features.seen]


def hellinger(rows: np.ndarray) -> np.ndarray:
    """Return roots of shares. A row without counts is 0."""
    total = rows.sum(1, keepdims=True)
    return np.sqrt(rows / np.where(total > EMPTY, total, 1.0))


def compact(label: np.ndarray) -> np.ndarray:
    """Return labels as 0, 1, … without gaps."""
    return np.unique(label, return_inverse=True)[1]
