"""The ellipse of a diffuse ring."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import ellipse_matrix, fit_halo
from gpu4d.calibrate.stretch import stretch_of_axes
from gpu4d.errors import InputError


def halo(center=(40.3, 38.6), ellipse=(1.04, 1.0, 0.5), dose=60.0):
    """Expected counts of a glass: a broad ring on a ground that falls, and the direct beam."""
    x, y = np.indices((80, 80))
    v = np.stack([x - center[0], y - center[1]], -1) @ ellipse_matrix(ellipse).T
    r = np.hypot(v[..., 0], v[..., 1])
    return dose * (np.exp(-(((r - 22) / 5) ** 2)) + 0.3 * np.exp(-r / 15)) + 50 * dose * np.exp(-((r / 2) ** 2))


def test_nothing_need_be_known():
    found = fit_halo(np.random.default_rng(0).poisson(halo()))
    away = found.stretch - stretch_of_axes((1.04, 1.0, 0.5))
    assert np.abs(away / np.sqrt(np.diag(found.stretch_covariance))).max() < 3.5
    assert np.abs((found.center - [40.3, 38.6]) / found.center_error).max() < 3.5
    assert found.ellipse_error[0] < 5e-3 and abs(found.radius - 22) < 0.5
    calibration = gpu4d.Calibration()
    found.apply(calibration)
    assert calibration.ellipse == found.ellipse and calibration.ellipse_error == found.ellipse_error


def test_several_patterns_with_their_origins_and_a_mask():
    rng = np.random.default_rng(1)
    origins = rng.uniform(36, 43, (6, 2))
    patterns = np.stack([rng.poisson(halo(o, dose=20.0)) for o in origins])
    mask = np.ones((80, 80), bool)
    mask[40:44, 38:] = False
    found = fit_halo(np.where(mask, patterns, 9999), center=origins, mask=mask)
    away = found.stretch - stretch_of_axes((1.04, 1.0, 0.5))
    assert np.abs(away / np.sqrt(np.diag(found.stretch_covariance))).max() < 3.5
    assert np.abs(found.center).max() < 0.2  # relative to the origins


def test_errors_hold_for_speckles():
    """Counts that scatter more than Poisson counts, by the same factor everywhere, have errors larger by its root."""
    rng = np.random.default_rng(2)
    expected = halo(dose=30.0)
    plain = fit_halo(rng.poisson(expected), radii=(12, 34))
    rough = fit_halo(rng.poisson(expected * rng.gamma(0.02 * expected, 1 / (0.02 * expected))), radii=(12, 34))
    ratio = np.sqrt(np.diag(rough.covariance) / np.diag(plain.covariance)).mean()
    assert 4 < ratio < 10  # √(1 + 50)
    assert rough.dispersion > 10


def test_arguments_are_checked():
    with pytest.raises(InputError, match="origin of each"):
        fit_halo(np.ones((2, 40, 40)))
    with pytest.raises(InputError, match="diffuse ring"):
        fit_halo(np.random.default_rng(0).poisson(np.full((64, 64), 30.0)), center=(32, 32))
    with pytest.raises(InputError, match="at least 5 px"):
        fit_halo(halo(), radii=(10, 12))


def test_glass_of_the_shared_data(shared_data):
    """Unstrained rows have a round ring; a strained pattern shows V⁻¹ of its own strain, within the errors."""
    with h5py.File(shared_data / "amorphous_strain.h5") as file:
        rows, strained = file["poisson_45000"][:4], file["poisson_45000"][12:14, ::4].reshape(-1, 96, 96)
        origins = file["truth/origin_px"]
        origin, places = origins[:4], origins[12:14, ::4].reshape(-1, 2)
        parts = np.stack([file[f"truth/e_{c}"][12:14, ::4].ravel() for c in ("xx", "yy", "xy")])
    found = fit_halo(rows[:, ::2].reshape(-1, 96, 96), center=origin[:, ::2].reshape(-1, 2))
    error = np.sqrt(np.diag(found.stretch_covariance))
    assert (error < 1e-3).all() and (np.abs(found.stretch) < 3.5 * error).all()
    away = []
    for pattern, place, (exx, eyy, exy) in zip(strained, places, parts.T):
        one = fit_halo(pattern, center=place, radii=(18, 44))
        away.append((one.stretch - [-(exx - eyy) / 2, -exy]) / np.sqrt(np.diag(one.stretch_covariance)))
    assert 0.6 < np.sqrt(np.mean(np.square(away))) < 1.4


def test_the_residual_is_how_far_the_ring_lies_from_an_ellipse():
    """A ring with three bulges of 0.5 px lies 0.5 / √2 px rms from any ellipse, and means over 30° keep sinc(45°) of it."""
    x, y = np.indices((120, 120)) - 59.6
    r, phi = np.hypot(x, y), np.arctan2(y, x)

    def residual(bulge):
        expected = 5 + 400 * np.exp(-(((r - 30 - bulge * np.cos(3 * phi)) / 5) ** 2))
        return fit_halo(np.random.default_rng(1).poisson(expected)).residual

    assert residual(0.5) == pytest.approx(0.5 / np.sqrt(2) * np.sinc(0.25), rel=0.08) and residual(0.0) < 0.02
