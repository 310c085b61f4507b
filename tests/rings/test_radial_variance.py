"""The normalised variance of radial profiles over the positions: scans whose variance is known, masks, origins."""

import numpy as np
import pytest
from watched import watched

import gpu4d
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.rings import RadialVariance, radial_profile, radii

SHAPE, CENTER = (40, 44), (19.4, 21.7)


def halo(center=CENTER, height=50.0):
    x, y = (np.arange(n) - c for n, c in zip(SHAPE, center))
    return height * (0.2 + np.exp(-(((np.hypot(x[:, None], y) - 12) / 3) ** 2)))


def scaled(factors):
    """Patterns without noise that differ by a factor, such as thickness gives."""
    return np.asarray(factors)[..., None, None] * halo()


def test_thickness_gives_the_variance_of_its_factor_at_every_radius():
    factors = np.random.default_rng(0).uniform(0.5, 1.5, (5, 7))
    found = gpu4d.sweep(gpu4d.DataCube(scaled(factors)), RadialVariance(CENTER))
    np.testing.assert_allclose(found.variance, factors.var() / factors.mean() ** 2, rtol=1e-9)
    np.testing.assert_allclose(found.deviation / found.mean, factors.std() / factors.mean(), rtol=1e-9)
    assert (found.positions == 35).all() and found.radius.tolist() == radii(20, 20.0).tolist()


def test_counting_noise_alone_gives_what_is_said_of_it():
    counts = np.random.default_rng(1).poisson(halo(height=4.0), (30, 40, *SHAPE)).astype("uint16")
    found = gpu4d.sweep(gpu4d.DataCube(counts), RadialVariance(CENTER))
    np.testing.assert_allclose(found.variance, found.noise, rtol=5 * (2 / 1200) ** 0.5)  # a variance of 1200 values is known to 4 %
    np.testing.assert_allclose(found.mean, radial_profile(halo(height=4.0), CENTER), rtol=0.05)


def test_it_is_the_variance_of_the_profiles():
    rng = np.random.default_rng(2)
    cube = gpu4d.DataCube(rng.poisson(scaled(rng.uniform(0.3, 2, (6, 5)))).astype("uint16"))
    origins = CENTER + rng.uniform(-3, 3, (6, 5, 2))
    options = {"n_r": 13, "r_max": 18.0, "ellipse": (1.1, 1.0, 0.4)}
    profiles = np.asarray(gpu4d.sweep(cube, gpu4d.RadialProfile(origins, **options))).reshape(30, -1)
    found = gpu4d.sweep(cube, RadialVariance(origins, **options))
    np.testing.assert_allclose(found.mean, profiles.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation, profiles.std(axis=0), rtol=1e-9)


def test_a_beam_stop_and_dead_pixels_do_not_count():
    """What lies in a masked pixel has no effect, and a ring without a pixel is NaN."""
    factors = np.random.default_rng(3).uniform(0.5, 1.5, (4, 5))
    data, mask = scaled(factors).astype("float32"), np.ones(SHAPE, bool)
    mask[14:25, :24] = False
    mask[:, 30] = False
    data[..., ~mask] = np.random.default_rng(4).uniform(-1e6, 1e6, (4, 5, int((~mask).sum())))
    data[0, 0][~mask] = np.nan
    found = gpu4d.sweep(gpu4d.DataCube(data, detector_mask=mask), RadialVariance(CENTER))
    blind = np.isnan(found.mean)
    assert blind[:2].all() and not blind[6:].any() and (found.positions[blind] == 0).all()
    np.testing.assert_allclose(found.variance[~blind], factors.var() / factors.mean() ** 2, rtol=1e-4)


def test_positions_that_are_left_out_do_not_count():
    factors = np.array([[1.0, 3.0, 100.0], [1.0, 3.0, 100.0]])
    where = factors < 50
    cube = gpu4d.DataCube(scaled(factors))
    for found in (gpu4d.sweep(cube, RadialVariance(CENTER, where=where)), gpu4d.sweep(cube, RadialVariance(CENTER), where=where)):
        np.testing.assert_allclose(found.variance, 0.25)  # of 1 and 3: (1 / 2)²
        assert (found.positions == 4).all()


def test_a_pattern_without_an_origin_does_not_count():
    origins = np.broadcast_to(np.array(CENTER), (2, 3, 2)).copy()
    origins[1, 2] = np.nan
    found = gpu4d.sweep(gpu4d.DataCube(scaled([[1, 1, 1], [1, 1, 9.0]])), RadialVariance(origins))
    assert (found.positions == 5).all() and np.nanmax(found.variance) < 1e-12


def test_wrong_arguments_are_refused():
    cube = gpu4d.DataCube(scaled(np.ones((2, 3))))
    with pytest.raises(InputError, match="origin is not known"):
        gpu4d.sweep(cube, RadialVariance())
    with pytest.raises(InputError, match="where"):
        gpu4d.sweep(cube, RadialVariance(CENTER, where=np.ones((3, 2), bool)))
    with pytest.raises(InputError, match="positive"):
        gpu4d.sweep(cube, RadialVariance(CENTER, n_r=0))


@pytest.mark.shared
def test_crystals_in_a_glass_raise_the_variance(shared_data):
    """Against NumPy on a ring of one pixel, and against what the simulation knows: crystals make it five times higher at 0.58 1/Å."""
    import h5py

    with h5py.File(shared_data / "amorphous_fem.h5") as file:
        data, coverage = file["poisson_1e5"][()], np.asarray(file["truth/crystal_coverage"])
    x, y = np.indices(data.shape[2:])
    ring = np.floor(np.hypot(x - 48, y - 48)) == 16
    mean = data[..., ring].mean(axis=-1)
    found = gpu4d.sweep(gpu4d.DataCube(data), RadialVariance((48, 48)))
    assert found.variance[16] == pytest.approx(mean.var() / mean.mean() ** 2, rel=1e-9)
    glass = coverage.reshape(*data.shape[:2], -1).max(axis=-1) <= 0
    only = gpu4d.sweep(gpu4d.DataCube(data), RadialVariance((48, 48), where=glass))
    assert (found.variance[20:30] - found.noise[20:30]).max() > 3 * (only.variance[20:30] - only.noise[20:30]).max()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_a_device_gives_the_same_within_the_memory_of_its_plan(device, tmp_path):
    rng = np.random.default_rng(6)
    np.save(tmp_path / "scan.npy", rng.poisson(scaled(rng.uniform(0.3, 2, (24, 20)))).astype("uint16"))
    mask = rng.random(SHAPE) > 0.05
    cube = gpu4d.DataCube(gpu4d.open(tmp_path / "scan.npy").source, gpu4d.Calibration(origin=CENTER), detector_mask=mask)
    where = rng.random((24, 20)) > 0.2
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, RadialVariance(where=where), device=watched(device), memory=1000)
    processor, least = watched(device), refused.value.asked
    found = gpu4d.sweep(cube, RadialVariance(where=where), device=processor, memory=least)
    assert processor.opened[0].peak <= least
    with gpu4d.using("definition"):
        expected = gpu4d.sweep(cube, RadialVariance(where=where), device="cpu")
    for name, values in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, err_msg=name)
