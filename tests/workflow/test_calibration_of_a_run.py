"""`gpu4d run --calibration`: what is taken from the file, and what overrides it."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io import MeasuredOn, save_calibration
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.recipe import Recipe


@pytest.fixture
def scan(tmp_path):
    """Path of a scan whose file knows its energy and step."""
    cube = gpu4d.DataCube(np.ones((4, 5, 16, 16), "u2"), gpu4d.Calibration(energy=200e3, r_pixel=7.0, q_pixel=0.5, q_pixel_error=0.1))
    gpu4d.save(tmp_path / "scan.h5", {"cube": cube})
    return tmp_path / "scan.h5"


def opened(scan, folder, calibration, about=None, **settings):
    save_calibration(folder / "c.toml", calibration, about, overwrite=True)
    recipe = Recipe()
    recipe.set("input.calibration", str(folder / "c.toml"))
    for name, value in settings.items():
        recipe.set(name.replace("__", "."), value)
    return open_scan(scan, recipe).calibration


def test_file_then_calibration_then_recipe(scan, tmp_path):
    given = gpu4d.Calibration(q_pixel=0.02, ellipse=(1.03, 1, 0.3), rotation=0.2, energy=200e3, r_pixel=99.0, origin=(7.0, 8.0))
    got = opened(scan, tmp_path, given, MeasuredOn(file="standard.h5"), calibration__rotation_degrees=30.0)
    assert got.q_pixel == 0.02 and got.q_pixel_error is None and got.ellipse == (1.03, 1.0, 0.3)
    assert got.rotation == pytest.approx(np.deg2rad(30))
    assert got.r_pixel == 7.0 and got.origin is None, "step and origin belong to the other scan"


def test_the_origin_of_the_same_file_is_taken(scan, tmp_path):
    got = opened(scan, tmp_path, gpu4d.Calibration(origin=(7.0, 8.0)), MeasuredOn(file=str(scan.resolve()), scan_shape=(4, 5)))
    assert got.origin.tolist() == [7, 8]


def test_the_origin_of_another_scan_is_not_taken(scan, tmp_path):
    for about in (
        MeasuredOn(file=str(scan.resolve()), dataset="/other", scan_shape=(4, 5)),
        MeasuredOn(file=str(tmp_path / "day1" / "scan.h5"), scan_shape=(4, 5)),
        MeasuredOn(file=str(scan.resolve())),
    ):
        assert opened(scan, tmp_path, gpu4d.Calibration(origin=(7.0, 8.0)), about).origin is None


def test_an_energy_on_the_command_line_is_compared_too(scan, tmp_path):
    with pytest.raises(InputError, match=r"at 200 keV, and .* at 300 keV"):
        opened(scan, tmp_path, gpu4d.Calibration(q_pixel=0.02, energy=200e3), calibration__energy=300e3)


def test_values_change_with_binning(scan, tmp_path):
    got = opened(scan, tmp_path, gpu4d.Calibration(q_pixel=0.02, q_pixel_error=1e-4), input__bin_detector=2)
    assert got.q_pixel == 0.04 and got.q_pixel_error == 2e-4


def test_a_calibration_that_cannot_hold_is_refused(scan, tmp_path):
    with pytest.raises(InputError, match=r"measured on 32×32 detector pixels, and .* has 16×16"):
        opened(scan, tmp_path, gpu4d.Calibration(q_pixel=0.02), MeasuredOn(detector_shape=(32, 32)))
    with pytest.raises(InputError, match=r"at 80 keV, and .* at 200 keV"):
        opened(scan, tmp_path, gpu4d.Calibration(q_pixel=0.02, energy=80e3))
