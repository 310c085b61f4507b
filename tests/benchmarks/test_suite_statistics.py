"""Median and interval of samples, against probabilities that can be counted."""

import numpy as np
import pytest
from gpu4d.benchmarks.suite.statistics import bootstrap, median_rank, summarise
from scipy.stats import binom


@pytest.mark.parametrize("n", range(6, 60))
def test_the_interval_is_the_smallest_that_keeps_the_confidence(n):
    """The median lies outside of the samples of rank r and n − 1 − r with probability 2 P(at most r of n coins show heads)."""
    rank = median_rank(n)
    assert 2 * binom.cdf(rank, n, 0.5) <= 0.05
    assert 2 * binom.cdf(rank + 1, n, 0.5) > 0.05


def test_the_interval_holds_the_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [summarise(rng.lognormal(size=15)) for _ in range(2000)]
    inside = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert inside >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_outliers_are_named_and_counted():
    found = summarise([1.0] * 9 + [1.1, 0.9, 5.0])
    assert found.outliers == (1.1, 0.9, 5.0) and found.n == 12 and found.maximum == 5.0


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        summarise([])


def test_samples_drawn_again_scatter_as_medians_do():
    """The standard error of the median of a normal distribution is √(π/2) σ / √n."""
    values = np.random.default_rng(2).normal(10, 1, (400, 1))
    drawn = bootstrap([values, 2 * values])
    assert drawn.shape == (2000, 2)
    assert drawn[:, 0].std() == pytest.approx(np.sqrt(np.pi / 2) / 20, rel=0.35)
    assert np.array_equal(drawn[:, 1], 2 * drawn[:, 0]), "the same passes are drawn for all kinds"


def test_samples_of_one_pass_are_not_independent():
    """Passes that differ, of many samples that agree: the interval is that of eight values, not of eighty."""
    passes = np.linspace(1.0, 1.7, 8)
    narrow, wide = bootstrap([np.tile(passes, 10)[:, None]]), bootstrap([np.repeat(passes[:, None], 10, 1)])
    assert wide.std() > 2 * narrow.std()


def test_passes_of_different_lengths():
    assert bootstrap([[[1.0, 1.0], [1.0]]]).tolist() == [[1.0]] * 2000
