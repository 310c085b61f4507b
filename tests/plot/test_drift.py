"""The picture of a drift: scans, their average, and curves of the rows' shifts with bands of their errors."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError


@pytest.fixture(scope="module")
def found():
    return gpu4d.scan_drift(np.random.default_rng(0).normal(size=(16, 20)), r_pixel=2.0)


def test_curves_are_the_shifts(found):
    (ax,) = gpu4d.plot.drift(found)
    assert [line.get_label() for line in ax.lines] == ["x", "y"] and "Å" in ax.get_ylabel()
    assert np.array_equal(ax.lines[1].get_ydata(), found.shifts[0][:, 1])


def test_pictures_stand_before_the_curves(found):
    titles = [ax.get_title(loc="left") for ax in gpu4d.plot.drift(found, [np.ones((16, 20))], "corrected")]
    assert titles == ["first scan", "corrected", "shifts of rows"]


def test_every_scan_needs_its_picture(found):
    with pytest.raises(InputError, match="one of each scan"):
        gpu4d.plot.drift(found, [np.ones((16, 20))] * 2)
