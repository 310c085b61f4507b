"""Describe samples by their median, its interval, their minimum, and their outliers. No sample is thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from gpu4d.benchmarks.suite.data import hashed

CONFIDENCE = 0.95
WIDEST = 0.05  # of a score: none is given where its interval is wider


@dataclass(frozen=True)
class Summary:
    """Of samples of one thing, in its unit.

    Attributes
    ----------
    n : int
    median, minimum, maximum : float
    low, high : float
        The interval that holds the median of all possible samples with at least 95 % confidence, whatever their distribution: two of
        the samples in order. With fewer than six samples there is none, and it is from the smallest to the largest.
    outliers : tuple of float
        Samples beyond 1.5 interquartile ranges from the quartiles. They count like all others.
    """

    n: int
    median: float
    minimum: float
    maximum: float
    low: float
    high: float
    outliers: tuple[float, ...]

    @property
    def width(self) -> float:
        """The width of the interval over the median."""
        return (self.high - self.low) / self.median if self.median else float("inf")


def summarise(samples: Sequence[float]) -> Summary:
    """Return the summary of at least one sample.

    Examples
    --------
    >>> s = summarise([3.0, 1.0, 2.0, 2.0, 2.0, 9.0, 2.0])
    >>> s.median, s.minimum, s.low, s.high, s.outliers
    (2.0, 1.0, 1.0, 9.0, (3.0, 1.0, 9.0))
    """
    ordered = np.sort(np.asarray(samples, float))
    if not len(ordered):
        raise ValueError("there are no samples")
    first = median_rank(len(ordered))
    q1, q3 = np.percentile(ordered, [25, 75])
    reach = 1.5 * (q3 - q1)
    outliers = tuple(float(s) for s in samples if not q1 - reach <= s <= q3 + reach)
    return Summary(
        n=len(ordered),
        median=float(np.median(ordered)),
        minimum=float(ordered[0]),
        maximum=float(ordered[-1]),
        low=float(ordered[first]),
        high=float(ordered[-1 - first]),
        outliers=outliers,
    )


def median_rank(n: int) -> int:
    """Return the rank, from 0, of the sample that begins the interval: the largest that keeps the confidence.

    The median of all lies below the sample of rank r with the probability that at most r of n coins show heads.

    Examples
    --------
    >>> median_rank(5), median_rank(6), median_rank(15)
    (0, 0, 3)
    """
    tail, rank = 0.0, 0
    for r in range(n // 2):
        tail += comb(n, r) / 2.0**n
        if 2 * tail > 1 - CONFIDENCE:
            break
        rank = r
    return rank


def bootstrap(samples: Sequence[Sequence[Sequence[float]]], seed: int = 0, draws: int = 2000) -> np.ndarray:
    """Return medians of samples of passes that are drawn again with replacement: (draws, kinds).

    Samples of one pass are alike, because a machine is faster in one minute than in the next. So whole passes are drawn, and the same ones
    for all kinds, which were measured in the same minutes. Draws are the same with every version of NumPy.

    Parameters
    ----------
    samples : sequence of sequence of sequence of float
        Of every kind, by pass.
    """
    found = np.empty((draws, len(samples)))
    for column, some in enumerate(samples):
        longest = max(map(len, some))
        values = np.array([[*one, *[np.nan] * (longest - len(one))] for one in some], float)
        random = hashed(np, seed, 0, draws * len(values)).astype(np.uint64)
        chosen = ((random * np.uint64(len(values))) >> np.uint64(32)).reshape(draws, len(values))
        drawn = values[chosen].reshape(draws, -1)
        found[:, column] = np.nanmedian(drawn, axis=1) if np.isnan(drawn).any() else np.median(drawn, axis=1)
    return found
