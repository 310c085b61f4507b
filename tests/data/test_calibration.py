"""Calibration: what it takes, refuses, derives and remembers."""

import pickle

import numpy as np
import pytest

from gpu4d.data import Calibration
from gpu4d.errors import InputError


def test_every_change_is_written_down():
    c = Calibration(q_pixel=0.02)
    c.set(energy=200e3, semiangle=3, how="log book")
    c.rotation = 0.1
    assert [(m.field, m.value, m.how) for m in c.history] == [
        ("q_pixel", 0.02, "given"),
        ("energy", 200e3, "log book"),
        ("semiangle", 3.0, "log book"),
        ("rotation", 0.1, "set"),
    ]
    assert c.known() == {"q_pixel": 0.02, "energy": 200e3, "semiangle": 3.0, "rotation": 0.1}
    assert c.r_pixel is None
    assert c.wavelength == pytest.approx(0.025079, abs=1e-6)


def test_a_copy_is_another_calibration():
    a = Calibration(q_pixel=0.02)
    b = a.copy()
    b.set(q_pixel=0.03, how="refined")
    assert a.q_pixel == 0.02 and len(a.history) == 1
    assert pickle.loads(pickle.dumps(b)).q_pixel == 0.03


@pytest.mark.parametrize("field", ["q_pixel", "r_pixel", "energy", "semiangle", "probe_radius"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_sizes_must_be_positive(field, value):
    with pytest.raises(InputError, match=f"{field} is .* positive"):
        Calibration(**{field: value})


def test_what_calibration_refuses():
    with pytest.raises(InputError, match="no field 'camera_length'"):
        Calibration(camera_length=100)
    with pytest.raises(AttributeError, match="no field 'qpixel'"):
        Calibration().qpixel  # noqa: B018
    with pytest.raises(InputError, match="a ≥ b > 0"):
        Calibration(ellipse=(1.0, 1.1, 0.0))
    with pytest.raises(InputError, match=r"origin is \(3,\)"):
        Calibration(origin=(1, 2, 3))
    with pytest.raises(InputError, match=r"set calibration\.energy"):
        Calibration().wavelength  # noqa: B018


def test_a_misspelt_field_is_refused_on_setting():
    with pytest.raises((AttributeError, InputError), match="qpixel"):
        Calibration().qpixel = 0.02


def test_pixel_size_follows_from_the_disk():
    c = Calibration(energy=200e3, semiangle=3.0, probe_radius=6.0)
    c.complete()
    assert c.q_pixel == pytest.approx(3e-3 / 0.025079 / 6, rel=1e-4)
    assert "semi-angle" in c.history[-1].how
    given = Calibration(energy=200e3, semiangle=3.0, probe_radius=6.0, q_pixel=0.5)
    given.complete()
    assert given.q_pixel == 0.5


def test_the_disk_follows_from_the_pixel_size():
    c = Calibration(energy=200e3, semiangle=3.0, q_pixel=0.02)
    c.complete()
    assert c.probe_radius == pytest.approx(3e-3 / 0.025079 / 0.02, rel=1e-4)


def test_origin_by_position():
    positions = np.asarray([[0, 1], [1, 0]])
    assert Calibration().origin_at(positions) is None and Calibration().origin_mean is None
    np.testing.assert_array_equal(Calibration(origin=(3, 4)).origin_at(positions), [[3, 4], [3, 4]])
    field = np.arange(8.0).reshape(2, 2, 2)
    field[1, 1] = np.nan
    c = Calibration(origin=field)
    np.testing.assert_array_equal(c.origin_at(positions), [[2, 3], [4, 5]])
    np.testing.assert_array_equal(c.origin_mean, [2, 3])
