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


def test_names_are_functions_whatever_is_imported_first():
    import importlib

    importlib.import_module("gpu4d.calibrate.origin")
    assert callable(gpu4d.calibrate.origin) and callable(gpu4d.calibrate.ellipse) and callable(gpu4d.calibrate.pixel_size)
