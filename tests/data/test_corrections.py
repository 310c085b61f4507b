"""Cubes whose patterns are corrected as they are read: by pattern, in views, in files, and what is refused."""

import tracemalloc

import h5py
import numpy as np
import pytest
from contracts.toy_correction import Dark

import gpu4d
from gpu4d.data import BadPixelCorrection
from gpu4d.data.views import CorrectedSource
from gpu4d.errors import InputError
from gpu4d.preprocess import BadPixels, fill_from_neighbours, find_bad_pixels

SHAPE = (5, 6, 16, 12)


def counts(dtype="uint16"):
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)


def bad_mask(share=0.1):
    return np.random.default_rng(1).random(SHAPE[2:]) < share


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_a_bad_pixel_takes_the_value_of_a_nearest_good_one(dtype):
    """Against all distances: the pixel it is taken from is good, and no good pixel is nearer. Good pixels and the dtype stay."""
    bad = bad_mask(0.3)
    correction = BadPixelCorrection(bad)
    places = np.argwhere(~bad)
    for x, y in np.argwhere(bad):
        nearest = np.divmod(correction.taken_from[x, y], SHAPE[3])
        distance = np.hypot(*(places - (x, y)).T)
        assert not bad[nearest] and np.hypot(nearest[0] - x, nearest[1] - y) == distance.min()
    found = gpu4d.DataCube(counts(dtype)).corrected(bad_pixels=bad).load().source.array
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[:, :, ~bad], counts(dtype)[:, :, ~bad])
    np.testing.assert_array_equal(found.reshape(5, 6, -1), counts(dtype).reshape(5, 6, -1)[:, :, correction.taken_from.ravel()])


def test_the_rule_is_that_of_fill_from_neighbours():
    found = gpu4d.DataCube(counts()).corrected(bad_pixels=bad_mask()).load().source.array
    np.testing.assert_array_equal(found, fill_from_neighbours(counts(), ~bad_mask()))


def test_one_pattern_and_the_description():
    cube = gpu4d.DataCube(counts(), gpu4d.Calibration(q_pixel=0.02), name="scan")
    clean = cube.corrected(bad_pixels=bad_mask())
    np.testing.assert_array_equal(np.asarray(clean[3, 4]), fill_from_neighbours(counts()[3, 4], ~bad_mask()))
    said = f"{bad_mask().sum()} bad pixels replaced"
    assert clean.corrections.description == said and said in repr(clean) and said in clean.source.description
    assert clean.calibration.q_pixel == 0.02 and clean.calibration is not cube.calibration
    assert not cube.corrections and cube.corrected() is cube
    assert not clean.load().corrections, "what is loaded is corrected already"


def test_what_a_search_found_can_be_given_as_it_is():
    """Hot and dead pixels of a mean pattern, among neighbours that are alike."""
    data = np.random.default_rng(2).poisson(50.0, SHAPE).astype("uint16")
    data[..., 4, 5], data[..., 9, 3] = 60000, 0
    cube = gpu4d.DataCube(data)
    found = find_bad_pixels(gpu4d.sweep(cube, gpu4d.MeanPattern()), patterns=30)
    assert np.argwhere(~found.mask).tolist() == [[4, 5], [9, 3]]
    clean = cube.corrected(bad_pixels=found)
    np.testing.assert_array_equal(clean.load().source.array, fill_from_neighbours(data, found.mask))


def test_pixels_without_a_value_give_none():
    """The nearest pixel lies behind the beam stop, the next one does not."""
    data = np.array([10, 0, 77, 40], "uint8").reshape(1, 1, 1, 4)
    bad, valid = np.array([[False, False, True, False]]), np.array([[True, False, True, True]])
    cube = gpu4d.DataCube(data, detector_mask=valid).corrected(bad_pixels=bad)
    assert cube.source.read(slice(0, 1), slice(0, 1)).ravel().tolist() == [10, 0, 40, 40]
    np.testing.assert_array_equal(cube.detector_mask, valid)


def test_nan_is_copied_and_harms_no_other_pattern():
    data = counts("float32")
    data[1, 2] = np.nan
    found = gpu4d.DataCube(data).corrected(bad_pixels=bad_mask()).load().source.array
    assert np.isnan(found[1, 2]).all() and np.isfinite(found).sum() == data.size - data[0, 0].size


VIEWS = {
    "scan": lambda cube: cube.crop(rx=(1, 4), ry=(2, 6)),
    "detector": lambda cube: cube.crop(qx=(2, 14), qy=(1, 9)),
    "swapped": lambda cube: cube.swap_axes(detector=True),
    "both": lambda cube: cube.swap_axes(detector=True, scan=True).crop(qx=(0, 7)),
    "binned": lambda cube: cube.bin(detector=3, scan=2),
    "binned and cropped": lambda cube: cube.bin(detector=2).crop(qx=(1, 6)),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("share", [0.05, 0.7])
def test_views_are_those_of_corrected_patterns(view, share):
    corrected = gpu4d.DataCube(fill_from_neighbours(counts(), ~bad_mask(share)))
    found, expected = VIEWS[view](gpu4d.DataCube(counts()).corrected(bad_pixels=bad_mask(share))), VIEWS[view](corrected)
    assert found.shape == expected.shape and found.dtype == expected.dtype and "bad pixel" in found.corrections.description
    np.testing.assert_array_equal(found.load().source.array, expected.load().source.array)


def test_corrections_stay_on_top_where_cropped_patterns_suffice():
    """Then a sweep moves raw patterns; a nearest pixel outside of the crop, and binning, need whole corrected ones."""
    bad = np.zeros(SHAPE[2:], bool)
    bad[8, 5] = True
    clean = gpu4d.DataCube(counts()).corrected(bad_pixels=bad)
    assert isinstance(clean.crop(qx=(6, 11)).source, CorrectedSource)
    assert isinstance(clean.swap_axes(detector=True, scan=True).source, CorrectedSource)
    alone = clean.crop(qx=(8, 9), qy=(5, 6))
    assert not isinstance(alone.source, CorrectedSource) and alone.corrections
    assert alone[1, 1][0, 0] == fill_from_neighbours(counts()[1, 1], ~bad)[8, 5]
    assert not isinstance(clean.bin(detector=2).source, CorrectedSource)


def test_a_file_stays_as_it_is_and_a_saved_cube_is_corrected(tmp_path):
    np.save(tmp_path / "scan.npy", counts())
    before = (tmp_path / "scan.npy").read_bytes()
    clean = gpu4d.open(tmp_path / "scan.npy").corrected(bad_pixels=bad_mask())
    gpu4d.save(tmp_path / "clean.h5", {"cube": clean})
    again = gpu4d.open(tmp_path / "clean.h5")
    np.testing.assert_array_equal(again.load().source.array, fill_from_neighbours(counts(), ~bad_mask()))
    with h5py.File(tmp_path / "clean.h5") as file:
        applied = file["gpu4d/cube/metadatabundle/corrections/applied"].asstr()[()]
    assert applied == f"{bad_mask().sum()} bad pixels replaced"
    assert again.dtype == np.uint16 and (tmp_path / "scan.npy").read_bytes() == before


def test_disks_of_some_positions_are_those_of_corrected_patterns():
    scan = gpu4d.simulate.bragg_scan((3, 3), (64, 64), seed=1)
    data = np.asarray(scan.cube.source.array).copy()
    bad = np.zeros((64, 64), bool)
    bad[20, 31] = bad[40, 17] = True
    hot = np.where(bad, data.max() * 4, data)
    expected = gpu4d.find_bragg_disks(gpu4d.DataCube(fill_from_neighbours(hot, ~bad)), scan.probe, positions=[(0, 1), (2, 2)])
    found = gpu4d.find_bragg_disks(gpu4d.DataCube(hot).corrected(bad_pixels=bad), scan.probe, positions=[(0, 1), (2, 2)])
    assert len(expected.flat("qx")) > 4
    for field in ("qx", "qy", "intensity"):
        np.testing.assert_array_equal(found.flat(field), expected.flat(field))


def test_what_is_refused_says_what_to_do():
    cube = gpu4d.DataCube(counts())
    with pytest.raises(InputError, match=r"bad_pixels is \(3, 3\), the detector is \(16, 12\): need one bool per detector pixel"):
        cube.corrected(bad_pixels=np.zeros((3, 3), bool))
    with pytest.raises(
        InputError, match=r"is for a detector of \(16, 12\), the patterns are \(8, 6\): correct first, then crop, bin or swap"
    ):
        cube.bin(detector=2).corrected(BadPixelCorrection(bad_mask()))
    with pytest.raises(InputError, match=r"marks 192 of 192 pixels: True marks a bad pixel, so invert"):
        cube.corrected(bad_pixels=np.ones(SHAPE[2:], bool))
    with pytest.raises(InputError, match="no good pixel"):
        gpu4d.DataCube(counts(), detector_mask=bad_mask()).corrected(bad_pixels=bad_mask())
    with pytest.raises(InputError, match=r"ndarray is no correction: give bad_pixels=mask"):
        cube.corrected(bad_mask())
    with pytest.raises(InputError, match=r"need a mask \(Qx, Qy\) bool"):
        BadPixelCorrection(np.zeros(12))


def test_a_mask_that_is_changed_later_changes_nothing():
    bad = bad_mask()
    clean = gpu4d.DataCube(counts()).corrected(bad_pixels=bad)
    bad[...] = False
    np.testing.assert_array_equal(clean.load().source.array, fill_from_neighbours(counts(), ~bad_mask()))


def test_hot_and_dead_are_both_bad():
    hot, dead = np.eye(16, 12) > 0, np.zeros((16, 12), bool)
    dead[0, 5] = True
    clean = gpu4d.DataCube(counts()).corrected(bad_pixels=BadPixels(hot, dead))
    assert clean.corrections.description == "13 bad pixels replaced"


def test_corrections_above_and_below_a_view_are_named_in_the_order_in_which_they_are_made():
    """The dark image is subtracted first, then pixels are binned, then bad ones among the binned are replaced."""
    dark = np.random.default_rng(3).normal(1.0, 0.2, SHAPE[2:]).astype(np.float32)
    bad = np.random.default_rng(4).random((SHAPE[2] // 2, SHAPE[3] // 2)) < 0.1
    first, last = Dark(dark), BadPixelCorrection(bad)
    cube = gpu4d.DataCube(counts()).corrected(first).bin(detector=2).corrected(last)
    assert cube.corrections.steps == (first, last)
    assert cube.corrections.description == f"dark image subtracted, {last.description}"
    binned = (counts().astype(np.float32) - dark).reshape(5, 6, 8, 2, 6, 2).sum((3, 5), dtype=np.float64)
    np.testing.assert_allclose(cube.load().source.array, fill_from_neighbours(binned, ~bad), rtol=1e-5)


def test_a_corrected_source_says_what_a_reader_holds():
    """Raw patterns, and the work of correcting them, beside the buffer that is filled."""
    data = np.random.default_rng(0).integers(0, 200, (24, 24, 64, 64)).astype(">u2")  # not native, so that reading copies
    dark = np.full((64, 64), 3.0, np.float32)
    source = gpu4d.DataCube(data).corrected(Dark(dark)).source
    buffer = np.zeros(source.shape, source.dtype)
    tracemalloc.start()
    source.read(slice(0, 24), slice(0, 24), buffer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(buffer, data.astype(np.float32) - dark)
    assert data.nbytes < peak <= source.scratch_bytes + 300_000
    assert source.scratch_bytes <= 1.6 * peak, "planned for far more than is held"
