"""Polar transforms and radial profiles against rings written down, and against each other."""

import numpy as np
import pytest
from scipy.special import erf

import gpu4d
from gpu4d.errors import InputError
from gpu4d.rings import polar_transform, radial_profile, radial_sums, radii

ELLIPSE = (1.15, 1.0, 0.6)


def rings(shape, origin, ellipse=None, radius=20.0, width=2.0):
    """A Gaussian ring, stretched as the calibrated ellipse says: radius along the minor axis."""
    x, y = np.arange(shape[0])[:, None] - origin[0], np.arange(shape[1])[None, :] - origin[1]
    a, b, t = ellipse or (1.0, 1.0, 0.0)
    along, across = (np.cos(t) * x + np.sin(t) * y) * b / a, -np.sin(t) * x + np.cos(t) * y
    return 100 * np.exp(-((np.hypot(along, across) - radius) ** 2) / (2 * width**2))


@pytest.mark.parametrize("ellipse", [None, ELLIPSE])
def test_a_ring_becomes_straight(ellipse):
    origin = np.array([31.3, 38.8])
    polar = polar_transform(rings((64, 80), origin, ellipse), origin, n_theta=24, n_r=60, r_max=28.0, ellipse=ellipse)
    expected = 100 * np.exp(-((radii(60, 28.0) - 20) ** 2) / 8)
    inside = ~np.isnan(polar)
    assert inside.mean() > 0.95
    assert np.abs(np.where(inside, polar - expected, 0)).max() < 4  # bilinear: f''h²/8 twice, f'' = 100 / 2²


def test_an_ellipse_that_is_not_given_bends_the_ring():
    origin = np.array([31.3, 38.8])
    polar = polar_transform(rings((64, 80), origin, ELLIPSE), origin, n_theta=24, n_r=28, r_max=28.0)
    at = radii(28, 28.0)[np.nanargmax(polar, axis=-1)]
    assert np.ptp(at) > 0.8 * 20 * 0.15


def test_angles_run_from_qx_to_qy():
    pattern = np.zeros((21, 21))
    pattern[10, 16] = 1.0  # along +qy: θ = 90°
    polar = polar_transform(pattern, np.array([10.0, 10.0]), n_theta=4, n_r=8, r_max=8.0)
    assert np.unravel_index(np.argmax(polar), polar.shape)[0] == 1


@pytest.mark.parametrize("ellipse", [None, ELLIPSE])
def test_profile_of_a_ring(ellipse):
    origin = np.array([63.2, 70.7])
    profile = radial_profile(rings((128, 140), origin, ellipse, 40.0, 4.0), origin, r_max=60.0, ellipse=ellipse)
    edges = (np.arange(61) - 40) / (4 * np.sqrt(2))
    mean = 100 * 4 * np.sqrt(np.pi / 2) * np.diff(erf(edges))  # of the Gaussian over one ring
    assert np.abs(profile - mean)[10:].max() < 2.0  # pixels are not spread evenly over thin rings
    assert abs(np.sum(profile * radii(60, 60.0)) / np.sum(mean * radii(60, 60.0)) - 1) < 2e-3


def test_every_pixel_is_in_one_ring():
    rng = np.random.default_rng(1)
    counts = rng.poisson(3, (4, 31, 40)).astype("uint16")
    sums, pixels = radial_sums(counts, rng.uniform(10, 20, (4, 2)), r_max=60.0, n_r=45)
    np.testing.assert_array_equal(sums.sum(axis=-1), counts.sum(axis=(1, 2)))
    assert (pixels.sum(axis=-1) == 31 * 40).all()


def test_moving_a_pattern_and_its_origin_changes_nothing():
    rng = np.random.default_rng(2)
    pattern = np.zeros((60, 60))
    pattern[20:40, 20:40] = rng.normal(size=(20, 20))
    origin = np.array([29.3, 30.1])
    for function in (radial_profile, polar_transform):
        before = function(pattern, origin, r_max=15.0)
        after = function(np.roll(pattern, (4, -3), (0, 1)), origin + np.array([4, -3]), r_max=15.0)
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9)


def test_a_beam_stop_does_not_dent_mean_or_sum():
    pattern = rings((64, 64), (32, 32)) + 5
    mask = np.ones((64, 64), bool)
    mask[28:36, :32] = False
    broken = np.where(mask, pattern, np.nan)
    for kind, change in (("mean", 1.0), ("sum", 60.0)):
        whole = radial_profile(pattern, np.array([32.0, 32.0]), r_max=30.0, kind=kind)
        masked = radial_profile(pattern * mask, np.array([32.0, 32.0]), r_max=30.0, kind=kind, mask=mask)
        assert np.nanmax(np.abs(masked - whole)[5:]) < 3 * change
        np.testing.assert_array_equal(masked, radial_profile(broken, np.array([32.0, 32.0]), r_max=30.0, kind=kind))
    polar = polar_transform(broken, np.array([32.0, 32.0]), n_theta=16, r_max=30.0)
    assert np.isnan(polar[12]).sum() > 20  # along -qy
    assert not np.isnan(polar[[0, 4, 8]]).any()


def test_sum_is_the_intensity_of_a_ring():
    flat = np.full((64, 64), 2.0)
    total = radial_profile(flat, np.array([31.5, 31.5]), r_max=20.0, kind="sum").sum()
    assert abs(total / (2 * np.pi * 20**2) - 1) < 1e-9


def test_polar_mean_and_radial_profile_agree():
    origin = np.array([63.2, 64.7])
    pattern = rings((128, 128), origin, None, 40.0, 6.0)
    mean = polar_transform(pattern, origin, n_theta=720, r_max=60.0).mean(axis=0)
    assert np.abs(mean - radial_profile(pattern, origin, r_max=60.0)).max() < 1.5


def test_unknown_origins_and_nan_patterns_stay_alone():
    patterns = np.ones((3, 16, 16), "float32")
    patterns[1] = np.nan
    origins = np.array([[8.0, 8.0], [8.0, 8.0], [np.nan, 8.0]])
    profile, polar = (function(patterns, origins, r_max=6.0) for function in (radial_profile, polar_transform))
    assert np.isfinite(profile[0]).all() and np.isfinite(polar[0]).all()
    assert np.isnan(profile[1:]).all() and np.isnan(polar[1:]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"r_max": 0.0}, "r_max=0.0"),
        ({"n_r": 0}, "n_r=0"),
        ({"ellipse": (1.0, 2.0, 0.0)}, "a ≥ b"),
        ({"mask": np.ones((3, 3), bool)}, "mask is"),
    ],
)
def test_options_are_checked(options, said):
    for function in (radial_profile, polar_transform):
        with pytest.raises(InputError, match=said):
            function(np.ones((2, 8, 8)), np.ones((2, 2)), **options)
    with pytest.raises(InputError, match=r"origins is \(3, 2\)"):
        radial_profile(np.ones((2, 8, 8)), np.ones((3, 2)))
    with pytest.raises(InputError, match="kind='median'"):
        radial_profile(np.ones((2, 8, 8)), np.ones(2), kind="median")


@pytest.fixture
def cube():
    data = np.random.default_rng(3).poisson(20, (5, 7, 24, 20)).astype("uint16")
    x, y = np.mgrid[:5, :7]
    mask = np.ones((24, 20), bool)
    mask[3, 4] = mask[10:12, :3] = False
    known = gpu4d.Calibration(origin=np.stack([11 + 0.2 * x, 10 - 0.1 * y], -1), ellipse=(1.05, 1.0, 0.3))
    return gpu4d.DataCube(data, known, detector_mask=mask)


@pytest.mark.parametrize("kind", ["mean", "sum"])
def test_a_scan_streams_to_the_profiles_of_its_patterns(cube, kind):
    c, array = cube.calibration, cube.source.array
    expected = radial_profile(array, c.origin, ellipse=c.ellipse, mask=cube.detector_mask, kind=kind)
    np.testing.assert_array_equal(radial_profile(cube, kind=kind), expected)
    where = np.arange(35).reshape(5, 7) % 3 > 0
    some = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "profile": gpu4d.RadialProfile(kind=kind)}, where=where)["profile"]
    np.testing.assert_array_equal(some[where], expected[where])
    assert np.isnan(some[~where]).all()


@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_a_scan_streams_to_its_polar_patterns(cube, dtype):
    c, array = cube.calibration, cube.source.array.astype(dtype)
    given = gpu4d.DataCube(array, c, detector_mask=cube.detector_mask)
    expected = polar_transform(array, c.origin, n_theta=9, ellipse=c.ellipse, mask=cube.detector_mask)
    found = polar_transform(given, n_theta=9)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_profiles_say_what_they_need(cube):
    blank = gpu4d.DataCube(cube.source.array)
    with pytest.raises(InputError, match="origin is not known"):
        radial_profile(blank)
    with pytest.raises(InputError, match="origins= is missing"):
        radial_profile(cube.source.array)
    with pytest.raises(InputError, match="where belong"):
        polar_transform(cube.source.array, (1, 2), where=None)
    with pytest.raises(InputError, match="patterns is the text"):
        polar_transform("scan.h5", (1, 2))
    with pytest.raises(InputError, match="n_r=0"):
        radial_profile(cube, n_r=0)
    with pytest.raises(InputError, match="mask is"):
        radial_profile(cube, mask=np.ones((2, 2), bool))


def test_the_state_of_a_profile_can_be_carried_on(cube):
    whole = radial_profile(cube)
    upper = np.broadcast_to(np.arange(5)[:, None] < 2, (5, 7))
    first, second = gpu4d.RadialProfile(), gpu4d.RadialProfile()
    gpu4d.sweep(cube, first, where=upper)
    gpu4d.sweep(cube, second, where=~upper)
    first.merge(second.state())
    np.testing.assert_array_equal(first.finish(), whole)


def test_profiles_of_a_scan_as_definition(cube):
    with gpu4d.using("definition"):
        expected = radial_profile(cube)
    np.testing.assert_allclose(radial_profile(cube), expected, rtol=1e-12)
