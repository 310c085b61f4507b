"""Raw frames whose every electron is known."""

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.simulate import raw_frames


def test_the_charge_in_the_frames_is_that_of_the_electrons():
    raw = raw_frames((3, 4), (60, 50), occupancy=0.02, bad_pixels=0, xray_rate=0.0, gain_spread=0.0, seed=1)
    charge = (raw.cube.source.array - raw.dark).sum((2, 3)).ravel()
    signal = np.bincount(raw.electrons[:, 0].astype(int), raw.electrons[:, 3], minlength=12)
    np.testing.assert_allclose(charge, signal, atol=5 * 3.1 * np.sqrt(3000) + 250)  # noise, and charge beyond the border
    expected = 0.02 * 12 * 3000
    assert abs(len(raw.electrons) - expected) < 5 * np.sqrt(expected)
    assert abs(raw.electrons[:, 3].mean() / 120 - 1) < 0.05


def test_electrons_follow_the_pattern_and_stay_on_the_detector():
    pattern = np.zeros((20, 30))
    pattern[5:8, 10:25] = 1
    places = raw_frames((2, 2), (20, 30), occupancy=0.1, pattern=pattern).electrons[:, 1:3]
    assert ((places > (4.5, 9.5)) & (places < (7.5, 24.5))).all()


def test_a_seed_gives_the_same_frames_and_the_detector_does_not_depend_on_the_dose():
    a, b, c = (raw_frames((2, 2), (40, 40), occupancy=n, seed=7) for n in (0.01, 0.01, 0.05))
    np.testing.assert_array_equal(a.cube.source.array, b.cube.source.array)
    for name in ("dark", "gain", "hot", "dead", "flickering"):
        np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
    assert (a.cube.source.array != raw_frames((2, 2), (40, 40), occupancy=0.01, seed=8).cube.source.array).any()


def test_no_electrons():
    assert raw_frames((1, 2), (16, 17), occupancy=0.0, bad_pixels=0, xray_rate=0.0).electrons.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"occupancy": -1}, "occupancy=-1"),
        ({"occupancy": 3}, "occupancy up to 1 "),
        ({"spread": 0}, "spread above 0 "),
        ({"noise": "low"}, "noise is 'low'"),
        ({"pattern": np.ones((3, 3))}, "pattern is"),
        ({"bad_pixels": 10_000}, "bad_pixels up to a third of the pixels"),
        ({"detector_shape": (0, 3)}, "detector_shape"),
    ],
)
def test_impossible_numbers_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        raw_frames(**options)
