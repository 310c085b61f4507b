"""Rings of a mean pattern: even ones are found, disks of a crystal are none."""

import numpy as np
import pytest
from spot_scenes import crystal, disk

from gpu4d.rings import find_ring


def halo(radius, width, height=20.0, center=(47.3, 48.1)):
    r = np.hypot(*np.meshgrid(*(np.arange(96) - c for c in center), indexing="ij"))
    return 1 + height * np.exp(-(((r - radius) / width) ** 2)) + 3000 * disk((96, 96), center, 1.5)


@pytest.mark.parametrize("radius, width", [(15, 3), (25, 1.5), (32, 6)])
def test_a_halo_is_found(radius, width):
    ring = find_ring(np.random.default_rng(0).poisson(halo(radius, width)), (47.3, 48.1), 5.0)
    assert abs(ring.radius - radius) <= 1 and ring.unevenness < 0.1 and ring.contrast > 1.3


def test_a_ring_behind_a_beam_stop():
    mask = np.ones((96, 96), bool)
    mask[44:52, :50] = False
    mean = np.where(mask, halo(25, 3), np.nan)
    assert find_ring(mean, (47.3, 48.1), 5.0, mask).radius == pytest.approx(25, abs=1)


def test_rings_of_spots_are_uneven():
    rng = np.random.default_rng(1)
    angles = rng.uniform(0, 2 * np.pi, 60)
    mean = 1 + sum(30 * disk((96, 96), (47.3 + 26 * np.cos(t), 48.1 + 26 * np.sin(t)), 1.5) for t in angles)
    assert 0.1 < find_ring(mean, (47.3, 48.1), 5.0).unevenness < 0.4


@pytest.mark.parametrize(
    "mean", [crystal(), np.ones((96, 96)), 100 * disk((96, 96), (47.7, 47.2), 12.0) + 0.1], ids=["disks", "flat", "beam"]
)
def test_what_is_no_ring(mean):
    assert find_ring(mean, (47.7, 47.2), 8.0) is None
