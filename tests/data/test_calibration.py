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
    with pytest.raises(InputError, match=f"{field} is .*need a"):
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


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("energy", 200, "200e3"),
        ("energy", 300.0, "300e3"),
        ("energy", 0.3, "300e3"),
        ("energy", 80, "80e3"),
        ("semiangle", 0.00103, "1.03"),
        ("semiangle", 0.003, "3"),
        ("semiangle", 25000, "25"),
        ("r_pixel", 5e-10, "5"),
        ("q_pixel", 2e8, "0.02"),
        ("rotation", 25, r"numpy.deg2rad\(25\)"),
        ("rotation", -90.0, r"numpy.deg2rad\(-90\)"),
        ("ellipse", (2.0, 1.0, 30), r"numpy.deg2rad\(30\)"),
    ],
)
def test_a_value_in_another_unit_is_refused_with_what_was_meant(field, value, meant):
    with pytest.raises(InputError, match=f"did you mean {meant}[,?)]"):
        Calibration(**{field: value})


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("energy", "300 keV", 300e3),
        ("energy", "300kV", 300e3),
        ("energy", "3e5", 300e3),
        ("semiangle", "0.025 rad", 25.0),
        ("q_pixel", "0.2 1/nm", 0.02),
        ("q_pixel", "0.2/nm", 0.02),
        ("r_pixel", "0.5 nm", 5.0),
        ("rotation", "180 deg", np.pi),
        ("rotation", "1 rad", 1.0),
    ],
)
def test_a_text_with_a_unit_is_taken(field, text, value):
    assert getattr(Calibration(**{field: text}), field) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("energy", "fast"),
        ("energy", True),
        ("energy", 2e5 + 1j),
        ("energy", [2e5]),
        ("energy", "300 keV 5"),
        ("rotation", float("nan")),
        ("ellipse", 1.03),
        ("ellipse", (2, 1)),
        ("ellipse", "round"),
        ("ellipse", (float("inf"), 1, 0)),
        ("transpose", "no"),
        ("transpose", 2),
        ("origin", "middle"),
        ("probe_radius", "five"),
    ],
)
def test_what_is_no_value_of_a_field_is_refused_in_one_line(field, value):
    with pytest.raises(InputError, match=field) as caught:
        Calibration(**{field: value})
    assert "\n" not in str(caught.value)


def test_how_a_value_was_found_need_not_be_said_and_a_wrong_value_sets_nothing():
    c = Calibration()
    c.set(energy=200e3)
    assert (c.energy, c.history[-1].how) == (200e3, "given")
    with pytest.raises(InputError, match="semiangle"):
        c.set(r_pixel=2.0, semiangle=0.002)
    assert c.r_pixel is None and len(c.history) == 1


def test_the_whole_turn_and_every_number_of_numpy_are_taken():
    c = Calibration(rotation=-2 * np.pi, energy=np.float32(2e5), semiangle=np.array(3.0), transpose=np.True_)
    assert c.rotation == -2 * np.pi and c.energy == 2e5 and c.transpose is True and type(c.semiangle) is float


def test_editors_complete_the_fields():
    assert {"energy", "q_pixel", "semiangle", "set", "known"} <= set(dir(Calibration()))


def test_the_detector_pixel_has_the_error_of_the_radius():
    c = Calibration(energy=200e3, semiangle=3.0)
    c.set(probe_radius=6.0, probe_radius_error=0.12, how="edge")
    c.complete()
    assert c.q_pixel_error == pytest.approx(0.02 * c.q_pixel)
    binned = c.binned(2, 1)
    assert (binned.q_pixel_error, binned.probe_radius_error) == pytest.approx((0.04 * c.q_pixel, 0.06))
    c.set(q_pixel=0.03, how="from a standard")
    assert c.q_pixel_error is None, "the old error is not that of a new value"
    c.set(q_pixel=0.03, q_pixel_error=0.001, how="from a standard")
    assert c.q_pixel_error == 0.001


def test_a_small_disk_gives_no_detector_pixel():
    for radius, known in ((2.9, False), (3.0, True)):
        c = Calibration(energy=200e3, semiangle=3.0, probe_radius=radius)
        c.complete()
        assert (c.q_pixel is not None) == known
