"""Calibrations in TOML files: what is written, read again, and refused."""

import numpy as np
import pytest

from gpu4d.data import Calibration
from gpu4d.data.calibration_order import CalibrationOrderWarning
from gpu4d.errors import InputError
from gpu4d.io import MeasuredOn, load_calibration, save_calibration


@pytest.fixture
def full():
    """A calibration in which every kind of field is known."""
    x, y = np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 7), indexing="ij")
    c = Calibration(energy=200e3, semiangle=3.0, r_pixel=10.0, transpose=True)
    c.measured(origin=np.stack([64 + 2 * x - y * x, 63 + 0.3 * y**2], -1), origin_error=0.004, how="Friedel pairs")
    c.measured(ellipse=(1.03, 1.0, 0.4), ellipse_error=(3e-4, 2e-3), how="7 rings of Au")
    c.measured(rotation=-0.2, rotation_error=0.01, how="least curl")
    c.measured(q_pixel=0.0123, q_pixel_error=1e-5, how='7 rings of "Au"')
    return c


def test_everything_is_read_as_it_was_written(full, tmp_path):
    about = MeasuredOn(file="rings.h5", scan_shape=(5, 7), detector_shape=(128, 128), standard="Au")
    save_calibration(tmp_path / "c.toml", full, about)
    got = load_calibration(tmp_path / "c.toml")
    assert got.calibration.known().keys() == full.known().keys()
    for name, value in full.known().items():
        np.testing.assert_allclose(getattr(got.calibration, name), value, atol=1e-12)
    assert got.about == about
    how = {entry.field: entry.how for entry in got.calibration.history}
    assert how["q_pixel"] == '7 rings of "Au" (c.toml)' and not got.calibration.outdated


def test_order_of_the_file_is_the_order_of_measuring(full, tmp_path):
    save_calibration(tmp_path / "c.toml", full)
    parts = [line[1:-1] for line in (tmp_path / "c.toml").read_text().splitlines() if line.startswith("[")]
    assert parts[1:5] == ["origin", "ellipse", "rotation", "q_pixel"]


def test_an_origin_that_is_no_surface_becomes_its_mean(tmp_path):
    origin = np.random.default_rng(0).normal(64, 1, (6, 6, 2))
    save_calibration(tmp_path / "c.toml", Calibration(origin=origin, origin_error=0.01))
    found = load_calibration(tmp_path / "c.toml").calibration
    np.testing.assert_allclose(found.origin, origin.mean((0, 1)))
    assert found.origin_error == pytest.approx(np.sqrt(((origin - origin.mean((0, 1))) ** 2).mean())), "not that of the surface"
    assert "the mean alone" in (tmp_path / "c.toml").read_text()


def test_a_file_is_not_replaced_unasked(full, tmp_path):
    save_calibration(tmp_path / "c.toml", full)
    with pytest.raises(InputError, match="exists: choose another name"):
        save_calibration(tmp_path / "c.toml", full)
    save_calibration(tmp_path / "c.toml", Calibration(), overwrite=True)
    assert load_calibration(tmp_path / "c.toml").calibration.known() == {}
    assert [p.name for p in tmp_path.iterdir()] == ["c.toml"]
    with pytest.raises(InputError, match="cannot be written"):
        save_calibration(tmp_path / "no folder" / "c.toml", full)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[elipse]\nvalue = [1, 1, 0]", r"no part \[elipse\] \(did you mean 'ellipse'\?\)"),
        ("q_pixel = 0.02", r"\[q_pixel\] needs a line `value"),
        ("[q_pixel]\nvalue = -1", "q_pixel is -1"),
        ("[energy]\nvalue = 200e3\nerror = 1.0", "takes no error"),
        ("[q_pixel\n", "not valid TOML"),
        ("[origin]\nvalue = [1, 2]\nscan_shape = [4]\nsurface = [[1], [2]]", "surface needs two lists of 6"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_calibration(tmp_path / "c.toml")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_calibration(tmp_path / "c.toml")


def test_a_value_that_must_be_measured_again_is_named_by_the_file_too(tmp_path):
    late = Calibration()
    late.measured(q_pixel=0.02, how="rings")
    with pytest.warns(CalibrationOrderWarning, match="measure pixel size again"):
        late.measured(ellipse=(1.03, 1.0, 0.4), how="rings")
    save_calibration(tmp_path / "late.toml", late)
    with pytest.warns(CalibrationOrderWarning, match=r"late.toml: \[q_pixel\] is outdated"):
        assert load_calibration(tmp_path / "late.toml").calibration.q_pixel == 0.02
