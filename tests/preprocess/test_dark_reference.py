"""Level, noise and bad pixels from frames without a beam."""

import tracemalloc

import h5py
import numpy as np
import pytest

from gpu4d.data.frame_correction import mean_of_darks
from gpu4d.errors import InputError
from gpu4d.preprocess import dark_reference, find_defects
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


@pytest.mark.parametrize("frames", [2, 4, 5, 16])
def test_working_pixels_that_have_the_same_value_by_chance_are_not_dead(frames):
    values = np.random.default_rng(4).normal(60, 3, (frames, 200, 210)).round().astype("uint16")
    values[:, 20, 30] = 0
    values[:, :, 77] = 61
    by_chance = (np.ptp(values, axis=0) == 0).sum()
    assert by_chance > 201 or frames == 16  # of few whole numbers, all are equal in some pixels
    for dead, others in ((dark_reference(values).dead, dark_reference(values)), (find_defects(values).dead, find_defects(values))):
        assert dead[20, 30] and dead[:, 77].all() and dead.sum() == 201
        assert not others.hot.any() and not others.flickering.any()


def test_a_noisy_row_flickers():
    values = np.random.default_rng(2).normal(60, 3, (20, 90, 110))
    values[:, 40] = np.random.default_rng(3).normal(60, 18, (20, 110))
    found = dark_reference(values)
    assert not found.mask[40].any() and np.delete(found.mask, 40, axis=0).all()
    assert find_defects(values, 7.0).flickering[40].all()


def test_frames_are_not_all_held_in_64_bits():
    values = np.random.default_rng(0).integers(50, 70, (200, 128, 128)).astype("uint16")
    dark_reference(values[:4])  # imports
    tracemalloc.start()
    dark_reference(values)
    mean_of_darks(values, (128, 128))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes  # and not four times as many
