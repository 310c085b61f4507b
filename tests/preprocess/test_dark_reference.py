"""Level, noise and bad pixels from frames without a beam."""

import h5py
import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.preprocess import dark_reference
from gpu4d.simulate import raw_frames


def test_bad_pixels_put_in_are_found_and_no_others():
    raw = raw_frames((1, 1), (90, 70), bad_pixels=12, seed=3)
    found = dark_reference(raw.darks)
    np.testing.assert_array_equal(found.hot, raw.hot)
    np.testing.assert_array_equal(found.dead, raw.dead)
    assert not found.flickering.any() and (found.mask == ~(raw.hot | raw.dead)).all()
    assert abs(found.noise.mean() / np.hypot(3.0, 12**-0.5) - 1) < 0.02  # the read noise, and that of whole numbers
    np.testing.assert_allclose(found.mean[found.mask], raw.dark[found.mask], atol=5 * 3.1 / 4)


def test_a_noisy_pixel_flickers_and_one_that_never_changes_is_dead():
    frames = np.random.default_rng(0).normal(100, 3, (20, 16, 17))
    frames[:, 4, 5] = np.random.default_rng(1).normal(100, 30, 20)
    frames[:, 8, 9] = 100.0
    frames[3, 0, 0] = np.nan
    found = dark_reference(frames)
    assert np.argwhere(found.flickering).tolist() == [[4, 5]]
    assert np.argwhere(found.dead).tolist() == [[0, 0], [8, 9]] and not found.hot.any()


def test_one_image_is_taken_for_the_mean():
    mean = np.random.default_rng(0).normal(60, 5, (30, 31))
    mean[20, 3] = 500
    found = dark_reference(mean)
    assert np.argwhere(found.hot).tolist() == [[20, 3]] and np.isnan(found.noise).all() and not found.flickering.any()


@pytest.mark.parametrize("frames", [np.zeros(3), np.zeros((0, 4, 4)), np.zeros((2, 0, 4)), np.full((2, 3, 3), np.nan)])
def test_frames_that_say_nothing_are_refused(frames):
    with pytest.raises(InputError, match="frames"):
        dark_reference(frames)


@pytest.mark.shared
def test_bad_pixels_of_a_detector_whose_truth_is_known(shared_data):
    with h5py.File(shared_data / "counting_raw.h5") as file:
        found = dark_reference(file["dark_frames"][:])
        hot, dead = (set(file[f"truth/{name}_px_flat"][:].tolist()) for name in ("hot", "dead"))
    assert set(np.flatnonzero(found.hot)) == hot and set(np.flatnonzero(found.dead)) == dead
