"""Spread and weights that few outliers do not change."""

import numpy as np

from gpu4d.robust import TUKEY, biweight, robust_sigma


def test_a_gaussians_standard_deviation_with_a_tenth_of_outliers():
    values = np.random.default_rng(0).normal(3.0, 2.0, (100_000, 2))
    np.testing.assert_allclose(robust_sigma(values, axis=0), 2.0, rtol=0.01)
    values[::10] = 1e6
    assert 2.0 < robust_sigma(values) < 2.5
    assert robust_sigma(np.array([1.0, -3.0, 2.0]), 0.0) == 1.4826 * 2.0


def test_weights_and_their_efficiency():
    assert biweight(np.array([0.0, -TUKEY, 9.0])).tolist() == [1.0, 0.0, 0.0]
    x = np.linspace(-8, 8, 100_001)
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    score = x * biweight(x)
    slope = np.gradient(score, x)
    step = x[1] - x[0]
    efficiency = (slope * density).sum() ** 2 * step / (score**2 * density).sum()  # asymptotic: (E ψ')² / E ψ²
    np.testing.assert_allclose(efficiency, 0.95, atol=1e-3)
