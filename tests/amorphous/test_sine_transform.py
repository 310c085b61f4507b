"""The sine transform against pairs that can be written down, and there and back."""

import numpy as np
import pytest

from gpu4d.amorphous import sine_transform
from gpu4d.amorphous.sine_transform import sine_matrix
from gpu4d.errors import InputError

SHELLS = ((2.7, 0.12, 3.0), (4.4, 0.25, -1.0), (5.1, 0.3, 2.0))  # Å, Å, height


def reduced(r):
    """G(r) of Gaussian shells, odd in r."""
    return sum(h * (np.exp(-(((r - at) / w) ** 2) / 2) - np.exp(-(((r + at) / w) ** 2) / 2)) for at, w, h in SHELLS)


def spectrum(q):
    """Its transform from 0 to infinity, √(2π) h w sin(Q at) exp(-Q²w²/2)."""
    return sum(np.sqrt(2 * np.pi) * h * w * np.sin(q * at) * np.exp(-((q * w) ** 2) / 2) for at, w, h in SHELLS)


def test_gaussian_shells_in_both_directions():
    q, r = np.linspace(0, 60, 6001), np.linspace(0, 12, 1201)
    np.testing.assert_allclose((2 / np.pi) * sine_transform(q, spectrum(q), r[::6]), reduced(r[::6]), atol=5e-4)
    np.testing.assert_allclose(sine_transform(r, reduced(r), q[:2000:5]), spectrum(q[:2000:5]), atol=4e-4)


def test_there_and_back_on_the_sampling_of_a_detector():
    """Straight lines between values at a distance d make the transform smaller by (sin(rd/2) / (rd/2))²."""
    q = 2 * np.pi * np.arange(0, 6.0, 0.01)
    r = np.arange(0, 20, 0.01)
    g = (2 / np.pi) * sine_transform(q, spectrum(q), r)
    np.testing.assert_allclose(g[:800], reduced(r[:800]) * np.sinc(r[:800] * 0.01) ** 2, atol=3e-4)
    back = sine_transform(r, g / np.sinc(r * 0.01) ** 2, q)
    np.testing.assert_allclose(back, spectrum(q), atol=1e-3 * np.abs(spectrum(q)).max())


def test_parseval():
    q, r = np.linspace(0, 50, 4001), np.linspace(0, 12, 601)
    g = (2 / np.pi) * sine_transform(q, spectrum(q), r)
    assert np.trapezoid(spectrum(q) ** 2, q) == pytest.approx(np.pi / 2 * np.trapezoid(g**2, r), rel=1e-3)


def test_straight_lines_are_integrated_exactly_at_any_frequency():
    """Three uneven places and slow to fast sines, against a sum of many more samples than the fastest sine has."""
    x, f = np.array([0.3, 1.1, 1.25]), np.array([2.0, -1.0, 4.0])
    fine = np.unique(np.concatenate([np.linspace(0.3, 1.25, 500_001), x]))
    values = np.interp(fine, x, f)
    for y in (0.0, 1e-5, 1e-3, 2e-3, 0.7, 40.0, 900.0):
        assert sine_transform(x, f, [y])[0] == pytest.approx(np.trapezoid(values * np.sin(fine * y), fine), abs=1e-9, rel=1e-6)


def test_both_formulas_meet_where_they_are_exchanged():
    x = np.linspace(0, 1, 11)
    near = sine_matrix(x, np.array([1.9999e-3, 2.0001e-3]))  # steps of 0.1: the limit lies between
    np.testing.assert_allclose(near[0] / 1.9999, near[1] / 2.0001, rtol=1e-6)


def test_many_rows_and_missing_values():
    q = np.linspace(0, 20, 401)
    rows = np.stack([spectrum(q), 2 * spectrum(q), np.full_like(q, np.nan)]).reshape(3, 1, -1)
    rows.flags.writeable = False
    found = sine_transform(q, rows, [2.7, 3.3])
    assert found.shape == (3, 1, 2) and np.isnan(found[2]).all()
    np.testing.assert_allclose(found[1], 2 * found[0])
    assert sine_transform([1.0], [3.0], [2.0]).tolist() == [0.0], "one place has no integral"
    assert sine_transform(q, np.zeros((0, 401)), [1.0]).shape == (0, 1)


def test_what_is_refused():
    with pytest.raises(InputError, match="each larger than the one before"):
        sine_transform([0.0, 2.0, 1.0], np.zeros(3), [1.0])
    with pytest.raises(InputError, match="one value for each x"):
        sine_transform([0.0, 1.0], np.zeros(3), [1.0])
    with pytest.raises(InputError, match="finite numbers"):
        sine_transform([0.0, 1.0], np.zeros(2), [np.nan])
