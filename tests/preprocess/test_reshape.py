"""Frames are cut into rows; a shape that is found is named, one that is not clear is refused with all that fit."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import gpu4d
from gpu4d import arrays
from gpu4d.data.fly_back import frame_numbers
from gpu4d.errors import InputError
from gpu4d.preprocess import ScanShapeWarning, reshape, scan_shapes


def image(shape, seed, kind="smooth"):
    """The sum of counts at each position of a specimen."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.normal(size=shape), 2.0)
    if kind == "particles":
        return 1 + 0.2 * (noise > 0)
    return 1 + 0.2 * noise / noise.std()


def counts(rows, seed):
    return np.random.default_rng(seed + 100).poisson(1e4 * np.clip(rows, 0, None)).ravel()


@pytest.mark.parametrize("kind", ["smooth", "particles"])
@pytest.mark.parametrize("shape", [(64, 64), (40, 80), (60, 48), (64, 50)])
def test_a_shape_is_found(kind, shape):
    found = scan_shapes(counts(image(shape, 1, kind), 1))
    assert found.clear and found.candidates[0].scan_shape == shape and not found.candidates[0].flyback
    assert "without a sign of fly-back" in found.why


@pytest.mark.parametrize("at", ["end", "start"])
@pytest.mark.parametrize("flyback", [1, 2, 5])
def test_fly_back_with_a_blanked_beam_is_found(flyback, at):
    rows, dark = image((48, 64), flyback), np.full((48, flyback), 0.05)
    found = scan_shapes(counts(np.concatenate([rows, dark] if at == "end" else [dark, rows], axis=1), flyback))
    best = found.candidates[0]
    assert found.clear and (best.scan_shape, best.flyback, best.flyback_at) == ((48, 64), flyback, at)
    assert best.period == 64 + flyback and "show fly-back" in found.why


def test_never_sure_and_wrong_where_the_fly_back_stands_out():
    """Shapes, specimens and fly-back at random: what is called clear is right. A beam that is swept back visibly counts as standing out."""
    rng, right = np.random.default_rng(0), 0
    for seed in range(60):
        shape = rng.choice([32, 40, 48, 64, 80, 100], 2)
        flyback = int(rng.choice([0, 0, 1, 2, 4]))
        rows = image(shape, seed, rng.choice(["smooth", "particles"]))
        frames = counts(np.concatenate([rows, np.full((shape[0], flyback), 0.3)], axis=1), seed)
        found = scan_shapes(frames)
        if found.clear:
            best = found.candidates[0]
            index = frame_numbers(len(frames), best.scan_shape, best.flyback, best.flyback_at, best.extra)
            np.testing.assert_array_equal(index, frame_numbers(len(frames), tuple(shape), flyback))
            right += 1
    assert right > 30


def test_all_factorings_are_listed_with_their_correlation():
    frames = counts(image((24, 40), 3), 3)
    found = scan_shapes(frames)
    listed = {s.scan_shape: s for s in found.candidates if not s.flyback and not any(s.extra)}
    assert set(listed) == {(960 // c, c) for c in range(2, 481) if 960 % c == 0}
    change = np.diff(frames.astype(float))
    usual = np.median(np.abs(change))
    change = np.clip(change, -8 * usual, 8 * usual)
    change -= change.mean()
    for columns in (40, 24, 60):
        a, b = change[:-columns], change[columns:]
        expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
        assert listed[960 // columns, columns].correlation == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        (np.random.default_rng(0).poisson(900, 4096), "rows do not resemble each other"),
        (np.full(4096, 7), "all alike"),
        (np.arange(7), "too few"),
        (np.zeros(0), "too few"),
        (np.full(100, np.nan), "all alike"),
        (np.tile(np.cos(np.arange(16) * np.pi / 8), 256), "repeat after"),
        (counts(image((48, 61), 2), 2), "no usual number"),
        (np.append(counts(image((48, 64), 2), 2), [9900, 10000, 9950]), "are no whole rows"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_shapes_that_fit(frames, says):
    found = scan_shapes(frames)
    assert not found.clear and says in found.why, found.why
    with pytest.raises(InputError, match=r"scan shape is not known.*Give scan_shape=") as error:
        reshape(np.asarray(frames, float)[:, None, None])
    if len(found.candidates) > 1:
        assert str(found.candidates[0]) in str(error.value) and str(found.candidates[1]) in str(error.value)


def test_a_lattice_that_repeats_within_a_row_is_not_taken_for_rows():
    y = np.arange(64)
    rows = np.broadcast_to(2 + np.cos(2 * np.pi * y / 16), (64, 64)) + 0.3 * image((64, 64), 0)
    assert not scan_shapes(counts(rows, 0)).clear


def test_nan_frames_and_hot_frames_do_not_decide():
    frames = counts(image((64, 64), 5), 5).astype(float)
    frames[[5, 900, 2000]] = np.nan
    frames[[77, 1234]] = 1e9
    found = scan_shapes(frames)
    assert found.clear and found.candidates[0].scan_shape == (64, 64)


def test_the_warning_names_the_shape_and_the_others():
    sums = counts(image((48, 64), 7), 7).astype("uint32")
    frames = np.zeros((len(sums), 3, 2), "uint32")
    frames[:, 1, 1] = sums
    with pytest.warns(ScanShapeWarning, match=r"FOUND, not given: 48×64.*others that fit.*Give scan_shape="):
        found = reshape(frames)
    np.testing.assert_array_equal(found, frames.reshape(48, 64, 3, 2))
    assert np.shares_memory(found, frames)
    with pytest.warns(ScanShapeWarning):
        cube = reshape(gpu4d.DataCube(frames[None], gpu4d.Calibration(r_pixel=3.0)))
    assert cube.scan_shape == (48, 64) and cube.calibration.r_pixel == 3.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reshape(frames, (48, 64)).shape == (48, 64, 3, 2)


def test_the_mask_of_the_detector_counts_in_the_search():
    """A hot pixel that is masked would hide the rows."""
    sums, rng = counts(image((48, 64), 8), 8), np.random.default_rng(0)
    frames = np.stack([sums, rng.integers(0, 10**8, len(sums))], -1).reshape(1, -1, 1, 2)
    with pytest.raises(InputError, match="not known"):
        reshape(gpu4d.DataCube(frames))
    with pytest.warns(ScanShapeWarning, match="48×64"):
        reshape(gpu4d.DataCube(frames, detector_mask=[[True, False]]))


def test_arguments():
    frames = np.arange(24).reshape(12, 2, 1)
    assert reshape(frames, (3, 3), flyback=1).shape == (3, 3, 2, 1)
    assert reshape(frames.reshape(3, 4, 2, 1), (2, 6)).shape == (2, 6, 2, 1)
    assert reshape(frames.tolist(), (3, 4)).shape == (3, 4, 2, 1)
    for wrong, says in (
        (lambda: reshape(frames, flyback=2), "belong to a scan_shape"),
        (lambda: reshape(frames[0], (1, 1)), "frames have shape"),
        (lambda: reshape(frames, (5, 5)), "takes 25 frames"),
        (lambda: scan_shapes(np.ones((3, 3), bool)), "frames have shape"),
        (lambda: scan_shapes(np.array(["a"] * 20)), "frames"),
    ):
        with pytest.raises(InputError, match=says):
            wrong()


def test_the_functions_of_the_front_door_are_the_methods():
    data = np.random.default_rng(0).integers(0, 60000, (5, 6, 7, 8)).astype("uint16")
    cube, where = gpu4d.DataCube(data, gpu4d.Calibration(q_pixel=0.1)), np.eye(5, 6) > 0
    p = gpu4d.preprocess
    for on_array, on_cube, expected in (
        (p.crop(data, rx=(1, 4), qy=(2, 5)), p.crop(cube, rx=(1, 4), qy=(2, 5)), data[1:4, :, :, 2:5]),
        (p.bin(data, detector=2), p.bin(cube, detector=2), data[:, :, :6].astype(int).reshape(5, 6, 3, 2, 4, 2).sum((3, 5))),
        (p.bin(data, scan=2), p.bin(cube, scan=2), data[:4].astype(int).reshape(2, 2, 3, 2, 7, 8).sum((1, 3))),
        (p.select(data, every=2), p.select(cube, every=2), data[::2, ::2]),
        (p.select(data, where), p.select(cube, where), data[where][None]),
        (p.reshape(data, (6, 5)), p.reshape(cube, (6, 5)), data.reshape(6, 5, 7, 8)),
    ):
        np.testing.assert_array_equal(on_array, expected)
        np.testing.assert_array_equal(np.asarray(on_cube), expected)
        assert isinstance(on_array, np.ndarray) and isinstance(on_cube, gpu4d.DataCube)
    assert p.bin(cube, detector=2).calibration.q_pixel == 0.2


def test_arrays_of_other_libraries_stay_what_they_are():
    strict = pytest.importorskip("array_api_strict")
    data = np.arange(5 * 6 * 4 * 4).reshape(5, 6, 4, 4)
    p, given = gpu4d.preprocess, strict.asarray(data)
    for found, expected in (
        (p.crop(given, qx=(1, 3)), data[:, :, 1:3]),
        (p.bin(given, detector=2, scan=2), data[:4].reshape(2, 2, 3, 2, 2, 2, 2, 2).sum((1, 3, 5, 7))),
        (p.select(given, every=3), data[::3, ::3]),
        (p.reshape(strict.reshape(given, (30, 4, 4)), (5, 5), flyback=1), data[:, :5]),
    ):
        assert isinstance(found, type(given))
        np.testing.assert_array_equal(arrays.to_numpy(found), expected)


def test_an_edge_of_the_specimen_along_the_columns_is_not_taken_for_fly_back():
    x, y = np.mgrid[:24, :45]
    image = 1000 + 50 * (2.0 * (y >= 30) + 0.05 * x) + np.random.default_rng(0).normal(0, 10, (24, 45))
    found = scan_shapes(image.ravel())
    assert not found.clear and "fly-back, or vacuum" in found.why
    assert {(24, 45), (24, 30)} <= {one.scan_shape for one in found.candidates}


def test_a_real_scan(shared_data):
    """The one real scan: its frames as one row give its shape back."""
    cube = gpu4d.open(shared_data / "rotavirus_cryo_ptycho_96x96_bin4.h5", dataset="data", scan_shape="frames")
    assert cube.scan_shape == (1, 9216)
    with pytest.warns(ScanShapeWarning, match="96×96: correlation"):
        assert reshape(cube).scan_shape == (96, 96)
