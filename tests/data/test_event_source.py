"""What an event source and corrections refuse, and what a file says of corrections made one after the other."""

import numpy as np
import pytest

import gpu4d
from gpu4d.data import BadPixelCorrection, Events, EventSource
from gpu4d.errors import InputError

MASK = np.zeros((4, 5), bool)
MASK[1, 2] = True


@pytest.mark.parametrize(
    ("scan", "detector", "said"),
    [
        ((1, 1, 1), (2, 2), "scan_shape is .*need two whole numbers"),
        ((-1, -1), (2, 2), "scan_shape"),
        ((1, 1), (-2, -2), "detector_shape"),
        ((1.5, 1), (2, 2), "scan_shape"),
    ],
)
def test_shapes_of_events_are_two_sizes(scan, detector, said):
    with pytest.raises(InputError, match=said):
        EventSource([0, 1], [0], scan, detector)


def test_patterns_are_made_in_an_array_that_fits():
    events = Events(np.array([0, 1]), np.array([3]), np.array([3000]), (2, 2))
    for out in (np.zeros((1, 2, 2), "uint8"), np.zeros((1, 2, 3), "uint16"), np.zeros((1, 2, 4), "uint16")[..., ::2]):
        with pytest.raises(InputError, match=r"need \(1, 2, 2\) uint16 in C order"):
            events.dense("uint16", out=out)
    out = np.ones((1, 2, 2), "uint16")
    assert events.dense("uint16", out=out) is out and out.tolist() == [[[0, 0], [0, 3000]]]


@pytest.mark.parametrize(
    "taken_from", [np.zeros((4, 4), int), np.zeros((4, 5)), np.full((4, 5), 99), np.full((4, 5), -1), np.full((4, 5), 7)]
)
def test_values_are_taken_from_good_pixels(taken_from):
    with pytest.raises(InputError, match="taken_from"):
        BadPixelCorrection(MASK, taken_from)
    frames = np.arange(20).reshape(1, 4, 5)
    assert BadPixelCorrection(MASK, np.full((4, 5), 19)).apply(frames)[0, 1, 2] == 19


def test_what_is_no_correction_is_named():
    cube = gpu4d.DataCube(np.zeros((1, 1, 4, 5), "uint8"))
    with pytest.raises(InputError, match="the class BadPixelCorrection is no correction"):
        cube.corrected(BadPixelCorrection)
    with pytest.raises(InputError, match="give a correction without a keyword"):
        cube.corrected(bad_pixels=BadPixelCorrection(MASK))


def test_a_file_says_all_that_was_corrected(tmp_path):
    """Also what was corrected before the file that it was made of was written."""
    two = np.zeros((4, 5), bool)
    two[0, 0] = two[3, 4] = True
    cube = gpu4d.DataCube(np.arange(40, dtype="uint16").reshape(1, 2, 4, 5))
    gpu4d.save(tmp_path / "a.h5", {"c": cube.corrected(bad_pixels=MASK)})
    gpu4d.save(tmp_path / "b.h5", {"c": gpu4d.open(tmp_path / "a.h5").corrected(bad_pixels=two)})
    gpu4d.save(tmp_path / "c.h5", {"c": gpu4d.open(tmp_path / "b.h5").crop(qx=(0, 2))})
    for name in ("b.h5", "c.h5"):
        applied = gpu4d.open(tmp_path / name).metadata["metadata"]["corrections"]["applied"]
        assert applied == "1 bad pixel replaced, 2 bad pixels replaced"
