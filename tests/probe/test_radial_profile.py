"""The radial profile of a vacuum image against the analytic disk that the image was made of."""

import numpy as np
import pytest
from gpu4d.benchmarks.disk_bound import Profile, bullseye, soft

from gpu4d.bragg.likelihood.poisson_fit import _tabulated, poisson_fit
from gpu4d.probe.shape.disk_shape import DiskShape
from gpu4d.probe.shape.even_spline import even_spline
from gpu4d.probe.shape.radial_profile import radial_profile

SHAPE = (96, 97)
CENTERS = [(48.0, 48.0), (48.3, 47.8), (48.5, 48.5)]  # on a pixel the radii are few, between four of them fewer


def vacuum(profile, center, counts=None, seed=0):
    image = profile.image(SHAPE, center)
    return image if counts is None else np.random.default_rng(seed).poisson(counts * image).astype(float)


def measured(image):
    return radial_profile(image.astype(np.float64).tobytes(), image.shape)


def misses(profile: Profile, image, n=40):
    """rms distance of the fit from the truth where the patterns have no noise: all of it is the profile's fault. Pixels."""
    disk, _, value = measured(image)
    table = _tabulated(DiskShape(disk, lambda x, y: value(np.hypot(x, y))), None)
    half = int(profile.radius) + 9
    at = half + np.random.default_rng(1).uniform(-0.5, 0.5, (n, 2))
    patterns = np.stack([1000 * (profile.image((2 * half + 1,) * 2, tuple(p)) + 0.02) for p in at])
    fit = poisson_fit(patterns, at[:, :1], at[:, 1:], np.ones(n, np.int64), table.table, table.pixels, iterations=6)
    assert fit.ok.all()
    return np.sqrt(((np.stack([fit.x[:, 0], fit.y[:, 0]], -1) - at) ** 2).mean())


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("profile", [soft(6.0), soft(6.0, 3.0), soft(2.0), bullseye(9.0)], ids=["plain", "wide edge", "tiny", "bullseye"])
def test_clean_images_are_followed_to_a_thousandth_of_a_pixel(profile, center):
    assert misses(profile, vacuum(profile, center)) < 3e-4


@pytest.mark.parametrize("center", CENTERS)
def test_rings_of_a_bullseye_are_all_in_the_profile(center):
    """Its plateau is the mean inside, so one factor is free. Nearer the middle the radii of the pixels are few."""
    image = vacuum(bullseye(9.0), center)
    r = np.linspace(3.5, 12, 200)
    got, wanted = measured(image).value(r), bullseye(9.0).value(r)
    got = got * (got @ wanted) / (got @ got)
    np.testing.assert_allclose(got, wanted, atol=4e-3)


@pytest.mark.parametrize("counts, worst", [(30, 4e-3), (300, 1.2e-3), (3000, 4e-4)])
def test_noise_of_a_plain_disk_makes_no_slopes(counts, worst):
    """Even on few radii. A spline of fixed knots, 0.4 px apart, misses by 2 to 3 times as much."""
    off = [misses(soft(6.0), vacuum(soft(6.0), CENTERS[i % 3], counts, seed=i), n=12) for i in range(6)]
    assert np.sqrt(np.mean(np.square(off))) < worst


@pytest.mark.parametrize("counts, worst", [(1e3, 1.5e-3), (1e4, 5e-4), (1e5, 3e-4)])
def test_noisy_bullseyes(counts, worst):
    off = [misses(bullseye(9.0), vacuum(bullseye(9.0), CENTERS[i % 3], counts, seed=i), n=12) for i in range(6)]
    assert np.sqrt(np.mean(np.square(off))) < worst


def test_dark_pixels_do_not_make_noise_seem_small():
    """About a tiny disk most pixels are dark and have no counts: taken for noise that is not there, the spline would follow what is."""
    counts = np.random.default_rng(8).poisson(1e4 * soft(2.0).image((128, 128), (64, 64)))
    assert misses(soft(2.0), counts, n=12) < 3e-3


def test_neither_the_scale_of_the_image_nor_its_place_is_seen():
    image = vacuum(bullseye(9.0), CENTERS[1], 1e4)
    r = np.linspace(0, 16, 300)
    value = measured(image).value(r)
    np.testing.assert_allclose(measured(image / 3e5).value(r), value, atol=1e-6)
    np.testing.assert_allclose(measured(np.roll(image, (5, -7), (0, 1))).value(r), value, atol=1e-5)


def test_a_large_disk_follows_the_rim_and_averages_the_rest():
    profile = soft(35.0)
    image = vacuum(profile, (48.3, 47.8), 300)
    r = np.linspace(10, 45, 800)
    assert np.abs(measured(image).value(r) - profile.value(r)).max() < 0.02


def none(q):
    return np.zeros((len(q), 0))


def test_spline_is_even_and_goes_on_where_distances_are_missing():
    r = np.concatenate([np.linspace(0.5, 2, 200), np.linspace(2.6, 6, 400)])
    curve = even_spline(r, np.cos(r), np.ones_like(r), none, 0.2)
    at = np.linspace(0, 6, 301)
    np.testing.assert_allclose(curve(at), np.cos(at), atol=2e-3)
    assert abs(curve(np.array(1e-3)) - curve(np.array(0.0))) < 1e-5, "no slope in the middle"
    assert curve(np.array(6.1)) == 0


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_spline_follows_noise_no_further_than_it_must(scale):
    """With noise alone it is about as good as the mean; with a wave in it, near what fitting the wave's own knots would leave."""
    rng = np.random.default_rng(0)
    r, at = rng.uniform(0, 10, 1500), np.linspace(0, 10, 400)
    noise = rng.normal(0, scale, r.shape)
    flat = even_spline(r, noise, np.ones_like(r), none, 0.2)(at)
    assert np.sqrt((flat**2).mean()) < 3 * scale / np.sqrt(1500) * np.sqrt(3)
    wave = even_spline(r, scale * np.cos(2 * r) + noise, np.ones_like(r), none, 0.2)(at)
    assert np.sqrt(((wave - scale * np.cos(2 * at)) ** 2).mean()) < 2 * scale * np.sqrt(16 / 1500)


def test_terms_cost_nothing_and_go_on():
    rng = np.random.default_rng(1)
    r = rng.uniform(0, 10, 2000)
    terms = lambda q: np.tanh(8 * (q - 5))[:, None]  # noqa: E731
    curve = even_spline(r, 3 * np.tanh(8 * (r - 5)) + rng.normal(0, 0.1, r.shape), np.ones_like(r), terms, 0.2)
    at = np.linspace(0, 9.9, 500)
    assert np.abs(curve(at) - 3 * np.tanh(8 * (at - 5))).max() < 0.03, "a step that no smooth spline could follow"
    assert np.ptp(curve(np.array([10.5, 60.0, 1e6]))) < 1e-9 and curve(np.array(60.0)) > 2.5
