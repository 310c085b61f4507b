"""Virtual images while a detector is dragged: the same numbers as a sweep's, whatever was shown before."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.view import detector_from, view_of
from gpu4d.view.pixel_images import PixelImages, bin_that_fits, scaled

DRAG = [
    {"shape": "disk", "center": [9.5, 12.0], "outer": 4.0},
    {"shape": "disk", "center": [10.5, 12.0], "outer": 4.0},  # pixels are added and taken away
    {"shape": "annulus", "center": [10, 12], "inner": 2.5, "outer": 40.0},  # from the sum of all
    {"shape": "rectangle", "center": [3, 4.5], "height": 5, "width": 8},
    {"shape": "disk", "center": [0, 23], "outer": 1.5},  # from nothing, at a corner
    {"shape": "disk", "center": [9.5, 12.0], "outer": 60.0},  # all pixels
]


def swept(cube, asked):
    return np.asarray(gpu4d.sweep(cube, gpu4d.VirtualImage(detector_from(asked)), device="cpu"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
def test_a_drag_gives_the_images_of_sweeps_to_the_last_bit(counts, dtype):
    cube = gpu4d.DataCube(counts.source.array.astype(dtype))
    view = view_of(cube)
    for asked in [*DRAG, *reversed(DRAG)]:
        image, exact = view.virtual_image(detector_from(asked), exact=False)
        assert exact and image.dtype == np.float64
        assert np.array_equal(image, swept(cube, asked))


def test_masked_pixels_do_not_count(counts):
    mask = np.random.default_rng(1).random(counts.detector_shape) > 0.2
    cube = gpu4d.DataCube(counts.source.array, detector_mask=mask)
    view = view_of(cube)
    for asked in DRAG:
        assert np.array_equal(view.virtual_image(detector_from(asked))[0], swept(cube, asked))
    assert np.isnan(view.pattern(1, 2)[~mask]).all() and np.isnan(view.mean[~mask]).all()


def test_the_calibrated_ellipse_stretches_detectors(counts):
    cube = gpu4d.DataCube(counts.source.array, gpu4d.Calibration(ellipse=(1.4, 1.0, 0.5)))
    view = view_of(cube)
    asked = DRAG[0]
    assert np.array_equal(view.virtual_image(detector_from(asked))[0], swept(cube, asked))
    assert not np.array_equal(view.virtual_image(detector_from(asked))[0], swept(counts, asked))


def test_floats_are_summed_while_dragging_and_swept_at_rest(counts):
    values = counts.source.array.astype("float32")
    values[2, 3, 9, 12] = np.nan
    cube = gpu4d.DataCube(values)
    view = view_of(cube)
    rough, exact = view.virtual_image(detector_from(DRAG[0]), exact=False)
    assert not exact and np.isnan(rough[2, 3]) and np.isfinite(rough).sum() == rough.size - 1
    fine, exact = view.virtual_image(detector_from(DRAG[0]))
    assert exact and np.array_equal(fine, swept(cube, DRAG[0]), equal_nan=True)
    np.testing.assert_allclose(rough, fine, rtol=1e-12)


def test_a_scan_that_does_not_fit_is_binned_while_dragging(counts):
    view = view_of(counts, memory=counts.nbytes // 4)
    assert view.images.bin > 1 and not view.images.exact and "binned" in view.notes[0]
    asked = {"shape": "rectangle", "center": [7.5, 7.5], "height": 8, "width": 8}  # pixels 4 to 11: whole binned pixels of 2 and of 4
    rough, exact = view.virtual_image(detector_from(asked), exact=False)
    assert not exact and np.array_equal(rough, swept(counts, asked))
    fine, exact = view.virtual_image(detector_from(DRAG[0]))
    assert exact and np.array_equal(fine, swept(counts, DRAG[0]))
    tiny = {"shape": "disk", "center": [1.4, 1.4], "outer": 0.4}
    assert view.virtual_image(detector_from(tiny), exact=False)[0].min() > 0  # the nearest binned pixel, not nothing


def test_binned_detectors_have_the_same_place():
    found = scaled(gpu4d.detectors.disk(6.0, (3.5, 7.5)), 4)
    assert found.center == (0.5, 1.5) and found.parameters == (1.5,)


def test_the_bin_grows_until_all_patterns_fit():
    cube = gpu4d.DataCube(np.zeros((4, 4, 32, 32), "uint16"))
    assert bin_that_fits(cube, cube.nbytes) == 1
    for memory in (cube.nbytes // 2, cube.nbytes // 20, 1):
        bin = bin_that_fits(cube, memory)
        assert bin > 1 and (bin == 32 or cube.bin(detector=bin).nbytes <= memory < cube.bin(detector=bin // 2).nbytes)


def test_images_of_pixels_on_their_own_sum_any_pixels():
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 65536, (200, 3, 7)).astype("uint16")
    images = PixelImages(stack, (10, 20))
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        inside = rng.random((10, 20)) < share
        assert np.array_equal(images.sum_inside(inside), stack[inside.ravel()].sum(axis=0, dtype=np.int64))


@pytest.mark.parametrize(
    "asked",
    [None, 3, {}, {"shape": "star"}, {"shape": "disk", "center": [1, 2], "outer": -1}, {"shape": "disk", "center": [1], "outer": 2},
     {"shape": "annulus", "center": [1, 2], "inner": 5, "outer": 2}, {"shape": "rectangle", "center": ["a", 2], "height": 1, "width": 1}],
)  # fmt: skip
def test_detectors_that_are_none_are_refused_in_one_line(asked):
    with pytest.raises(InputError) as error:
        detector_from(asked)
    assert "\n" not in str(error.value)


def test_a_scan_without_patterns_is_refused():
    with pytest.raises(InputError, match="no patterns"):
        view_of(gpu4d.DataCube(np.zeros((0, 3, 4, 4), "uint8")))
    with pytest.raises(InputError, match="need a DataCube"):
        view_of(np.zeros((2, 3, 4, 4)))  # type: ignore[arg-type]
