"""Crystallites in a glass: spots whose place is known, false positives in glasses without any, the simulated film."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import gpu4d
from gpu4d.amorphous import SpotFluctuation, find_crystallites
from gpu4d.amorphous.spot_fluctuation import disk_sums
from gpu4d.errors import InputError

SIZE, CENTER = 48, (23.3, 24.1)


def glass(seed, scan=(14, 15), dose=2e4, spots=()):
    """Speckle of a disk's size on a halo; `spots` are positions with two bright disks."""
    rng = np.random.default_rng(seed)
    x, y = (np.arange(SIZE) - c for c in CENTER)
    halo = 0.15 + np.exp(-(((np.hypot(x[:, None], y) - 14) / 4) ** 2))
    field = gaussian_filter(rng.normal(size=(*scan, SIZE, SIZE, 2)), (0, 0, 1.2, 1.2, 0))
    light = (field**2).sum(-1)
    light *= halo / light.mean()
    for at in spots:
        for sign in (1, -1):
            light[at] += 40 * (np.hypot(x[:, None] - sign * 13, y - sign * 5) < 2.4)
    return rng.poisson(light * dose / halo.sum()).astype("uint16")


def test_positions_with_spots_are_found():
    spots = [(2, 3), (2, 4), (9, 11), (13, 0)]
    found = find_crystallites(gpu4d.DataCube(glass(0, spots=spots)), CENTER, disk=2.4, false_positives=0.01)
    assert sorted(map(tuple, np.argwhere(found.mask).tolist())) == sorted(spots)
    assert len(found) == 3 and found.sizes.tolist() == [2, 1, 1] and (found.strength > found.threshold).all()
    assert found.labels[2, 3] == found.labels[2, 4] == 1 and found.labels[0, 0] == 0
    assert tuple(found.peaks[1]) == (9, 11) and repr(found).startswith("Crystallites(3 found in 1.9% of 210 positions")


@pytest.mark.slow
@pytest.mark.parametrize("dose", [2e3, 3e4])
def test_a_glass_alone_has_the_false_positives_that_are_asked_for(dose):
    """Within a factor of 2.2: 16 glasses with 2 expected in each."""
    positions = [
        int(find_crystallites(gpu4d.DataCube(glass(s, dose=dose)), CENTER, disk=2.4, false_positives=2).mask.sum()) for s in range(16)
    ]
    assert 0.4 < np.mean(positions) / 2 < 2.2, positions


def test_smoothed_noise_has_no_variance():
    data = np.random.default_rng(1).poisson(3.0, (3, 4, SIZE, SIZE)).astype("uint16")
    found = gpu4d.sweep(gpu4d.DataCube(data), SpotFluctuation(np.full(24, 3.0), 2.0, CENTER))
    assert np.abs(found.variance[..., 6:].mean()) < 3e-3
    np.testing.assert_allclose(found.noise[..., 6:20].mean(), 1 / (3.0 * 13), rtol=0.05)  # 13 pixels under a disk of 2 px


def test_a_mask_and_origins_of_each_position():
    """What lies under the mask has no effect, and a spot is found about any origin."""
    spots, mask = [(3, 3), (8, 1)], np.ones((SIZE, SIZE), bool)
    mask[20:28, :24] = False
    data = glass(2, (10, 10), spots=spots)
    data[..., ~mask] = np.random.default_rng(3).integers(0, 60000, (10, 10, int((~mask).sum())))
    data = data.astype("float32")
    data[0, 0][~mask] = np.nan
    origins = np.broadcast_to(CENTER, (10, 10, 2)) + np.random.default_rng(4).uniform(-0.4, 0.4, (10, 10, 2))
    origins[9, 9] = np.nan
    found = find_crystallites(gpu4d.DataCube(data, detector_mask=mask), origins, disk=2.4, false_positives=0.01)
    assert np.argwhere(found.mask).tolist() == [list(at) for at in spots]
    assert np.isnan(np.asarray(found.significance)[9, 9]) and found.labels[9, 9] == 0


def test_a_disk_is_the_sum_of_its_pixels():
    image = np.random.default_rng(5).integers(0, 99, (2, 11, 14)).astype(float)
    for radius in (0.5, 1.0, 2.4, 7.0):
        near = np.hypot(*np.mgrid[-8:9, -8:9]) <= radius
        padded = np.pad(image, ((0, 0), (8, 8), (8, 8)))
        expected = [[(padded[:, x : x + 17, y : y + 17] * near).sum((1, 2)) for y in range(14)] for x in range(11)]
        np.testing.assert_array_equal(disk_sums(image, radius), np.moveaxis(np.array(expected), -1, 0))


def test_wrong_arguments_are_refused():
    cube = gpu4d.DataCube(glass(6, (5, 5)))
    with pytest.raises(InputError, match="disk="):
        find_crystallites(cube, CENTER)
    with pytest.raises(InputError, match="radii="):
        find_crystallites(cube, CENTER, disk=2.4, radii=(200.0, 300.0))
    with pytest.raises(InputError, match="false_positives"):
        find_crystallites(cube, CENTER, disk=2.4, false_positives=0)
    with pytest.raises(InputError, match="positions count"):
        find_crystallites(gpu4d.DataCube(glass(6, (2, 2))), CENTER, disk=2.4)
    with pytest.raises(InputError, match="all patterns are the same"):
        find_crystallites(gpu4d.DataCube(np.ones((5, 5, SIZE, SIZE), "uint16")), CENTER, disk=2.4)
    with pytest.raises(InputError, match="expected is"):
        gpu4d.sweep(cube, SpotFluctuation(np.ones(3), 2.0, CENTER))


@pytest.mark.shared
def test_the_crystals_of_a_simulated_film(shared_data):
    """All ten, of which six are on a zone axis; one false position at most; what is measured follows the coverage."""
    import h5py

    with h5py.File(shared_data / "amorphous_fem.h5") as file:
        data, coverage = file["poisson_1e5"][()], np.asarray(file["truth/crystal_coverage"])
        crystals, step, pixel = file["truth/nanocrystals"][()], file.attrs["scan_step_A"], file.attrs["detector_pixel_1_per_A"]
    cube = gpu4d.DataCube(data, gpu4d.Calibration(origin=(48, 48), q_pixel=float(pixel), energy=200e3, semiangle=1.5))
    found = find_crystallites(cube)
    middles = np.rint(crystals[:, :2] / step - 0.5).astype(int)
    labels = found.labels[tuple(middles.T)]
    assert (labels > 0).all() and len(set(labels.tolist())) == 10
    assert (found.mask & (coverage <= 0)).sum() <= 1 and len(found) <= 11
    assert not ((coverage > 0.5) & ~found.mask).any()
    for values, least in ((found.variance, 0.75), (found.significance, 0.85)):
        assert np.corrcoef(np.asarray(values).ravel(), coverage.ravel())[0, 1] > least
