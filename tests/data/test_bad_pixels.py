"""Hot pixels, pairs, clusters, gaps, dead and stuck pixels of a mean pattern; and what is none of these."""

import numpy as np
import pytest
from spot_scenes import crystal, disk

from gpu4d.preprocess import find_bad_pixels, find_nan_pixels

PATTERNS = 100


def counted(mean, seed=0, patterns=PATTERNS):
    """Mean of so many patterns of counts."""
    return np.random.default_rng(seed).poisson(mean * patterns) / patterns


@pytest.mark.parametrize(
    "places",
    [[(10, 80)], [(10, 80), (10, 81)], [(10, 80), (11, 81)], [(10, 80), (11, 80), (12, 80)], [(47, 47), (48, 47)], [(20, 30), (23, 30)]],
)
@pytest.mark.parametrize("height", [3000.0, 9000.0, 1e6])
def test_hot_pixels_and_pairs_are_found(places, height):
    mean = counted(crystal())
    mean[tuple(np.transpose(places))] = height
    bad = find_bad_pixels(mean, PATTERNS)
    assert np.argwhere(bad.hot).tolist() == sorted(map(list, places)) and not bad.dead.any()


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (2, 3), (2, 4)])
def test_clusters_are_found_where_the_beam_makes_disks(shape):
    mean, truth = counted(crystal()), np.zeros((96, 96), bool)
    truth[10 : 10 + shape[0], 78 : 78 + shape[1]] = True
    mean[truth] = np.random.default_rng(0).uniform(5000, 9000, truth.sum())
    assert np.array_equal(find_bad_pixels(mean, PATTERNS, disks=True).hot, truth)


@pytest.mark.parametrize("share", [0.005, 0.02, 0.05])
def test_many_hot_pixels_are_found(share):
    rng = np.random.default_rng(1)
    mean, truth = counted(crystal()), rng.random((96, 96)) < share
    mean[truth] = rng.choice([2000, 9000, 60000], truth.sum()) * rng.uniform(0.7, 1, truth.sum())
    found = find_bad_pixels(mean, PATTERNS, disks=True)
    assert (found.hot & truth).sum() > 0.97 * truth.sum() and (found.hot & ~truth).sum() <= 2


@pytest.mark.parametrize("value", [0.0, 65535.0])
def test_gaps_between_modules_are_found(value):
    mean, truth = counted(crystal()), np.zeros((96, 96), bool)
    truth[31:33], truth[:, 60:63] = True, True
    mean[truth] = value
    bad = find_bad_pixels(mean, PATTERNS)
    assert np.array_equal(bad.hot if value else bad.dead, truth)


@pytest.mark.parametrize("gain, noise, offset", [(100, 8, 0), (100, 40, 50), (30, 3, -20), (1, 0.3, 5)])
def test_readout_noise_is_no_defect(gain, noise, offset):
    """An analogue detector has units for an electron, readout noise and an offset. Its scatter is not that of counts."""
    rng = np.random.default_rng(2)
    for patterns in (20, 120):
        mean = gain * counted(crystal(), 3, patterns) + rng.normal(0, noise / np.sqrt(patterns), (96, 96)) + offset
        assert find_bad_pixels(mean, patterns).mask.all()


@pytest.mark.parametrize("radius, edge", [(0.7, 0.8), (1.0, 0.8), (1.5, 0.5), (2.5, 0.8)])
def test_sharp_spots_are_no_hot_pixels(radius, edge):
    """Wherever their centre lies in its pixel: a spot lights the pixels beside it."""
    for center in ((32.0, 30.0), (32.5, 30.0), (32.5, 30.5), (32.2, 30.4)):
        spots = sum(
            w * disk((64, 60), np.add(center, at), radius, edge, True) for w, at in ((3000, (0, 0)), (300, (12, 1)), (300, (1, -13)))
        )
        assert find_bad_pixels(counted(spots + 0.05), PATTERNS).mask.all(), center


def test_dead_pixels_of_few_counts_and_pairs_are_found():
    mean = counted(crystal(background=3.0))
    mean[20, 20] = mean[47, 47] = mean[60, 70] = mean[60, 71] = 0
    bad = find_bad_pixels(mean, PATTERNS)
    assert np.argwhere(bad.dead).tolist() == [[20, 20], [47, 47], [60, 70], [60, 71]] and not bad.hot.any()


def test_pixels_that_never_change_are_found():
    """Their value is an ordinary one: only the maximum tells them."""
    rng = np.random.default_rng(5)
    frames = rng.poisson(20, (30, 32, 32)).astype(float)
    frames[:, 4, 5], frames[:, 6:8, 9:11] = 20, 40
    bad = find_bad_pixels(frames.mean(0), 30, frames.max(0))
    assert np.argwhere(bad.hot | bad.dead).tolist() == [[4, 5], [6, 9], [6, 10], [7, 9], [7, 10]]
    same = np.broadcast_to(frames[0], frames.shape)
    assert find_bad_pixels(same.mean(0), 30, same.max(0)).mask.all(), "a scan of equal patterns has no stuck pixel"


def test_nan_pixels_of_most_patterns():
    frames = np.ones((8, 4, 5))
    frames[:, 1, 2], frames[:5, 2, 2], frames[:4, 3, 3], frames[7] = np.nan, np.inf, np.nan, np.nan
    assert np.argwhere(find_nan_pixels(frames)).tolist() == [[1, 2], [2, 2], [3, 3]]
    assert not find_nan_pixels(np.full((2, 3, 3), np.nan)).any(), "empty patterns say nothing of a pixel"
