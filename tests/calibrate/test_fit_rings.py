"""All rings of a polycrystal at once: model, start, rejection of wrong crystals, and errors that can be believed."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import ellipse_matrix, fit_rings
from gpu4d.calibrate.ring_likelihood import fit
from gpu4d.calibrate.ring_model import SHAPE, Pixels, RingModel
from gpu4d.calibrate.ring_start import find_start
from gpu4d.calibrate.stretch import axes_of_stretch, stretch_matrix, stretch_of_axes
from gpu4d.errors import InputError

FCC = np.sqrt([3.0, 4, 8, 11, 12, 16, 19, 20]) / 4.0786
TRUTH = {"ratio": 1.03, "theta": -0.6, "q_pixel": 0.021, "center": (51.3, 46.8)}


def powder(size=100, dose=60.0, g=FCC, texture=0.5, seed=0, ellipse=(1.03, 1.0, -0.6)):
    """Expected counts of an fcc powder with texture, and one draw of them."""
    x, y = (np.arange(size) - c for c in TRUTH["center"])
    v = np.stack(np.broadcast_arrays(x[:, None], y[None, :]), -1) @ ellipse_matrix(ellipse).T
    r, phi = np.hypot(v[..., 0], v[..., 1]), np.arctan2(v[..., 1], v[..., 0])
    expected = 3 + 200 * np.exp(-r / 5)
    for k, one in enumerate(g / TRUTH["q_pixel"]):
        uneven = 1 + texture * np.cos(4 * phi + k) if k % 2 else 1 + texture * np.cos(2 * phi - k)
        expected = expected + dose / (1 + k) * uneven * np.exp(-0.5 * ((r - one) / 1.1) ** 2)
    return expected, np.random.default_rng(seed).poisson(expected)


def off(found):
    """Differences from the truth in standard errors: centre, a/b, theta, pixel size."""
    wrong = [*(found.center - TRUTH["center"]), found.ellipse[0] - 1.03, found.ellipse[2] + 0.6, found.q_pixel - TRUTH["q_pixel"]]
    return np.array(wrong) / np.sqrt(np.diag(found.covariance))


def test_stretch_and_axes_agree():
    e = stretch_of_axes((1.04, 1.0, 0.7))
    np.testing.assert_allclose(stretch_matrix(*e) @ ellipse_matrix((1.04, 1.0, 0.7)), np.eye(2) / 1.04**0.5, atol=1e-12)
    axes = axes_of_stretch(e, np.eye(2) * 1e-8)
    np.testing.assert_allclose((axes.ratio, axes.theta), (1.04, 0.7), atol=1e-12)
    assert axes_of_stretch(np.zeros(2), np.eye(2) * 1e-8).theta_error == pytest.approx(np.pi / 12**0.5)


def test_derivatives_of_the_model():
    """Against finite differences, at a point where no parameter stands at a limit."""
    rng = np.random.default_rng(0)
    model = RingModel(FCC[:3], np.concatenate([[10.0] * 3, np.linspace(10, 40, 5), [40.0] * 3]), SHAPE)
    p = np.array([0.3, -0.2, 0.01, 0.02, np.log(47.0), 0.9, 0.2, 2.3, 0.2, 0.7, *rng.normal(1, 0.3, model.splines), 0.1, -0.1, 0.05, 0.02])
    x, y = rng.uniform(-30, 30, (2, 400))
    near = (np.hypot(x, y) > 14) & (np.hypot(x, y) < 36)
    pixels = Pixels.sorted(x[near], y[near], np.zeros(near.sum()), np.arctan2(y, x)[near], 4)
    amplitude = rng.uniform(5, 20, (4, 3))
    mu, by, shape = model.expected(p, amplitude, pixels)
    for i in range(len(p)):
        step = np.zeros(len(p))
        step[i] = 1e-5
        numeric = (model.expected(p + step, amplitude, pixels)[0] - model.expected(p - step, amplitude, pixels)[0]) / 2e-5
        np.testing.assert_allclose(by[i], numeric, atol=2e-5 * np.abs(mu).max(), rtol=1e-5, err_msg=model.names[i])
    more = amplitude.copy()
    more[2, 1] += 1.0
    there = pixels.sector == 2
    np.testing.assert_allclose((model.expected(p, more, pixels)[0] - mu)[there], shape[1][there], atol=1e-10)


def test_start_needs_nothing():
    image = powder()[1].astype(float)
    start = find_start(image, np.ones(image.shape, bool))
    np.testing.assert_allclose(start.center, TRUTH["center"], atol=0.2)
    np.testing.assert_allclose(start.stretch, stretch_of_axes((1.03, 1.0, -0.6)), atol=6e-3)


def test_uneven_rings_and_a_beam_stop():
    counts = powder()[1]
    found = fit_rings(counts, FCC)
    assert np.abs(off(found)).max() < 3.5
    assert found.ellipse_error[0] < 1e-3 and found.center_error.max() < 0.02 and found.q_pixel_error < 1e-3 * found.q_pixel
    exact, calibration = replace(found, q_pixel_error=0.0, center_error=np.zeros(2)), gpu4d.Calibration()
    exact.apply(calibration)  # an error of 0 is none
    assert calibration.q_pixel == found.q_pixel and calibration.q_pixel_error is None and calibration.origin_error is None
    x, y = np.indices(counts.shape) - np.array([51.3, 46.8])[:, None, None]
    stop = (np.hypot(x, y) < 8) | ((np.abs(x - 0.2 * y) < 4) & (y > 0))
    behind = fit_rings(np.where(stop, 0, counts), FCC, mask=~stop)
    assert np.abs(off(behind)).max() < 3.5
    nan = fit_rings(np.where(stop, np.nan, counts), FCC)  # NaN pixels do not count, either
    assert nan.q_pixel == behind.q_pixel
    seen = np.isfinite(behind.expected)
    assert not seen[stop].any() and abs((counts - behind.expected)[seen].mean()) < 0.05
    mean = fit_rings(counts / 64.0, FCC)  # a mean pattern: the same errors, from its scatter
    np.testing.assert_allclose(mean.q_pixel_error, found.q_pixel_error, rtol=0.05)


def test_crystals_are_told_apart():
    counts = powder(dose=200.0, texture=0.3)[1]
    known = fit_rings(counts, "Au")
    assert known.rings[0].name == "Au 1 1 1" and known.rings[3].name == "Au 3 1 1"
    assert abs(known.q_pixel - TRUTH["q_pixel"]) < 1e-3 * TRUTH["q_pixel"]
    for wrong in ("Si", ["Au", "Si"]):
        with pytest.raises(InputError, match="give the right crystal"):
            fit_rings(counts, wrong)
    with pytest.raises(InputError, match=r"q_pixel = 0\.05"):
        fit_rings(counts, [FCC[0]], q_pixel=0.05)


def test_crystals_with_the_same_rings_are_refused():
    """Aluminium beside gold has rings where gold has them, to 0.7 %: taken as there it moves the pixel size by 2e-3."""
    counts = powder(dose=200.0, texture=0.3)[1]
    for other in ("Al", "Pt"):  # nearest and farthest of those that cannot be told
        with pytest.raises(InputError, match=f"Au cannot be told from {other}: .* leave one of them out"):
            fit_rings(counts, ["Au", other])
    with pytest.raises(InputError, match="Cu is not in the pattern"):  # its 111 is close to 200 of gold
        fit_rings(counts, ["Au", "Cu"])


def test_a_mixture_gives_the_pixel_size():
    silicon = np.sqrt([3.0, 8, 11, 16, 19, 24]) / 5.4310
    gold = powder(dose=200.0, texture=0.3)[1]
    counts = gold + np.random.default_rng(3).poisson(powder(dose=100.0, texture=0.3, g=silicon)[0] * 0.5)
    found = fit_rings(counts, ["Au", "Si"])
    assert abs(found.q_pixel / TRUTH["q_pixel"] - 1) < 1e-3 and abs(found.ellipse[0] - 1.03) < 1e-3


def test_a_flat_detector_shows_tan_two_theta():
    wave = 0.0250793
    seen = np.tan(2 * np.arcsin(wave * FCC / 2)) / wave
    counts = powder(dose=300.0, texture=0.0, g=seen)[1]
    flat, linear = fit_rings(counts, FCC, energy=200e3), fit_rings(counts, FCC)
    assert abs(off(flat)[4]) < 3.5
    assert flat.q_pixel > linear.q_pixel  # 3 (λg)²/8: which the linear scale would have to make up for


def test_one_ring_of_a_long_ellipse():
    """The case that other tools have failed on: semi-axes 63 and 70 px at 0.78 rad in 200 × 200 pixels."""
    x, y = np.indices((200, 200)) - 99.5
    v = np.stack([x, y], -1) @ ellipse_matrix((70.0, 63.0, 0.78)).T
    expected = 1 + 100 * np.exp(-0.5 * ((np.hypot(v[..., 0], v[..., 1]) - 63) / 2) ** 2)
    found = fit_rings(np.random.default_rng(1).poisson(expected), [0.5])
    assert abs(found.ellipse[0] - 70 / 63) < 1e-3 and abs(found.ellipse[2] - 0.78) < np.radians(1)
    assert found.q_pixel == pytest.approx(0.5 / 63, rel=1e-3)


def test_arguments_are_checked():
    flat = np.random.default_rng(0).poisson(np.full((64, 64), 20.0))
    with pytest.raises(InputError, match="ring"):
        fit_rings(flat, FCC, center=(32, 32))
    with pytest.raises(InputError, match="even number"):
        fit_rings(flat, FCC, sectors=5)
    with pytest.raises(InputError, match="no pixel"):
        fit_rings(np.full((32, 32), np.nan), FCC)
    with pytest.raises(InputError, match="background subtraction"):
        fit_rings(flat - 100.0, FCC)


def test_polycrystal_rings_of_the_shared_data(shared_data):
    """Against the truth of a simulator that is not ours: limits of the project."""
    with h5py.File(shared_data / "polycrystal_rings.h5") as file:
        truth = file["truth"]
        patterns = {
            "sum": file["sum_pattern"][()],
            "beam stop": file["sum_pattern_beam_stop"][()],
            "spotty": file["scan_poisson_20000"][()].sum((0, 1)),
        }
        stop, g = truth["beam_stop_mask"][()], np.unique(truth["rings"][:, 3])
        center, (a, b, theta), q = truth["center_px"][()], truth["ellipse"][()], file.attrs["detector_pixel_1_per_A"]
    for name, counts in patterns.items():
        found = fit_rings(counts, g, mask=~stop if name == "beam stop" else None)
        assert abs(found.ellipse[0] - a / b) < 3e-4, name
        assert abs(found.ellipse[2] - theta) < np.radians(0.4 if name == "spotty" else 0.2), name
        assert abs(found.q_pixel / q - 1) < 5e-4 and np.abs(found.center - center).max() < 0.02, name
    assert found.dispersion > 2  # few grains: counts scatter more than Poisson counts do, and the errors know


@pytest.mark.slow
def test_errors_are_those_of_repeated_draws():
    """Over 100 draws of the noise, 60 to 76 % of the values lie within one standard error."""
    expected, counts = powder(dose=40.0, g=FCC[:6])
    first = fit_rings(counts, FCC[:6], sectors=24)
    result = first._details
    seen = tuple(a.astype(int) for a in (result.pixels.x, result.pixels.y))
    rng = np.random.default_rng(5)
    inside = []
    for _ in range(100):
        pixels = result.pixels._replace(counts=rng.poisson(expected[seen]).astype(float))
        again = fit(result.model, pixels, result.fitted.p, result.fitted.amplitude, 1e-2)
        e, scale = stretch_of_axes((1.03, 1.0, -0.6)), np.log(1.03**0.5 / TRUTH["q_pixel"])
        inside.append(np.abs(again.p[:5] - [*TRUTH["center"], *e, scale]) < np.sqrt(np.diag(again.covariance)[:5]))
    assert 0.60 <= np.mean(inside) <= 0.76
