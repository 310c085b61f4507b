"""Virtual detectors and images against plain NumPy."""

import numpy as np
import pytest

import gpu4d
from gpu4d import detectors
from gpu4d.errors import InputError
from gpu4d.imaging.masked_sums import annular_sums
from gpu4d.imaging.shifted_patterns import shifted_patterns

RNG = np.random.default_rng(0)
DATA = RNG.poisson(5.0, (4, 5, 20, 23)).astype("uint16")


def distance(center, shape=(20, 23)):
    return np.hypot(np.arange(shape[0])[:, None] - center[0], np.arange(shape[1])[None, :] - center[1])


def test_shapes_are_open_sets():
    """r² < R² and ri² < r² < ro², as py4DSTEM counts."""
    r = distance((10, 11))
    np.testing.assert_array_equal(detectors.disk(5.0, (10, 11)).mask((20, 23)), r < 5)
    np.testing.assert_array_equal(detectors.annulus(3.0, 5.0, (10, 11)).mask((20, 23)), (r > 3) & (r < 5))
    assert detectors.rectangle(4, 6, (10, 11)).mask((20, 23)).sum() == 3 * 5
    assert np.argwhere(detectors.point((3.2, 7.9)).mask((20, 23))).tolist() == [[3, 8]]


def test_segments_turn_by_radians():
    for degrees in (30.0, float("nan")):
        with pytest.raises(InputError, match=r"rotation is .* radians"):
            detectors.segmented(2.0, 8.0, 4, degrees)


def test_segments_tile_the_annulus():
    for segments, rotation in ((1, 0.0), (3, 0.2), (4, -1.0), (8, 3.0)):
        parts = np.array([d.mask((20, 23), (9.7, 11.2)) for d in detectors.segmented(2.0, 8.0, segments, rotation)])
        np.testing.assert_array_equal(parts.sum(0), detectors.annulus(2.0, 8.0).mask((20, 23), (9.7, 11.2)))
    first = detectors.segmented(0.0, 8.0, 4)[0].mask((20, 23), (9.5, 11.5))
    x, y = np.argwhere(first).T
    assert (x > 9).all() and (y > 11).all(), "the first sector lies from +qx towards +qy"


def test_image_is_the_sum_under_the_mask():
    mask = RNG.random((20, 23)) > 0.4
    image = gpu4d.virtual_image(gpu4d.DataCube(DATA), mask)
    np.testing.assert_array_equal(image, DATA[:, :, mask].sum(-1))
    weights = RNG.normal(size=(20, 23))
    np.testing.assert_allclose(gpu4d.virtual_image(gpu4d.DataCube(DATA), weights), (DATA * weights).sum((2, 3)), rtol=1e-12)


def test_geometry_follows_each_origin():
    origin = np.stack(np.meshgrid(np.linspace(8, 12, 4), np.linspace(9, 13, 5), indexing="ij"), -1)
    spots = np.array([[5.0, 0.0], [-4.0, 3.0]])
    wanted = {
        "bf": detectors.disk(4.0),
        "adf": detectors.annulus(4.0, 7.5),
        "dark": detectors.bragg_spots(spots, 2.5),
        "fixed": detectors.disk(3.0, (10.0, 10.0)),
    }
    image = gpu4d.virtual_image(gpu4d.DataCube(DATA), wanted, origin)
    assert image.labels == tuple(wanted) and image.shape == (4, 4, 5)
    for rx in range(4):
        for ry in range(5):
            r, frame = distance(origin[rx, ry]), DATA[rx, ry]
            near = np.zeros((20, 23), bool)
            for s in spots:
                near |= distance(origin[rx, ry] + s) < 2.5
            want = frame[r < 4].sum(), frame[(r > 4) & (r < 7.5)].sum(), frame[near].sum(), frame[distance((10, 10)) < 3].sum()
            assert tuple(np.asarray(image)[:, rx, ry]) == want
    calibrated = gpu4d.DataCube(DATA, gpu4d.Calibration(origin=origin))
    np.testing.assert_array_equal(gpu4d.virtual_image(calibrated, wanted), image)


def test_circles_follow_the_calibrated_ellipse():
    """A circle on the true plane is an ellipse on the detector, about one origin and about one of each position."""
    ellipse, origin = (1.2, 1.0, 0.4), (9.6, 11.2)
    places = np.stack(np.broadcast_arrays(np.arange(20)[:, None] - origin[0], np.arange(23)[None, :] - origin[1]), -1)
    r = np.linalg.norm(places @ gpu4d.calibrate.ellipse_matrix(ellipse).T, axis=-1)
    rings = {"bf": detectors.disk(4.0), "adf": detectors.annulus(4.0, 7.0)}
    expected = np.stack([DATA[..., r < 4].sum(-1), DATA[..., (r > 4) & (r < 7)].sum(-1)])
    moving = np.broadcast_to(np.array(origin), (4, 5, 2))
    for calibrated in (origin, moving):
        cube = gpu4d.DataCube(DATA, calibration=gpu4d.Calibration(origin=calibrated, ellipse=ellipse))
        np.testing.assert_array_equal(np.asarray(gpu4d.virtual_image(cube, rings)), expected)
        plain = np.asarray(gpu4d.virtual_image(cube, detectors.disk(4.0), ellipse=(1, 1, 0)))
        np.testing.assert_array_equal(plain, DATA[..., distance(origin) < 4].sum(-1))
    sectors = [d.mask((20, 23), origin, ellipse) for d in detectors.segmented(2.0, 7.0, 4)]
    np.testing.assert_array_equal(np.sum(sectors, axis=0) > 0, (r > 2) & (r < 7))
    spot = detectors.bragg_spots([[3.0, 2.0]], 2.0)  # a place on the detector as it is
    np.testing.assert_array_equal(spot.mask((20, 23), origin, ellipse), spot.mask((20, 23), origin))
    with pytest.raises(InputError, match="a ≥ b"):
        gpu4d.VirtualImage(detectors.disk(3.0), ellipse=(1.0, 2.0, 0.0))


def test_unknown_origin_of_one_position_is_nan_there():
    origin = np.full((4, 5, 2), 10.0)
    origin[1, 2] = np.nan
    image = np.asarray(gpu4d.virtual_image(gpu4d.DataCube(DATA), [detectors.disk(3.0), detectors.rectangle(3, 3)], origin))
    assert np.isnan(image[:, 1, 2]).all() and np.isnan(image).sum() == 2


def test_nan_outside_the_detector_does_no_harm():
    data = DATA.astype("float32")
    data[0, 0, 0, 0] = np.nan
    inner, outer = np.asarray(gpu4d.virtual_image(gpu4d.DataCube(data), [detectors.disk(4.0), np.ones((20, 23), bool)]))
    assert np.isfinite(inner).all() and np.isnan(outer[0, 0]) and np.isnan(outer).sum() == 1


def test_slices_know_their_step():
    cube = gpu4d.DataCube(DATA, gpu4d.Calibration(r_pixel=2.5, q_pixel=0.01))
    image = gpu4d.virtual_image(cube, detectors.disk(4.0))
    assert (image.pixel_size, image.pixel_units, image.units) == (2.5, "Å", "counts")
    mean = gpu4d.sweep(cube, gpu4d.MeanPattern())
    assert (mean.pixel_size, mean.pixel_units) == (0.01, "1/Å")


def test_bad_detectors_say_what_is_accepted():
    cube = gpu4d.DataCube(DATA)
    for call, text in (
        (lambda: gpu4d.virtual_image(cube, np.ones((23, 20))), r"mask is \(23, 20\), the detector is \(20, 23\)"),
        (lambda: gpu4d.virtual_image(cube, "bf"), "detector is 'bf'"),
        (lambda: gpu4d.virtual_image(cube, []), "without a detector"),
        (lambda: detectors.annulus(5, 4), "0 ≤ inner < outer"),
        (lambda: detectors.disk(-1), "radius=-1"),
        (lambda: detectors.from_array(np.full((4, 4), np.nan)), "finite"),
    ):
        with pytest.raises(InputError, match=text):
            call()


def test_annular_sums_at_the_border():
    frames = DATA.reshape(-1, 20, 23)[:6]
    centers = np.array([[0.0, 0.0], [19.0, 22.0], [-3.0, 5.0], [10.2, 30.0], [np.nan, 3.0], [9.5, 11.0]])
    radii = np.array([[-1.0, 4.2], [2.0, 9.0], [0.0, 3.0]])
    mask = RNG.random((20, 23)) > 0.2
    with gpu4d.using("definition"):
        want = annular_sums(frames, centers, radii, mask=mask)
    np.testing.assert_array_equal(annular_sums(frames, centers, radii, mask=mask), want)
    assert np.isnan(want[4]).all() and np.isfinite(want[[0, 1, 2, 3, 5]]).all()


def test_shifts_move_features_and_keep_counts():
    spot = np.zeros((3, 20, 23))
    spot[:, 8, 9] = 4.0
    moved = shifted_patterns(spot, np.array([[2.0, -1.0], [0.25, 0.5], [-9.0, 30.0]]))
    assert moved[0, 10, 8] == 4.0 and moved.sum((1, 2)).tolist() == [4.0, 4.0, 4.0]
    x, y = np.indices((20, 23))
    np.testing.assert_allclose([(moved[1] * x).sum() / 4, (moved[1] * y).sum() / 4], (8.25, 9.5))


def test_mean_pattern_of_a_region():
    region = np.zeros((4, 5), bool)
    region[1, 2] = region[3, 4] = True
    mean = gpu4d.sweep(gpu4d.DataCube(DATA), gpu4d.MeanPattern(weights=region))
    np.testing.assert_allclose(mean, (DATA[1, 2].astype(float) + DATA[3, 4]) / 2)
    with pytest.raises(InputError, match=r"weights is \(5, 4\)"):
        gpu4d.sweep(gpu4d.DataCube(DATA), gpu4d.MeanPattern(weights=region.T))


def test_masked_pixels_do_not_smear_in_an_aligned_mean():
    """A hot masked pixel at one place of the detector: the aligned mean is that of the patterns that saw each pixel."""
    rng = np.random.default_rng(5)
    origin = 10 + rng.uniform(-2, 2, (4, 5, 2))
    truth = np.exp(-((np.indices((20, 23)) - 10) ** 2).sum(0) / 30)
    shifted = shifted_patterns(np.broadcast_to(truth, (20, 20, 23)), origin.reshape(-1, 2) - origin.mean((0, 1))).reshape(4, 5, 20, 23)
    mask = np.ones((20, 23), bool)
    mask[11, 9] = False
    hot = shifted.copy()
    hot[:, :, 11, 9] = 1e6
    cube = gpu4d.DataCube(hot, detector_mask=mask)
    mean = np.asarray(gpu4d.sweep(cube, gpu4d.MeanPattern(origin=origin)))
    plain = np.asarray(gpu4d.sweep(gpu4d.DataCube(shifted), gpu4d.MeanPattern(origin=origin)))
    assert np.isfinite(mean[4:16, 4:16]).all()
    np.testing.assert_allclose(mean[4:16, 4:16], plain[4:16, 4:16], atol=0.02)
