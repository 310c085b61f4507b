"""The grid profile of a vacuum image against the analytic form it was sampled from, between the pixels."""

import numpy as np
import pytest
from gpu4d.benchmarks.disk_bound import fisher, variances
from gpu4d.benchmarks.disk_forms import FORMS, ellipse, polygon, shaded, sloping

import gpu4d
from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit
from gpu4d.errors import InputError
from gpu4d.probe import synthetic, template
from gpu4d.probe.shape.disk_shape import disk_shape, not_radial
from gpu4d.probe.shape.grid_profile import grid_profile

CENTER, SIZE = (31.7, 32.2), (64, 64)


def vacuum(form, counts=None, seed=0, center=CENTER):
    image = 1e4 * form.image(SIZE, center)
    return image if counts is None else np.random.default_rng(seed).poisson(image * counts / 1e4).astype(np.float64)


def profile_of(image):
    return grid_profile(image.tobytes(), image.shape)


def located(table, form, places, dose=2000.0, noise=None):
    """Positions (n, 2) of disks in patterns of a known form, from starts as a correlation leaves them."""
    patterns = dose * (0.03 + np.stack([form.image((45, 43), p) for p in places]))
    if noise is not None:
        patterns = np.random.default_rng(noise).poisson(patterns)
    starts = places + np.random.default_rng(5).uniform(-0.1, 0.1, places.shape)
    fit = poisson_fit(patterns, starts[:, :1], starts[:, 1:], np.ones(len(places), int), table.table, table.pixels)
    assert fit.ok.all()
    return np.concatenate([fit.x, fit.y], 1), np.sqrt(np.concatenate([fit.xx, fit.yy], 1))


def places(n, seed=1):
    return np.array([22.0, 21.0]) + np.random.default_rng(seed).uniform(-2, 2, (n, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, worst",
    [
        (ellipse(0.05), 0.005),
        (ellipse(0.15), 0.005),
        (ellipse(0.15, 9.0, 2.0), 0.005),
        (ellipse(0.05, edge=0.5), 0.02),
        (sloping(ellipse(0.0), 0.2), 0.03),
        (polygon(4, 5.5), 0.02),
        (polygon(6, 5.7, turn=0.2), 0.02),
        (shaded(ellipse(0.08), 0.0), 0.03),
    ],
)
def test_between_the_pixels_it_is_the_form(form, worst):
    """A cubic spline through the same pixels misses by 0.05 to 0.3."""
    found = profile_of(vacuum(form))
    x, y = np.meshgrid(np.arange(-10, 10, 0.17), np.arange(-10, 10, 0.19), indexing="ij")
    off = [np.asarray(q) - c for q, c in zip(found.disk[:2], CENTER)]
    plateau = found.value(-off[0], -off[1]) / form.at(np.zeros(()), np.zeros(()))
    assert np.abs(found.value(x - off[0], y - off[1]) / plateau - form.at(x, y)).max() < worst
    assert found.disk.edge == pytest.approx(form.edge, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, counts, worst", [(polygon(4, 40.0), None, 1e-3), (ellipse(0.1, 40.0), None, 1e-3), (ellipse(0.1, 40.0), 1e3, 0.04)]
)
def test_a_large_probe_is_its_form(form, counts, worst, caplog):
    """With fewer splines and rounds, and a rim computed only where there is one: inside, outside and at the rim; the log tells."""
    size, center = (160, 160), (80.3, 79.8)
    image = 1e4 * form.image(size, center)
    if counts is not None:
        image = np.random.default_rng(0).poisson(image * counts / 1e4).astype(np.float64)
    with caplog.at_level("INFO", "gpu4d"):
        found = grid_profile(image.tobytes(), size)
    assert "once per template" in caplog.text
    x, y = np.meshgrid(np.arange(-64, 64, 0.37), np.arange(-64, 64, 0.39), indexing="ij")
    off = [np.asarray(q) - c for q, c in zip(found.disk[:2], center)]
    plateau = found.value(-off[0], -off[1]) / form.at(np.zeros(()), np.zeros(()))
    assert np.abs(found.value(x - off[0], y - off[1]) / plateau - form.at(x, y)).max() < worst
    assert found.disk.edge == pytest.approx(form.edge, rel=0.15)


@pytest.mark.parametrize("counts, worst", [(None, 3e-4), (1e4, 1.2e-3), (300.0, 3e-3)])
@pytest.mark.parametrize("stretch", [0.05, 0.15])
def test_an_ellipse_is_located_without_error(stretch, counts, worst):
    """Without noise in the patterns, what is left is the template's fault; a radial profile leaves 0.005 and 0.02 px."""
    form, at = ellipse(stretch), places(60)
    error = located(disk_profile(vacuum(form, counts)), form, at)[0] - at
    assert np.sqrt(((error - error.mean(0)) ** 2).mean()) < worst


@pytest.mark.parametrize(
    "name, limit", [("ellipse, axes ± 15 %", 1.08), ("square, side 11 px", 1.12), ("hexagon", 1.12), ("20 % of slope inside", 1.08)]
)
def test_as_precise_as_the_counts_allow(name, limit):
    form, at, dose = FORMS[name], places(600), 2000.0
    table = disk_profile(vacuum(form, 1e4))
    found, sigma = located(table, form, at, dose, noise=2)
    error = found - at
    error = error - error.mean(0)
    mean = dose * (0.03 + np.stack([form.image((45, 43), p) for p in at[:40]]))
    bound = np.mean([variances(fisher(form, m, p[None], np.array([dose]), 6)) for m, p in zip(mean, at)])
    assert np.sqrt((error**2).mean()) < limit * np.sqrt(bound)
    assert 0.58 < (np.abs(error) < sigma).mean() < 0.74


@pytest.mark.slow
def test_a_noisy_image_gives_a_smooth_rim():
    """Forty counts a pixel: the rim's error is that of a few waves, not that of every pixel of it."""
    form, at = ellipse(0.1), places(40)
    errors = [located(disk_profile(vacuum(form, 40.0, seed)), form, at)[0] - at for seed in range(5)]
    assert np.sqrt(np.mean([(e - e.mean(0)) ** 2 for e in errors])) < 0.01
    assert profile_of(vacuum(form, 40.0)).noise == pytest.approx(40**-0.5, rel=0.25)


def test_round_and_even_probes_have_their_radial_profile():
    for counts in (None, 30.0, 1e4):
        for form in (ellipse(0.0), ellipse(0.0, 9.0, 2.0), FORMS["round"]):
            image = vacuum(form, counts, 3)
            assert not_radial(image.tobytes(), SIZE) is None
            value = disk_shape(image.tobytes(), SIZE).value
            angle = np.linspace(0, 2 * np.pi, 50)
            assert np.ptp(value(5.8 * np.cos(angle), 5.8 * np.sin(angle))) < 1e-12


@pytest.mark.parametrize(
    "form, why",
    [
        (ellipse(0.03), "from a circle"),
        (sloping(ellipse(0.0), 0.2), "uneven"),
        (shaded(ellipse(0.0), 0.5, beyond=-1.0, width=2.0), "patterned"),
        (polygon(4, 5.5), "from a circle"),
    ],
)
def test_what_has_no_radial_profile_says_why(form, why):
    for counts in (None, 1000.0):
        image = vacuum(form, counts)
        assert why in not_radial(image.tobytes(), SIZE)


def test_window_and_zones_follow_the_form():
    form = ellipse(0.35)  # from 4.4 to 8.1 px
    found = disk_profile(vacuum(form))
    lit = found.table[8, 8, 0]
    assert (lit[found.pixels[:, 2] == 1] > 0.25).all() and (lit[found.pixels[:, 2] == 2] < 0.25).all()
    assert found.reach > 8.1 + 1.2
    at = places(40)
    error = located(found, form, at)[0] - at
    assert np.sqrt(((error - error.mean(0)) ** 2).mean()) < 1e-3


def test_the_scale_of_the_image_is_of_no_matter():
    image = vacuum(ellipse(0.1), 500.0)
    one, other = (disk_profile(scale * image).table for scale in (1.0, 3e-7))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_cannot_be_known_is_refused():
    hard = np.zeros(SIZE)
    hard[20:44, 26:38] = 100.0
    with pytest.raises(InputError, match="too sharp for pixels"):
        profile_of(hard)
    cut = vacuum(ellipse(0.15), center=(5.0, 32.0))
    with pytest.raises(InputError, match="border"):
        profile_of(cut)
    with pytest.raises(InputError, match="no disk"):
        profile_of(np.zeros(SIZE))


def test_auto_doubts_a_form_of_hardly_any_counts():
    """Ten counts a pixel do not tell a square from what noise makes of it."""
    few = gpu4d.BraggDisks(template(vacuum(polygon(4, 5.5), 10.0)))
    few.prepare(np.dtype("uint16"))
    assert few.refinement == "correlation" and "not round" in few.reason


@pytest.mark.parametrize("name", ["square, side 11 px", "ellipse, half opaque"])
def test_disks_of_forms_with_corners_are_located_better_than_by_correlation(name):
    """And both have one zero point, though the correlation's wanders with the place within a pixel."""
    form = FORMS[name]
    kernel = template(vacuum(form, 1e4), center=CENTER, radius=form.radius)
    rng = np.random.default_rng(0)
    at = np.array([32.0, 31.0]) + rng.uniform(-2, 2, (200, 2))
    counts = rng.poisson([1000 * (form.image(SIZE, p) + 0.03) for p in at]).astype("uint16")
    error = {}
    for refine in ("correlation", "auto"):
        disks = gpu4d.find_bragg_disks(counts, kernel, refine=refine, max_peaks=1, min_spacing=20.0)
        assert (disks.counts == 1).all()
        error[refine] = np.stack([disks.flat("qx"), disks.flat("qy")], -1) - at
    rms = {name: np.sqrt(((e - e.mean(0)) ** 2).mean()) for name, e in error.items()}
    assert rms["auto"] < 0.6 * rms["correlation"]
    assert np.abs(error["auto"].mean(0) - error["correlation"].mean(0)).max() < 0.6 * rms["correlation"]


def test_a_round_disk_is_as_good_on_the_grid():
    """The construction holds for round disks too: nothing is lost by a probe that is called uneven in error."""
    image = synthetic(SIZE, 6.0, CENTER) * 1e4
    found = profile_of(image)
    r = np.linspace(0, 9, 60)
    for angle in (0.1, 1.3, 2.9):
        at = [r * f(angle) - (q - c) for f, q, c in zip((np.cos, np.sin), found.disk[:2], CENTER)]
        np.testing.assert_allclose(found.value(*at), 1 / (1 + np.exp(4 * (r - 6.0))), atol=2e-3)
