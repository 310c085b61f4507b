"""Raw frames of counting detectors and empty scans, and data that are neither."""

import numpy as np
import pytest
from spot_scenes import crystal

from gpu4d.preprocess import is_flat, raw_frames


def electrons(rng, share=0.01, level=50.0, noise=3.0, signal=120.0, shape=(12, 80, 80)):
    frames = rng.normal(level, noise, shape)
    lit = rng.random(shape) < share
    frames[lit] += rng.exponential(signal, lit.sum()) + signal / 3
    return np.rint(frames).clip(0).astype("uint16"), level + share * 1.33 * signal


@pytest.mark.parametrize("share, level, noise", [(0.003, 50, 3), (0.01, 500, 10), (0.02, 6, 1)])
def test_raw_frames_are_recognised(share, level, noise):
    frames, mean = electrons(np.random.default_rng(0), share, level, noise)
    assert raw_frames(frames, np.full((80, 80), mean))


@pytest.mark.parametrize("dose", [0.01, 1.0, 100.0])
def test_diffraction_patterns_are_no_raw_frames(dose):
    """Bright pixels lie at the same places in every pattern, also at a dose of less than an electron a pixel."""
    mean = dose * crystal()
    assert not raw_frames(np.random.default_rng(1).poisson(mean, (8, *mean.shape)), mean)


def test_an_empty_detector_is_flat():
    rng = np.random.default_rng(2)
    assert is_flat(rng.poisson(3, (50, 40, 40)).mean(0), 50)
    assert not is_flat(rng.poisson(0.02 * crystal(), (50, 96, 96)).mean(0), 50)
    assert not is_flat(np.full((4, 4), np.nan), 9)
