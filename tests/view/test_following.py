"""A detector that follows the unscattered beam, on a scan with descan, against sums around each position's own origin in float64."""

import numpy as np
import pytest
from moved_detectors import own_origins, summed_around

import gpu4d
from gpu4d.view import detector_from, view_of
from gpu4d.view.answers import Answers
from gpu4d.view.following import moves_enough

DRAG = [
    {"shape": "disk", "center": [19.5, 21.0], "outer": 4.3},
    {"shape": "disk", "center": [20.5, 21.0], "outer": 4.3},
    {"shape": "disk", "center": [8.5, 21.0], "outer": 1.2},  # smaller than the way of the beam: no pixel is always inside
    {"shape": "annulus", "center": [19.5, 21.5], "inner": 6.2, "outer": 15.5},
    {"shape": "annulus", "center": [19.5, 21.5], "inner": 1.0, "outer": 30.0},
    {"shape": "rectangle", "center": [12, 30.5], "height": 9, "width": 14},
    {"shape": "disk", "center": [0, 43], "outer": 5.0},  # at a corner, where it leaves the detector
]


@pytest.mark.parametrize("ellipse", [None, (1.15, 1.0, 0.6)], ids=["round", "ellipse"])
@pytest.mark.parametrize("masked", [False, True], ids=["all pixels", "mask"])
def test_a_detector_that_follows_takes_the_same_as_sums_around_each_origin(descanned, ellipse, masked):
    calibration = gpu4d.Calibration(origin=descanned.calibration.origin, ellipse=ellipse)
    mask = np.random.default_rng(1).random(descanned.detector_shape) > 0.1 if masked else None
    cube = gpu4d.DataCube(descanned.source.array, calibration, detector_mask=mask)
    view = view_of(cube)
    for asked in [*DRAG, *reversed(DRAG)]:
        image, exact = view.virtual_image(detector_from(asked), exact=False, follow=True)
        expected = summed_around(cube, own_origins(cube, asked), asked)
        assert exact and np.array_equal(image, expected)
        assert not np.array_equal(image, view.virtual_image(detector_from(asked))[0]), "a detector at rest takes something else"


def test_the_exact_image_is_that_of_a_sweep_where_pixels_do_not_fit(descanned):
    view = view_of(descanned, memory=descanned.nbytes // 4)
    assert view.images.bin > 1
    for asked in DRAG:
        rough, exact = view.virtual_image(detector_from(asked), exact=False, follow=True)
        assert not exact and rough.shape == descanned.scan_shape
        fine, exact = view.virtual_image(detector_from(asked), follow=True)
        assert exact and np.array_equal(fine, summed_around(descanned, own_origins(descanned, asked), asked))
    asked = DRAG[3]  # large beside binned pixels: the image of the drag is that at rest but for pixels on its edge
    rough = view.virtual_image(detector_from(asked), exact=False, follow=True)[0]
    fine = view.virtual_image(detector_from(asked), follow=True)[0]
    assert np.abs(rough / fine - 1).max() < 0.35


def test_a_detector_between_binned_pixels_still_shows_something(descanned):
    view = view_of(descanned, memory=descanned.nbytes // 4)
    tiny = {"shape": "disk", "center": [19.4, 21.4], "outer": 0.4}
    assert view.virtual_image(detector_from(tiny), exact=False, follow=True)[0].min() > 0


def test_floats_are_summed_around_each_origin(descanned):
    cube = gpu4d.DataCube(descanned.source.array.astype("float32") / 3, descanned.calibration)
    view = view_of(cube)
    for asked in DRAG:
        rough, exact = view.virtual_image(detector_from(asked), exact=False, follow=True)
        assert not exact
        np.testing.assert_allclose(rough, summed_around(cube, own_origins(cube, asked), asked), rtol=1e-6)


def test_positions_without_an_origin_have_no_value(descanned):
    origin = np.array(descanned.calibration.origin)
    origin[2, 3] = np.nan
    cube = gpu4d.DataCube(descanned.source.array, gpu4d.Calibration(origin=origin))
    view = view_of(cube)
    image = view.virtual_image(detector_from(DRAG[0]), follow=True)[0]
    assert np.isnan(image[2, 3]) and np.isfinite(image).sum() == image.size - 1
    assert view.origin_at(2, 3) is None and "origin" not in view.drawn_at(2, 3)
    assert view.about()["follow"] is True


def test_a_page_is_told_whether_to_follow(descanned, counts):
    assert view_of(descanned).about()["follow"] is True
    still = gpu4d.DataCube(counts.source.array, gpu4d.Calibration(origin=np.full((9, 11, 2), 9.5)))
    assert view_of(still).about()["follow"] is False, "a map of one place"
    assert view_of(counts).about()["follow"] is None, "no map"
    assert moves_enough(np.linspace(-0.3, 0.3, 24).reshape(3, 4, 2)) and not moves_enough(np.linspace(-0.2, 0.2, 24).reshape(3, 4, 2))
    assert not moves_enough(np.full((2, 2, 2), np.nan))
    without = view_of(counts).virtual_image(detector_from(DRAG[0]), follow=True)[0]
    assert np.array_equal(without, view_of(counts).virtual_image(detector_from(DRAG[0]))[0]), "nothing to follow"


def test_a_request_says_whether_to_follow(descanned):
    answers = Answers(view_of(descanned))
    ask = {"ask": "image", "detector": DRAG[0], "exact": True}
    at_rest, follows = (answers.answer({**ask, "follow": follow})[1] for follow in (False, True))
    assert np.array_equal(follows, summed_around(descanned, own_origins(descanned, DRAG[0]), DRAG[0]))
    assert not np.array_equal(at_rest, follows)
