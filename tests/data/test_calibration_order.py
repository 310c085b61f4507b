"""The order of a calibration: origin, ellipse, rotation, pixel size."""

import warnings

import pytest

from gpu4d.data import Calibration
from gpu4d.data.calibration_order import CalibrationOrderWarning

VALUES = {"origin": (31.5, 32.0), "ellipse": (1.02, 1.0, 0.3), "rotation": 0.1, "q_pixel": 0.02}


def test_in_order_there_is_no_warning():
    c = Calibration(energy=200e3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, value in VALUES.items():
            c.measured(**{name: value}, how="test")
    assert c.outdated == ()


@pytest.mark.parametrize(
    ("late", "again"),
    [("origin", ("ellipse", "rotation", "q_pixel")), ("ellipse", ("rotation", "q_pixel")), ("rotation", ())],
)
def test_a_late_measurement_says_what_must_be_done_again(late, again):
    c = Calibration()
    for name, value in VALUES.items():
        if name != late:
            c.measured(**{name: value}, how="test")
    with pytest.warns(CalibrationOrderWarning, match=f"^{late} was set after .* had been measured"):
        c.measured(**{late: VALUES[late]}, how="test")
    assert c.outdated == again
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough
        for name in again:
            c.measured(**{name: VALUES[name]}, how="test")
    assert c.outdated == ()


def test_a_value_set_by_hand_counts_too():
    c = Calibration()
    c.measured(q_pixel=0.02, how="rings")
    with pytest.warns(CalibrationOrderWarning, match="ellipse was set after pixel size .* measure pixel size again"):
        c.ellipse = (1.03, 1.0, 0.2)


def test_given_values_rest_on_nothing():
    c = Calibration(q_pixel=0.02, rotation=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        c.measured(origin=(3, 4), ellipse=(1.02, 1, 0), how="test")
    assert c.outdated == ()


def test_an_error_goes_with_its_value():
    c = Calibration()
    c.measured(ellipse=(1.02, 1.0, 0.3), ellipse_error=(1e-3, 0.02), rotation=0.1, rotation_error=0.01, how="test")
    with pytest.warns(CalibrationOrderWarning, match="measure rotation again"):
        c.ellipse = (1.03, 1.0, 0.3)
    assert c.ellipse_error is None and c.rotation_error == 0.01
    c.override(Calibration(rotation=0.2))
    assert c.rotation_error is None
