"""Centre, radius and edge of the bright-field disk."""

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.probe import measure_disk, synthetic


@pytest.mark.parametrize("center", [(31.5, 31.5), (28.13, 35.71), (40.0, 22.25)])
@pytest.mark.parametrize(("radius", "edge"), [(4.0, 1.0), (9.3, 0.6), (15.0, 3.0)])
def test_clean_disk(center, radius, edge):
    disk = measure_disk(synthetic((64, 66), radius, center, edge))
    np.testing.assert_allclose((disk.qx, disk.qy), center, atol=0.01)
    assert disk.radius == pytest.approx(radius, abs=0.02) and disk.edge == pytest.approx(edge, rel=0.15)
    assert disk.residual < 0.1


def test_noisy_disk():
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(20):
        c = rng.uniform(28, 36, 2)
        d = measure_disk(rng.poisson(40 * synthetic((64, 64), 8.0, tuple(c)) + 0.5))
        errors.append((d.qx - c[0], d.qy - c[1], d.radius - 8.0))
    assert np.sqrt(np.mean(np.square(errors), 0)).max() < 0.08


def test_structure_inside_moves_the_centre_of_mass_but_not_the_disk():
    disk = synthetic((64, 64), 14.0, (31.0, 33.0))
    x = np.arange(64)[:, None]
    image = disk * (1 + 0.02 * (x - 31)) * 100
    assert abs((image * x).sum() / image.sum() - 31.0) > 0.8
    found = measure_disk(image)
    np.testing.assert_allclose((found.qx, found.qy), (31.0, 33.0), atol=0.15)


def test_neighbours_and_masked_pixels_do_not_bend_the_circle():
    image = 100 * synthetic((96, 96), 8.0, (48.2, 47.6))
    for c in ((48.2 + 20, 47.6), (48.2, 47.6 - 21), (34.0, 62.0)):
        image = image + 45 * synthetic((96, 96), 8.0, c)
    assert np.hypot(*(np.array(measure_disk(image)[:2]) - (48.2, 47.6))) < 0.05
    mask = np.ones((96, 96), bool)
    mask[47:49] = False
    stopped = np.where(mask, image, np.nan)
    found = measure_disk(stopped)
    assert np.hypot(*(np.array(found[:2]) - (48.2, 47.6))) < 0.1 and found.radius == pytest.approx(8.0, abs=0.1)


def test_nothing_to_measure():
    for image in (np.zeros((32, 32)), np.full((32, 32), 5), np.full((32, 32), np.nan)):
        with pytest.raises(InputError, match="no disk"):
            measure_disk(image)
    with pytest.raises(InputError, match="one image"):
        measure_disk(np.zeros((2, 32, 32)))
