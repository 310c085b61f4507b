"""The direct beam is where Friedel pairs are alike, whatever is the brightest disk."""

import numpy as np
import pytest
from spot_scenes import crystal, disk, lattice

from gpu4d.bragg import direct_beam
from gpu4d.probe import synthetic


def found_in(mean, **options):
    return direct_beam(mean, synthetic(mean.shape, 5.0, edge=0.8), **options)


@pytest.mark.parametrize("strong", [1.3, 2.5, 6.0])
def test_a_diffracted_disk_brighter_than_the_beam(strong):
    beam = found_in(np.random.default_rng(0).poisson(100 * crystal(strong=strong)) / 100)
    assert np.hypot(beam.qx - 47.7, beam.qy - 47.2) < 0.3 and not beam.hidden
    assert np.hypot(beam.brightest[0] - 64.7, beam.brightest[1] - 49.2) < 0.3


def test_a_whole_row_of_strong_disks():
    """As with a specimen that is tilted about one axis."""
    places, orders = lattice((47.7, 47.2), (17.0, 2.0), (-2.0, 17.0))
    mean = crystal()
    for at, hk in zip(places, orders):
        if hk in ((1, 0), (2, 0)):
            mean += 250 * disk(mean.shape, at, 5.0)
    beam = found_in(mean)
    assert np.hypot(beam.qx - 47.7, beam.qy - 47.2) < 0.3


@pytest.mark.parametrize("masked", [False, True])
def test_a_beam_stop_hides_the_direct_beam(masked):
    mean, stop = crystal(), np.zeros((96, 96), bool)
    stop[40:56, :56] = True
    mean[stop] = 0
    beam = found_in(mean, mask=~stop if masked else None)
    assert beam.hidden and np.hypot(beam.qx - 47.7, beam.qy - 47.2) < 0.5


def test_nothing_is_changed_where_the_beam_is_the_brightest_or_alone():
    assert found_in(crystal()) is None
    assert found_in(crystal(strong=0.9)) is None
    assert found_in(200 * disk((96, 96), (47.7, 47.2), 5.0)) is None


def test_unlike_pairs_decide_nothing():
    """Every disk has a brightness of its own: no centre of symmetry, and the brightest disk stays."""
    rng, places = np.random.default_rng(3), lattice((47.7, 47.2), (17.0, 2.0), (-2.0, 17.0))[0]
    mean = 0.05 + sum(np.exp(rng.normal(0, 1.2)) * 20 * disk((96, 96), at, 5.0) for at in places)
    assert found_in(mean) is None
