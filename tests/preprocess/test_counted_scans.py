"""Electrons found in raw frames, as a scan kept as events."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.preprocess import count_electrons


def raw(seed=0):
    """Frames (4, 5, 24, 30) with single electrons of 100 units on a dark level of 10, apart from each other; and where they are."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((4, 5, 24, 30), np.uint8)
    truth[:, :, 1::3, 1::3] = rng.random((4, 5, 8, 10)) < 0.1
    return (10 + 100 * truth).astype("uint16"), truth


def test_counted_frames_are_a_scan_of_the_electrons():
    frames, truth = raw()
    found = count_electrons(frames, np.full((24, 30), 10.0), 0.5, 10.0, electron=100.0)
    cube = gpu4d.DataCube(found.source((4, 5), (24, 30)))
    np.testing.assert_array_equal(cube.load().source.array, truth)
    out = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()})
    np.testing.assert_array_equal(np.asarray(out["mean"]), truth.mean((0, 1), dtype=np.float64))
    np.testing.assert_array_equal(np.asarray(out["com"]), np.asarray(gpu4d.sweep(gpu4d.DataCube(truth), gpu4d.CenterOfMass())))


def test_another_scan_or_detector_is_refused():
    found = count_electrons(raw()[0], np.full((24, 30), 10.0), 0.5, 10.0, electron=100.0)
    with pytest.raises(InputError, match="21 offsets for a scan of 12 positions: need 13"):
        found.source((3, 4), (24, 30))
    with pytest.raises(InputError, match=r"an electron has qy = 28, the detector is \(30, 24\): need the shape of the frames"):
        found.source((4, 5), (30, 24))
    with pytest.raises(InputError, match="need numbers"):
        found.source((4, 5), (20, 30))
