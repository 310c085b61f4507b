"""Disks of a pixel or two: measured by one fit of all pixels, and templates that find spots and nothing else."""

import numpy as np
import pytest
from spot_scenes import disk, lattice

import gpu4d
from gpu4d.errors import InputError
from gpu4d.probe import measure_disk, synthetic, template

SHAPE = (64, 60)


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("radius, edge", [(0.7, 0.8), (1.0, 0.4), (1.4, 0.3), (2.0, 0.4), (2.0, 0.8), (2.5, 1.2), (2.9, 0.5)])
def test_small_disks_are_measured(radius, edge, integrated):
    """Within 0.15 px and 0.35 px of the truth, wherever the centre lies in its pixel."""
    for center in ((31.3, 28.2), (31.0, 28.0), (31.5, 28.5), (30.75, 28.1)):
        found = measure_disk(1000 * disk(SHAPE, center, radius, edge, integrated))
        assert np.hypot(found.qx - center[0], found.qy - center[1]) < 0.15
        assert abs(found.radius - radius) < 0.35


def test_the_error_of_a_small_disk_is_its_scatter():
    """Two thirds of the radii lie within their standard error, as for a normal distribution, in a wide margin."""
    rng = np.random.default_rng(0)
    mean = 2000 * disk(SHAPE, (31.3, 28.2), 2.0, 1.0) + 2
    found = [measure_disk(rng.poisson(mean)) for _ in range(60)]
    deviates = np.array([(d.radius - 2.0) / d.radius_error for d in found])
    assert 0.5 < np.sqrt(np.mean(deviates**2)) < 2


def test_a_pixel_is_no_disk():
    image = np.full(SHAPE, 0.05)
    image[20, 30] = 0.9  # of a normalised image, so that nothing is known of its noise
    with pytest.raises(InputError, match=r"\(20, 30\).*neither centre nor radius"):
        measure_disk(image)


def test_hot_pixels_and_hits_are_no_disk():
    """Also in a single frame: they do not light the pixels beside them."""
    frame = np.random.default_rng(0).poisson(50 * disk(SHAPE, (31.4, 27.7), 8.0) + 0.1)
    for at in (((5, 50),), ((5, 50), (5, 51)), ((20, 20), (21, 20), (22, 20))):
        hit = frame.copy()
        hit[tuple(np.transpose(at))] = 20000
        found = measure_disk(hit)
        assert np.hypot(found.qx - 31.4, found.qy - 27.7) < 0.1 and abs(found.radius - 8) < 0.1


@pytest.mark.parametrize("radius, edge", [(0.7, 0.8), (1.2, 0.8), (1.8, 0.8), (1.7, 0.3), (2.5, 1.3)])
def test_spots_are_found_and_nothing_else(radius, edge):
    """The template's centre may lie anywhere in its pixel."""
    rng = np.random.default_rng(1)
    places, orders = lattice((47.7, 47.2), (14.0, 1.0), (-1.0, 14.0))
    mean = 0.05 + sum((1500 if hk == (0, 0) else 120) * disk((96, 96), at, radius, edge) for at, hk in zip(places, orders))
    frames = rng.poisson(np.broadcast_to(mean, (6, 96, 96))).astype("uint16")
    for part in ((0.0, 0.0), (0.2, 0.0), (0.5, 0.3)):
        probe = synthetic((96, 96), radius, center=(47 + part[0], 47 + part[1]), edge=edge)
        for found in gpu4d.find_bragg_disks(frames, template(probe)):
            away = np.hypot(*(np.stack([found.qx, found.qy], -1)[:, None] - places).transpose(2, 0, 1))
            assert (away.min(1) < 1).all(), "no false disk"
            assert (away.min(0) < 1).sum() >= 24


def test_the_template_of_a_spot_is_centred_on_a_pixel():
    """And it has no tails: where it sees no counts, its correlation is zero."""
    made = template(disk((48, 48), (24.3, 23.6), 1.3))
    assert made.offset == (0.0, 0.0) and abs(made.radius - 1.3) < 1e-3
    away = np.hypot(*np.meshgrid(*[np.fft.fftfreq(48, 1 / 48)] * 2))
    assert np.abs(made.kernel[away > 3 * 1.5 + 1]).max() < 1e-12
    assert abs(made.kernel.sum()) < 1e-12
