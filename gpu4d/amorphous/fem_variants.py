"""Variances of fluctuation microscopy from the sums of rings, without the part of the counting noise, and their errors.

Counts of a Poisson process of expectation λ have E[N] = λ and E[N (N − 1)] = λ². Every square below is made of such products, so that
none has a part of the noise. Averages over positions are squared without their diagonal for the same reason: the product of two
different positions has no bias from their own scatter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu4d.data.storable import Storable
from gpu4d.robust import MAD_TO_SIGMA

DRAWS = 100  # of a bootstrap: its standard error is then known to 7 %
MOST_DRAWN = 2000  # positions of a draw; the error of more follows from the square root of their number


class _Variance(NamedTuple):
    value: np.ndarray
    error: np.ndarray
    raw: np.ndarray
    noise: np.ndarray


class Variance(_Variance, Storable, stored="value error raw noise: radius"):
    """A normalised variance by ring. All are (n_r,) float64; NaN where it is not defined.

    Attributes
    ----------
    value : (n_r,) float64
        Without the part of the counting noise. Its expectation is 0 for patterns that differ by counting noise alone.
    error : (n_r,) float64
        Standard error, from the scatter of independent positions.
    raw : (n_r,) float64
        As published, with that part.
    noise : (n_r,) float64
        What counting adds to `raw`.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        if not np.isfinite(self.value).any():
            return f"Variance({len(self.value)} rings, not defined)"
        at = int(np.nanargmax(self.value))
        return f"Variance({len(self.value)} rings, up to {self.value[at]:.3g} ± {self.error[at]:.1g})"


class Rings(NamedTuple):
    """Sums of rings in electrons, (positions, n_r), NaN where a position does not count."""

    pixels: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    scale: np.ndarray  # (positions, 1) factor of the mean that makes thicknesses alike; 1 without
    scale_square: np.ndarray  # (positions, 1) factor of products

    @property
    def mean(self) -> np.ndarray:
        """Azimuthal mean, scaled."""
        return self.scale * self.sums / self.pixels

    @property
    def square_of_mean(self) -> np.ndarray:
        """Square of the expected azimuthal mean, without bias: S (S − 1) / n²."""
        return self.scale_square * self.sums * (self.sums - 1) / self.pixels**2

    @property
    def mean_of_square(self) -> np.ndarray:
        """Azimuthal mean of the square of the expected counts, without bias: Σ I (I − 1) / n."""
        return self.scale_square * (self.squares - self.sums) / self.pixels

    @property
    def within(self) -> np.ndarray:
        """Normalised variance within each ring, without bias: n Σ I (I − 1) / (S (S − 1)) − 1. NaN for less than two electrons."""
        some = self.sums > 1
        return np.where(some, self.pixels * (self.squares - self.sums) / np.where(some, self.sums * (self.sums - 1), 1.0) - 1, np.nan)


def annular_mean(rings: Rings) -> Variance:
    """Return the variance of the azimuthal mean over the positions, ⟨⟨I⟩φ²⟩R / ⟨⟨I⟩φ⟩R² − 1."""
    a = rings.mean
    raw = np.nanmean(a**2, axis=0) / np.nanmean(a, axis=0) ** 2 - 1
    return _over_positions(a, rings.square_of_mean, raw)


def ring_ensemble(rings: Rings) -> Variance:
    """Return the ratio of averages ⟨⟨I²⟩φ⟩R / ⟨⟨I⟩φ⟩R² − 1."""
    a = rings.mean
    raw = np.nanmean(rings.scale**2 * rings.squares / rings.pixels, axis=0) / np.nanmean(a, axis=0) ** 2 - 1
    return _over_positions(a, rings.mean_of_square, raw)


def _over_positions(a: np.ndarray, b: np.ndarray, raw: np.ndarray) -> Variance:
    """Return ⟨b⟩ / ⟨a⟩² − 1 with the square of ⟨a⟩ from pairs of different positions; the error from the influence of each position."""
    known = np.isfinite(a)
    n = known.sum(axis=0)
    pairs = (np.nansum(a, axis=0) ** 2 - np.nansum(a**2, axis=0)) / (n * (n - 1.0))
    mean, square = np.nanmean(a, axis=0), np.nanmean(b, axis=0)
    value = square / pairs - 1
    influence = (b - square) / mean**2 - 2 * square / mean**3 * (a - mean)
    error = np.nanstd(influence, axis=0, ddof=1) / np.sqrt(n)
    return Variance(value, error, raw, raw - value)


def mean_of_rings(rings: Rings) -> Variance:
    """Return the mean over the positions of the variance within a ring, ⟨⟨I²⟩φ / ⟨I⟩φ² − 1⟩R."""
    within, some = rings.within, rings.sums > 1
    raw = np.nanmean(np.where(some, rings.pixels * rings.squares / np.where(some, rings.sums**2, 1.0) - 1, np.nan), axis=0)
    value, n = np.nanmean(within, axis=0), np.isfinite(within).sum(axis=0)
    return Variance(value, np.nanstd(within, axis=0, ddof=1) / np.sqrt(n), raw, raw - value)


def median_annular_mean(rings: Rings, rng: np.random.Generator) -> Variance:
    """Return the squared scatter about the median over the positions, by medians: c² med (⟨I⟩φ − m)² / m², m = med ⟨I⟩φ, c = 1.4826."""
    a = rings.mean
    own = a**2 - rings.square_of_mean  # variance of the counting noise of each position

    def raw_and_noise(index: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        some = a[index]
        middle = _median(some)
        spread = MAD_TO_SIGMA**2 * _median((some - middle) ** 2)
        return spread / middle**2, _median(own[index]) / middle**2

    raw, noise = raw_and_noise(slice(None))
    error = _bootstrap(lambda index: np.subtract(*raw_and_noise(index)), len(a), rng)
    return Variance(raw - noise, error, raw, noise)


def median_of_rings(rings: Rings, rng: np.random.Generator) -> Variance:
    """Return the median over the positions of the variance within a ring.

    Counting noise skews the distribution to the right, which puts its median below its mean by κ₃ / 6κ₂. With n pixels and S counts its
    cumulants are κ₂ = 2n / S² and κ₃ = 4n² / S⁴ + 8n / S³ (of the Charlier polynomial of second order). κ₂ is measured where the
    specimen adds to it.
    """
    within, some = rings.within, rings.sums > 1
    n, s = rings.pixels, np.where(some, rings.sums, np.nan)
    noise, skew = _median(2 * n / s**2), _median(4 * n**2 / s**4 + 8 * n / s**3)
    measured = MAD_TO_SIGMA**2 * _median((within - _median(within)) ** 2)
    raw = _median(np.where(some, rings.pixels * rings.squares / np.where(some, rings.sums**2, 1.0) - 1, np.nan))
    value = _median(within) + skew / (6 * np.maximum(noise, measured))
    return Variance(value, _bootstrap(lambda index: _median(within[index]), len(within), rng), raw, raw - value)


def _median(values: np.ndarray) -> np.ndarray:
    """Return the median over the first axis of values that are not NaN. Columns without a NaN, which most are, take a faster way."""
    whole = ~np.isnan(values).any(axis=0)
    if whole.all():
        return np.median(values, axis=0)
    found = np.full(values.shape[1:], np.nan)
    found[whole] = np.median(values[:, whole], axis=0)
    some = ~whole & ~np.isnan(values).all(axis=0)
    found[some] = np.nanmedian(values[:, some], axis=0)
    return found


def _bootstrap(measure, n: int, rng: np.random.Generator) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Return the standard error of what `measure` gives for positions drawn at random."""
    drawn = min(n, MOST_DRAWN)
    found = np.stack([measure(rng.integers(0, n, drawn)) for _ in range(DRAWS)])
    return np.nanstd(found, axis=0, ddof=1) * np.sqrt(drawn / n)


def common_variance(rings: Rings, apart: int) -> float:
    """Return the normalised variance that all rings have in common: the median covariance of rings that are some rings apart.

    Counting noise has no part in it, because it is independent in different rings.
    """
    a = rings.mean
    a = a[:, np.isfinite(a).all(axis=0)]
    a = a[:, a.mean(axis=0) > 0]
    if a.shape[0] < 2 or a.shape[1] <= apart:
        return float("nan")
    a = a / a.mean(axis=0) - 1
    covariance = a.T @ a / (len(a) - 1)
    return float(np.median(covariance[np.triu_indices(len(covariance), apart)]))
