"""The centre of a ring: from any start near it, behind a beam stop, of ellipses and of spots."""

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.rings import Ring, find_ring, ring_center

CENTER = (47.3, 49.8)


def image(ellipse=0.0, mask=None, seed=None):
    """A halo of 25 px whose axes are longer and shorter by a share, on a ground that falls outwards, with a beam."""
    x, y = np.arange(96)[:, None] - CENTER[0], np.arange(100)[None] - CENTER[1]
    r = np.hypot(x / (1 + ellipse), y / (1 - ellipse))
    mean = 40 * np.exp(-(((r - 25) / 4) ** 2)) + 20 / (1 + r / 10) + 5000 * (r < 2)
    return mean if seed is None else np.random.default_rng(seed).poisson(mean) * 1.0


@pytest.mark.parametrize("start", [CENTER, (48.0, 49.0), (45.0, 52.0)])
@pytest.mark.parametrize("ellipse", [0.0, 0.03])
def test_the_start_does_not_matter(start, ellipse):
    mean = image(ellipse)
    found = ring_center(mean, start, find_ring(mean, start, 4.0))
    np.testing.assert_allclose(found, CENTER, atol=0.03)


def test_counts_and_a_beam_stop():
    mask = np.ones((96, 100), bool)
    mask[43:52, :55] = False
    found = [ring_center(np.where(mask, image(seed=s), np.nan), (48.0, 49.0), Ring(25.0, 2.0, 0.1), mask) for s in range(8)]
    assert np.abs(np.subtract(found, CENTER)).max() < 0.15 and np.abs(np.mean(found, axis=0) - CENTER).max() < 0.06


def test_no_ring_no_centre():
    assert ring_center(np.ones((96, 100)), CENTER, Ring(25.0, 2.0, 0.1)) is None
    mask = np.zeros((96, 100), bool)
    mask[:, 60:] = True
    assert ring_center(image(), CENTER, Ring(25.0, 2.0, 0.1), mask) is None, "a quarter of the ring tells too little"
    with pytest.raises(InputError, match="radius"):
        ring_center(image(), CENTER, Ring(0.0, 2.0, 0.1))
