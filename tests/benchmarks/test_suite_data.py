"""Seeded inputs of the benchmark suite: the bits that are written down, on every library and in any pieces."""

import numpy as np
import pytest
from gpu4d.benchmarks.suite import data


def lowbias32(x):
    """The published function, with Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None)):
        x ^= x >> shift
        if factor is not None:
            x = x * factor % 2**32
    return x


def test_hashes_are_those_written_down():
    rng = np.random.default_rng(4)
    for index, seed in [(0, 0), (2**32 - 1, 1), (2**32, 1), *rng.integers(0, (2**40, 2**31), (100, 2)).tolist()]:
        high, low = divmod(index, 2**32)
        key = (seed ^ (high * 0x9E3779B9)) % 2**32
        assert data.hashed(np, seed, index, 1)[0] == lowbias32(lowbias32(low) ^ key)


def test_hashes_are_uniform_and_independent_of_their_neighbours():
    u = data.uniform(7, 1 << 18)
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * u.size)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5 / np.sqrt(u.size)
    assert np.abs(np.bincount((u * 64).astype(int), minlength=64) - u.size / 64).max() < 6 * np.sqrt(u.size / 64)


@pytest.mark.parametrize("mean", [0.3, 5.0, 400.0])
def test_counts_have_the_mean_and_variance_of_poisson(mean):
    """Quantiles at 4096 places lose less than 1 % of the variance of small means."""
    found = data.counts(np, np.full((1, 64, 64), mean), np.zeros(64, int), 3).astype(float)
    n, (mean,) = found.size, data._levels(np.array([mean]))[0]
    assert abs(found.mean() - mean) < 5 * np.sqrt(mean / n) + 0.002 * mean
    assert abs(found.var() / mean - 1) < 0.02


def test_no_counts_where_none_are_expected():
    assert not data.counts(np, np.zeros((1, 8, 8)), np.zeros(3, int), 3).any()


def test_counts_do_not_depend_on_the_pieces(monkeypatch):
    expected = 9 * data.uniform(1, 2 * 12 * 10).reshape(2, 12, 10)
    whole = data.counts(np, expected, np.arange(50) % 2, 5)
    monkeypatch.setattr(data, "PIECES", {True: 7 * 120, False: 7 * 120})
    assert np.array_equal(data.counts(np, expected, np.arange(50) % 2, 5), whole)


def test_levels_lie_within_half_a_step():
    """A step is at most the larger of 1/128 of a count and 1/32 of the root, so rounding is small beside the noise."""
    expected = np.concatenate([10 * data.uniform(1, 500), 5000 * data.uniform(2, 500)]).reshape(1, 50, 20)
    values, index = data._levels(expected)
    assert (np.abs(values[index] - expected) <= np.maximum(1 / 128, np.sqrt(expected) / 32) / 2).all()


def test_a_digest_finds_every_changed_byte():
    values = (data.uniform(1, 303) * 256).astype(np.uint8)
    found = {data.digest(np, values)}
    for place in range(len(values)):
        altered = values.copy()
        altered[place] ^= 1 + place % 255
        found.add(data.digest(np, altered))
    assert len(found) == len(values) + 1


def test_a_digest_knows_shape_dtype_and_order():
    values = np.arange(24, dtype=np.uint16)
    found = {data.digest(np, one) for one in (values, values.reshape(4, 6), values.astype(np.uint32), values[::-1], values.view(np.int16))}
    assert len(found) == 5
    assert data.digest(np, values, values * 2) != data.digest(np, values * 2, values)


def test_a_digest_does_not_depend_on_the_pieces(monkeypatch):
    values = np.arange(10_001, dtype=np.uint8)
    whole = data.digest(np, values)
    monkeypatch.setattr(data, "PIECES", {True: 64, False: 64})
    assert data.digest(np, values) == whole


@pytest.mark.gpu
def test_a_gpu_makes_the_same_bits():
    import cupy

    expected = 9 * data.uniform(1, 2 * 12 * 10).reshape(2, 12, 10)
    there, here = (data.counts(xp, expected, np.arange(50) % 2, 5) for xp in (cupy, np))
    assert np.array_equal(there.get(), here)
    assert data.digest(cupy, there) == data.digest(np, here)
