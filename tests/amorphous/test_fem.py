"""Normalised variances: formulas against NumPy, counting noise alone, errors against repeated simulations, medians, thickness, maps."""

import numpy as np
import pytest

import gpu4d
from gpu4d.amorphous import fem_map, fem_regions
from gpu4d.errors import InputError

SHAPE, CENTER = (32, 36), (15.4, 17.8)
VARIANTS = ("annular_mean", "rings", "ring_ensemble", "variance_image", "median_annular_mean", "median_rings")
X, Y = (np.arange(n) - c for n, c in zip(SHAPE, CENTER))
RADIUS = np.hypot(X[:, None], Y)
RING = np.floor(RADIUS).astype(int)


def halo(level):
    """Even within each ring, so that patterns without structure have no variance in them."""
    return level * (0.15 + np.exp(-(((RING + 0.5 - 9) / 3) ** 2)))


def counts(seed, scan=(12, 14), level=3.0, factors=None):
    mean = halo(level) if factors is None else np.asarray(factors)[..., None, None] * halo(level)
    return np.random.default_rng(seed).poisson(mean, (*scan, *SHAPE)).astype("uint16")


def speckle(seed, scan=(12, 14), level=30.0, factors=1.0):
    """Rings with a random part of some pixels' size: exponential intensities, as of many scatterers."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=(*scan, *SHAPE, 2)), (0, 0, 1.0, 1.0, 0))
    light = (field**2).sum(-1)
    return rng.poisson(np.asarray(factors)[..., None, None] * halo(level) * light / light.mean()).astype("uint16")


@pytest.mark.parametrize("level", [0.4, 5.0])
def test_counting_noise_alone_gives_zero_within_its_error(level):
    """Over 16 scans: no bias that is seen, with few electrons a ring, too. Medians of few electrons go in steps, and are left out there."""
    pulls = {name: [] for name in VARIANTS if level > 1 or not name.startswith("median")}
    for seed in range(16):
        found = gpu4d.fem(gpu4d.DataCube(counts(seed, (9, 10), level)), CENTER)
        for name in pulls:
            one = getattr(found, name)
            pulls[name].append(one.value[5:] / one.error[5:])
    for name, values in pulls.items():
        mean = np.mean(values)
        assert abs(mean) < 4 / np.sqrt(np.size(values)) + 0.06, f"{name}: {mean:.3f}"
        assert 0.75 < np.std(values) < 1.35, f"{name}: errors are off by {np.std(values):.2f}"


def test_published_formulas():
    data = speckle(1, (5, 6))
    found = gpu4d.fem(gpu4d.DataCube(data), CENTER)
    flat = data.reshape(30, *SHAPE).astype(float)
    for k in (4, 9, 14):
        ring = flat[:, RING == k]
        mean, square = ring.mean(1), (ring**2).mean(1)
        expected = {
            "annular_mean": (mean**2).mean() / mean.mean() ** 2 - 1,
            "rings": (square / mean**2 - 1).mean(),
            "ring_ensemble": square.mean() / mean.mean() ** 2 - 1,
            "variance_image": ((ring**2).mean(0) / ring.mean(0) ** 2 - 1).mean(),
            "median_annular_mean": 1.4826**2 * np.median((mean - np.median(mean)) ** 2) / np.median(mean) ** 2,
            "median_rings": np.median(square / mean**2 - 1),
        }
        for name, value in expected.items():
            assert getattr(found, name).raw[k] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_the_variance_is_that_without_noise_at_any_dose(gain):
    """The same thicknesses at a thirtieth of the dose, or in another unit, give the same variance."""
    factors = np.random.default_rng(3).gamma(8.0, 1 / 8, (40, 40))
    expected = factors.var(ddof=1) / factors.mean() ** 2
    data = counts(4, (40, 40), 1.0, factors) * np.uint16(gain)
    found = gpu4d.fem(gpu4d.DataCube(data), CENTER, counts_per_electron=gain)
    for name in ("annular_mean", "ring_ensemble", "variance_image"):
        off = (getattr(found, name).value - expected)[4:] / expected
        assert abs(off.mean()) < 0.03, name
    assert found.thickness == pytest.approx(expected, rel=0.05)
    assert np.abs(found.rings.value[4:]).max() < 0.05 * expected + 5 * found.rings.error[4:].max()


@pytest.mark.slow
def test_errors_cover_the_scatter_of_other_glasses():
    """Of 30 scans with speckle: the claimed error is the scatter, within what 30 scans tell of it."""
    found = [gpu4d.fem(gpu4d.DataCube(speckle(seed, (8, 9))), CENTER) for seed in range(30)]
    for name in VARIANTS:
        values, errors = (np.stack([getattr(getattr(one, name), field)[5:15] for one in found]) for field in ("value", "error"))
        ratio = np.sqrt((errors**2).mean(axis=0)) / values.std(axis=0, ddof=1)
        assert 0.75 < np.median(ratio) < 1.35, f"{name}: {ratio}"


def test_dividing_by_the_total_takes_thickness_out():
    factors = np.random.default_rng(5).uniform(0.4, 1.6, (14, 15))
    cube = gpu4d.DataCube(speckle(6, (14, 15), factors=factors))
    even = gpu4d.fem(gpu4d.DataCube(speckle(6, (14, 15))), CENTER, normalise="total", inner=3.0)
    plain, divided = gpu4d.fem(cube, CENTER), gpu4d.fem(cube, CENTER, normalise="total", inner=3.0)
    thick = factors.var() / factors.mean() ** 2
    assert plain.thickness == pytest.approx(thick, rel=0.15) and abs(divided.thickness) < 0.06 * thick  # rings share one total
    assert (plain.annular_mean.value[5:14] > 0.8 * thick).all()
    np.testing.assert_allclose(
        divided.annular_mean.value[5:14], even.annular_mean.value[5:14], atol=4 * even.annular_mean.error[5:14].max()
    )
    assert divided.normalised == "total" and np.isnan(divided.variance_image.value).all()
    with pytest.raises(InputError, match="inner="):
        gpu4d.fem(cube, CENTER, normalise="total")


def test_medians_do_not_see_a_few_bright_positions():
    data = speckle(7, (16, 16))
    bright = data.copy()
    bright[2, 3:11] = np.random.default_rng(8).poisson(halo(30.0) + 3000.0 * (np.hypot(X[:, None] - 9, Y) < 2), (8, *SHAPE))
    plain, found = (gpu4d.fem(gpu4d.DataCube(d), CENTER) for d in (data, bright))
    k = 9
    assert found.annular_mean.value[k] > 5 * plain.annular_mean.value[k] and found.ring_ensemble.value[k] > 2 * plain.ring_ensemble.value[k]
    for name in ("median_annular_mean", "median_rings"):
        assert abs(getattr(found, name).value[k] / getattr(plain, name).value[k] - 1) < 0.15


def test_statistics_give_the_same_without_the_image():
    cube = gpu4d.DataCube(counts(9), gpu4d.Calibration(origin=CENTER, q_pixel=0.02, energy=200e3, semiangle=1.5))
    whole, part = gpu4d.fem(cube), gpu4d.fem(gpu4d.sweep(cube, gpu4d.RingStatistics()))
    np.testing.assert_array_equal(whole.rings.value, part.rings.value)
    assert np.isnan(part.variance_image.value).all() and np.isfinite(whole.variance_image.value).any()
    assert whole.resolution == pytest.approx(0.61 * 0.0250793 / 1.5e-3, rel=1e-4) and "resolution 10.2 Å" in repr(whole)
    assert whole.q is not None and whole.inner == pytest.approx(1.5 * 1.5e-3 / 0.0250793 / 0.02, rel=1e-4)
    with pytest.raises(InputError, match="ring statistics"):
        gpu4d.fem(gpu4d.sweep(cube, gpu4d.RingStatistics()), r_max=4.0)


def test_masks_regions_and_positions_that_do_not_count():
    data, where = counts(10).astype("float32"), np.ones((12, 14), bool)
    data[0, 0], where[5:] = np.nan, False
    origins = np.broadcast_to(CENTER, (12, 14, 2)).copy()
    origins[1, 1] = np.nan
    mask = np.ones(SHAPE, bool)
    mask[10:20, :17] = False
    found = gpu4d.fem(gpu4d.DataCube(data, detector_mask=mask), origins, where=where)
    assert found.positions == 5 * 14 - 2
    assert np.isnan(found.rings.value[0]) or found.rings.value[0] < 5 * found.rings.error[0]
    statistics = gpu4d.sweep(gpu4d.DataCube(data), gpu4d.RingStatistics(origins))
    regions = fem_regions(statistics, np.where(where, 0, -1))
    assert list(regions) == [0] and regions[0].positions == found.positions
    np.testing.assert_array_equal(regions[0].rings.value, gpu4d.fem(statistics, where=where).rings.value)
    with pytest.raises(InputError, match="at least two"):
        gpu4d.fem(statistics, where=np.zeros((12, 14), bool))
    with pytest.raises(InputError, match="labels"):
        fem_regions(statistics, np.zeros((3, 3)))


@pytest.mark.parametrize("variant", ["annular_mean", "rings", "ring_ensemble"])
def test_a_map_is_the_variance_of_its_windows(variant):
    data = speckle(11, (9, 8))
    statistics = gpu4d.sweep(gpu4d.DataCube(data), gpu4d.RingStatistics(CENTER))
    found = fem_map(statistics, 3, variant=variant)
    for x, y in ((4, 4), (0, 0), (8, 5)):
        where = np.zeros((9, 8), bool)
        where[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2] = True
        np.testing.assert_allclose(found[x, y], getattr(gpu4d.fem(statistics, where=where), variant).value, rtol=1e-9, atol=1e-12)
    with pytest.raises(InputError, match="odd"):
        fem_map(statistics, 4)


def test_wrong_arguments_are_refused():
    with pytest.raises(InputError, match="DataCube"):
        gpu4d.fem(np.ones((2, 2, 4, 4)))
    with pytest.raises(InputError, match="counts_per_electron"):
        gpu4d.fem(gpu4d.DataCube(counts(0)), CENTER, counts_per_electron=0.0)
    with pytest.raises(InputError, match="normalise"):
        gpu4d.fem(gpu4d.DataCube(counts(0)), CENTER, normalise="mean")


@pytest.mark.shared
def test_medians_suppress_the_crystals_of_a_glass(shared_data):
    """At 0.58 1/Å, crystals in 12 % of the positions make the mean's variance several times higher, and the median's hardly."""
    import h5py

    with h5py.File(shared_data / "amorphous_fem.h5") as file:
        data, coverage = file["poisson_1e5"][()], np.asarray(file["truth/crystal_coverage"])
        step = file.attrs["detector_pixel_1_per_A"]
    cube = gpu4d.DataCube(data, gpu4d.Calibration(origin=(48, 48), q_pixel=float(step), energy=200e3, semiangle=1.5))
    statistics = gpu4d.sweep(cube, gpu4d.RingStatistics())
    everywhere, glass = gpu4d.fem(statistics), gpu4d.fem(statistics, where=coverage <= 0)
    near = np.abs(everywhere.q - 0.58) < 0.03
    names = [name for name in VARIANTS if name != "variance_image"]
    ratios = {name: getattr(everywhere, name).value[near].sum() / getattr(glass, name).value[near].sum() for name in names}
    assert ratios["annular_mean"] > 5 and ratios["ring_ensemble"] > 3
    assert ratios["median_annular_mean"] < 1.35 and ratios["median_rings"] < 1.1
    assert 7 < everywhere.resolution < 11


def test_a_pattern_that_is_not_a_number_changes_what_it_would_if_it_were_not_there():
    counts = np.random.default_rng(8).poisson(6.0, (6, 7, 20, 24)).astype("float32")
    counts[2, 3], counts[:, :, 11, 12] = np.nan, np.nan  # a pattern, and a dead pixel
    where = np.ones((6, 7), bool)
    where[2, 3] = False
    found = gpu4d.fem(gpu4d.DataCube(counts), (9.5, 11.5))
    expected = gpu4d.fem(gpu4d.DataCube(np.nan_to_num(counts)), (9.5, 11.5), where=where, mask=np.isfinite(counts[0, 0]))
    for name in ("annular_mean", "rings", "ring_ensemble", "variance_image"):
        values = getattr(found, name).value
        assert np.isfinite(values).all(), name
        np.testing.assert_allclose(values, getattr(expected, name).value, rtol=1e-9)


def test_regions_without_an_origin_are_left_out():
    origins = np.full((6, 6, 2), 7.5)
    origins[3:] = np.nan
    counts = np.random.default_rng(9).poisson(9.0, (6, 6, 16, 16)).astype("uint16")
    rings = gpu4d.sweep(gpu4d.DataCube(counts), gpu4d.RingStatistics(origins))
    found = fem_regions(rings, np.arange(36).reshape(6, 6) // 18)
    assert {label: one.positions for label, one in found.items()} == {0: 18}
