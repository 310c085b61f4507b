"""Centre of mass: the operation, its twin, and the reduction through a sweep."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.imaging.first_moments import first_moments
from gpu4d.simulate import bragg_scan
from gpu4d.streaming.reduction import ScanInfo


def by_hand(pattern) -> list[float]:
    """The definition in Python's exact integers (or floats), one division at the end."""
    total = mx = my = 0
    for x, row in enumerate(pattern.tolist()):
        for y, value in enumerate(row):
            total, mx, my = total + value, mx + x * value, my + y * value
    return [mx / total, my / total]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64"])
@pytest.mark.parametrize("kind", ["definition", "cpu"])
def test_counts_are_summed_exactly(dtype, kind):
    top = min(np.iinfo(dtype).max, 2**40)
    patterns = np.random.default_rng(0).integers(0, top, (3, 17, 29), dtype=dtype, endpoint=True)
    with gpu4d.using(kind):
        found = gpu4d.center_of_mass(patterns)
    assert found.dtype == np.float64
    assert found.tolist() == [by_hand(p) for p in patterns]


def test_the_largest_counts_of_a_large_detector_do_not_overflow():
    patterns = np.full((1, 512, 512), 2**32 - 1, dtype="uint32")
    assert first_moments(patterns)[0, 0] == (2**32 - 1) * 512**2
    assert gpu4d.center_of_mass(patterns).tolist() == [[255.5, 255.5]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_agree_with_the_definition(dtype):
    patterns = np.random.default_rng(1).random((4, 33, 20)).astype(dtype)
    expected = [by_hand(p) for p in patterns.astype(float)]
    np.testing.assert_allclose(gpu4d.center_of_mass(patterns), expected, rtol=1e-13)


@pytest.mark.parametrize("kind", ["definition", "cpu"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_pattern_gives_nan_and_spares_its_neighbours(kind, bad):
    patterns = np.random.default_rng(2).random((4, 8, 8)).astype("float32")
    patterns[1, 0, 0] = bad
    patterns[2] = 0
    patterns[3] *= -1
    with gpu4d.using(kind):
        found = gpu4d.center_of_mass(patterns)
    assert np.isnan(found[1:]).all()
    np.testing.assert_allclose(found[0], by_hand(patterns[0].astype(float)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["definition", "cpu"])
def test_masked_pixels_are_not_looked_at(kind):
    patterns = np.random.default_rng(3).random((2, 3, 9, 7))
    mask = np.random.default_rng(4).random((9, 7)) > 0.3
    expected = gpu4d.center_of_mass(np.where(mask, patterns, 0.0))
    patterns[..., ~mask] = np.nan
    with gpu4d.using(kind):
        np.testing.assert_allclose(gpu4d.center_of_mass(patterns, mask), expected, rtol=1e-13)
        np.testing.assert_allclose(gpu4d.center_of_mass(patterns, mask=mask), expected, rtol=1e-13)


def test_views_of_a_crop_are_taken_as_they_are():
    base = np.random.default_rng(5).integers(0, 99, (6, 20, 24), dtype="uint16")
    assert gpu4d.center_of_mass(base[::2, 3:15, 5:21]).tolist() == [by_hand(p) for p in base[::2, 3:15, 5:21]]


def test_other_byte_orders_and_half_precision_take_the_definition():
    patterns = np.random.default_rng(6).integers(0, 99, (2, 5, 6), dtype="uint16")
    assert np.array_equal(gpu4d.center_of_mass(patterns.astype(">u2")), gpu4d.center_of_mass(patterns))
    assert np.array_equal(gpu4d.center_of_mass(patterns.astype("float16")), gpu4d.center_of_mass(patterns))


def test_no_patterns_give_no_positions():
    assert gpu4d.center_of_mass(np.zeros((0, 4, 4), "uint8")).shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((np.zeros(4),), "need \\(..., Qx, Qy\\)"), ((np.zeros((2, 4, 4)), np.ones((3, 4), bool)), "one bool per detector pixel")],
)
def test_wrong_shapes_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        gpu4d.center_of_mass(*arguments)


# ---------------------------------------------------------------- the reduction


@pytest.fixture(scope="module")
def scan():
    return bragg_scan((7, 9), (40, 48), radius=4.0, spacing=14.0, reach=1.1, seed=3)


def test_a_sweep_gives_the_operation_at_every_position(scan):
    com = gpu4d.sweep(scan.cube, gpu4d.CenterOfMass())
    assert com.labels == ("com_x", "com_y")
    assert com.units == "px"
    assert (com.pixel_size, com.pixel_units) == (20.0, "Å")
    expected = [by_hand(p) for p in scan.cube.source.array.reshape(-1, 40, 48)]
    assert np.moveaxis(np.asarray(com), 0, -1).reshape(-1, 2).tolist() == expected


def test_detector_and_detector_mask_are_honoured(scan):
    patterns = scan.cube.source.array.copy()
    valid = np.ones((40, 48), bool)
    valid[10:14] = False
    patterns[:, :, ~valid] = 65535
    cube = gpu4d.DataCube(patterns, gpu4d.Calibration(origin=(20.0, 24.0)), detector_mask=valid)
    disk = gpu4d.detectors.disk(12.0)
    com = gpu4d.sweep(cube, gpu4d.CenterOfMass(disk))
    expected = gpu4d.center_of_mass(patterns, valid & disk.mask((40, 48), (20.0, 24.0)))
    assert np.array_equal(np.moveaxis(np.asarray(com), 0, -1), expected)


def test_relative_to_the_origin_of_every_position(scan):
    cube = gpu4d.DataCube(scan.cube.source.array, gpu4d.Calibration(origin=scan.truth["origin"]))
    raw, relative = (np.asarray(gpu4d.sweep(cube, gpu4d.CenterOfMass(relative_to_origin=r))) for r in (False, True))
    np.testing.assert_allclose(relative, raw - np.moveaxis(scan.truth["origin"], -1, 0), atol=1e-12)
    with pytest.raises(InputError, match="origin is not known"):
        gpu4d.sweep(scan.cube, gpu4d.CenterOfMass(relative_to_origin=True))


def test_positions_not_visited_are_nan(scan):
    where = np.zeros((7, 9), bool)
    where[2, 3:6] = True
    reduction = gpu4d.CenterOfMass()
    com = np.asarray(gpu4d.sweep(scan.cube, reduction, where=where))
    assert np.array_equal(np.isfinite(com), np.broadcast_to(where, (2, 7, 9)))
    total = np.asarray(reduction.total())
    assert np.array_equal(total[where], scan.cube.source.array.sum((2, 3))[where])
    assert np.isnan(total[~where]).all()


def started(scan) -> gpu4d.CenterOfMass:
    reduction = gpu4d.CenterOfMass()
    reduction.start(ScanInfo(scan.cube.shape, scan.cube.dtype, scan.cube.calibration, block_rows=(0, 4, 7)), None)
    return reduction


def feed(reduction, scan, rows) -> None:
    for rx in rows:
        reduction.update(scan.cube.source.array[rx], np.stack([np.full(9, rx), np.arange(9)], -1))


def test_workers_merge_and_a_checkpoint_resumes(scan):
    whole, first, second = (started(scan) for _ in range(3))
    feed(whole, scan, range(7))
    feed(first, scan, range(4))
    feed(second, scan, range(4, 7))
    resumed = started(scan)
    resumed.restore(first.state())
    resumed.merge(second.state())
    assert np.array_equal(np.asarray(resumed.finish()), np.asarray(whole.finish()))
    assert np.isnan(np.asarray(first.finish())[:, 4:]).all()


def test_an_empty_pattern_is_seen_and_has_no_centre(scan):
    reduction = started(scan)
    reduction.update(np.zeros((1, 40, 48), "uint16"), np.array([[2, 2]]))
    assert np.isnan(np.asarray(reduction.finish())[:, 2, 2]).all()
    assert reduction.total()[2, 2] == 0


@pytest.mark.parametrize("device", [None, "device1"])
def test_results_stay_in_the_library_of_the_frames(scan, device):
    xp = pytest.importorskip("array_api_strict")
    frames = xp.asarray(scan.cube.source.array, device=xp.Device(device) if device else None)
    com = gpu4d.sweep(gpu4d.DataCube(frames), gpu4d.CenterOfMass())
    assert type(com.data) is type(frames)
    assert com.data.device == frames.device
    expected = gpu4d.sweep(gpu4d.DataCube(scan.cube.source.array), gpu4d.CenterOfMass())
    assert np.array_equal(np.asarray(com), np.asarray(expected))


@pytest.mark.parametrize("shape", [(3, 0, 8), (3, 8, 0), (0, 8, 8), (2, 0, 0)])
@pytest.mark.parametrize("way", ["definition", "cpu"])
def test_patterns_without_pixels_have_no_centre(shape, way):
    with gpu4d.using(way):
        found = gpu4d.center_of_mass(np.zeros(shape, "uint16"))
    assert found.shape == (shape[0], 2) and np.isnan(found).all()
