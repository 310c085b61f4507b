"""Positions of patterns on the specimen: a field of the calibration that follows crops, bins and exchanges, and files."""

import numpy as np
import pytest

import gpu4d
from gpu4d.data.scan_vectors import scan_vectors
from gpu4d.errors import InputError
from gpu4d.io.calibration_file import as_toml


def places(shape=(4, 6)):
    i, j = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return np.stack([2.0 * i + 0.1 * j, 3.0 * j - 0.2 * i], -1)


def cube():
    return gpu4d.DataCube(np.ones((4, 6, 5, 5), "uint8"), gpu4d.Calibration(positions=places(), r_pixel=2.0))


def test_they_follow_the_scan():
    assert np.array_equal(cube().crop((1, 3), (2, 6)).calibration.positions, places()[1:3, 2:6])
    assert cube().bin(scan=2).calibration.positions[0, 0] == pytest.approx(places()[:2, :2].mean((0, 1)))
    swapped = cube().swap_axes(scan=True).calibration.positions
    assert swapped.shape == (6, 4, 2) and np.array_equal(swapped[3, 1], places()[1, 3][::-1])
    assert np.array_equal(cube().swap_axes(detector=True).calibration.positions, places())


def test_what_is_refused():
    with pytest.raises(InputError, match="need \\(Rx, Ry, 2\\)"):
        gpu4d.Calibration(positions=[1.0, 2.0])
    with pytest.raises(InputError, match="finite"):
        gpu4d.Calibration(positions=np.full((4, 6, 2), np.nan))
    with pytest.raises(InputError, match=r"calibration\.positions has shape"):
        gpu4d.DataCube(np.ones((3, 6, 5, 5), "uint8"), gpu4d.Calibration(positions=places()))
    with pytest.raises(InputError, match="one line"):
        scan_vectors(np.repeat(np.arange(4.0)[:, None, None], 6, 1) * [1.0, 1.0])


def test_files_keep_them(tmp_path):
    gpu4d.save(tmp_path / "a.h5", {"cube": cube()})
    assert np.allclose(gpu4d.open(tmp_path / "a.h5").calibration.positions, places())
    assert "[positions]" not in as_toml(cube().calibration)  # they belong to their scan


def test_the_steps_of_a_grid():
    found = scan_vectors(places() + np.array([7.0, -3.0]))
    assert found.matrix == pytest.approx(np.array([[2.0, 0.1], [-0.2, 3.0]])) and found.misfit < 1e-12
    noise = np.random.default_rng(0).normal(0, 0.1, (40, 60, 2))
    assert scan_vectors(places((40, 60)) + noise).misfit == pytest.approx(0.1, rel=0.05)
