"""The pixel size and its error, and the names of the room."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError


def test_pixel_size_and_its_error():
    rng = np.random.default_rng(0)
    d = 4.078 / np.sqrt(np.array([4.0, 8.0, 16.0, 20.0, 32.0] * 40))
    lengths = 1 / d / 0.02 + rng.normal(size=d.size) * 0.1
    q, error = gpu4d.calibrate.pixel_size(lengths, d)
    assert abs(q - 0.02) < 4 * error and 1e-6 < error < 1e-5
    assert gpu4d.calibrate.pixel_size(50.0, 2.0)[0] == pytest.approx(0.01)
    with pytest.raises(InputError, match="as many"):
        gpu4d.calibrate.pixel_size([1.0, 2.0], [1.0])


def test_errors_of_the_lengths_give_the_error():
    lengths = np.sqrt([3.0, 4.0, 8.0, 11.0]) / 4.0786 / 0.02
    q, error = gpu4d.calibrate.pixel_size(lengths, 4.0786 / np.sqrt([3.0, 4.0, 8.0, 11.0]), errors=np.full(4, 0.01))
    assert q == pytest.approx(0.02) and error == pytest.approx(0.02 / np.sqrt(np.sum(lengths**2)) * 0.01)
    rng = np.random.default_rng(1)
    away = []
    for _ in range(60):
        noisy = lengths * (1 + rng.normal(0, 5e-4, 4))
        q, error = gpu4d.calibrate.pixel_size(noisy, "Au", errors=5e-4 * lengths)
        away.append((q - 0.02) / error)
    assert 0.7 < np.std(away) < 1.2  # errors are enlarged where the scatter is, and never made smaller


def test_lengths_are_indexed_by_the_crystal():
    lengths = np.sqrt([3.0, 4.0, 8.0, 11.0]) / 4.0786 / 0.02
    found = gpu4d.calibrate.index_lengths(lengths[::-1], "Au")
    assert found.names == ("Au 3 1 1", "Au 2 2 0", "Au 2 0 0", "Au 1 1 1") and np.abs(found.misfit).max() < 1e-12
    square = np.sqrt([4.0, 8.0, 16.0]) / 4.0786 / 0.02  # 200, 220, 400, or 220, 400, 440
    with pytest.raises(InputError, match="alike"):
        gpu4d.calibrate.pixel_size(square, "Au")
    assert gpu4d.calibrate.index_lengths(square, "Au", q_pixel=0.021).names == ("Au 2 0 0", "Au 2 2 0", "Au 4 0 0")
    with pytest.raises(InputError, match="no ring"):
        gpu4d.calibrate.pixel_size([10.0], "Au", q_pixel=0.001)


def test_what_does_not_fit_is_refused():
    d = 4.0786 / np.sqrt([3.0, 4.0, 8.0])
    with pytest.raises(InputError, match="do not fit"):
        gpu4d.calibrate.pixel_size(1 / d / 0.02, d[[0, 2, 1]])
    with pytest.raises(InputError, match="do not fit"):  # within 2 %, but 20 standard errors
        gpu4d.calibrate.pixel_size([21.23, 24.9, 34.67], d, errors=[0.02, 0.02, 0.02])
    with pytest.raises(InputError, match="one for each"):
        gpu4d.calibrate.pixel_size([21.23, 24.9, 34.67], d, errors=[0.02])


def test_names_are_functions_whatever_is_imported_first():
    import importlib

    importlib.import_module("gpu4d.calibrate.origin")
    assert callable(gpu4d.calibrate.origin) and callable(gpu4d.calibrate.ellipse) and callable(gpu4d.calibrate.pixel_size)
