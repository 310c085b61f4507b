"""Views of chosen positions: every nth, those of a mask, frames in another shape. All against NumPy."""

import h5py
import numpy as np
import pytest
from small_scan import whole

import gpu4d
from gpu4d import arrays
from gpu4d.data import Calibration, DataCube, EventSource
from gpu4d.data.chosen import ChosenSource
from gpu4d.data.fly_back import frame_numbers
from gpu4d.data.source import ArraySource, rows_of_run
from gpu4d.errors import InputError
from gpu4d.testing.sources import SourceTests

SCAN = np.random.default_rng(3).integers(0, 999, (7, 9, 5, 6)).astype("uint16")
FRAMES = SCAN.reshape(1, 63, 5, 6)
SCATTERED = np.random.default_rng(4).permutation(63)[:30].reshape(5, 6)
GRID = np.arange(63).reshape(7, 9)[1::2, ::3]


def chunked(tmp_path, chunks, data=SCAN):
    name = tmp_path / "chunks.h5"
    with h5py.File(name, "w") as file:
        file.create_dataset("scan", data=data, chunks=chunks, compression="gzip")
    return gpu4d.open(name, scan_shape=data.shape[:2])


class TestScatteredPositions(SourceTests):
    def make(self, tmp_path):
        return ChosenSource(ArraySource(SCAN), SCATTERED), SCAN.reshape(63, 5, 6)[SCATTERED]


class TestAGridInMemory(SourceTests):
    def make(self, tmp_path):
        return ChosenSource(ArraySource(SCAN), GRID), SCAN[1::2, ::3]


class TestFramesWithFlyBack(SourceTests):
    def make(self, tmp_path):
        index = frame_numbers(63, (6, 8), flyback=2, extra=(3, 0))
        return ChosenSource(ArraySource(FRAMES), index), SCAN.reshape(63, 5, 6)[3:].reshape(6, 10, 5, 6)[:, :8]


class TestChunks(SourceTests):
    chunks, index = (2, 4, 5, 6), SCATTERED

    def make(self, tmp_path):
        return ChosenSource(chunked(tmp_path, self.chunks).source, self.index), SCAN.reshape(63, 5, 6)[self.index]


class TestAGridOfChunks(TestChunks):
    index = np.arange(63).reshape(7, 9)[::2, ::2]


class TestFramesInChunks(TestChunks):
    chunks, index = (1, 4, 5, 6), frame_numbers(63, (7, 7), flyback=2, flyback_at="start")


@pytest.mark.parametrize("every", [2, 3, 5, 20])
def test_every_nth_position_is_a_view(every):
    cube = DataCube(SCAN).select(every=every)
    np.testing.assert_array_equal(whole(cube), SCAN[::every, ::every])
    assert np.shares_memory(whole(cube), SCAN)


def test_chunks_are_decoded_once_where_a_grid_is_aligned(tmp_path):
    source = chunked(tmp_path, (2, 4, 5, 6)).source
    assert ChosenSource(source, np.arange(63).reshape(7, 9)[::4, ::4]).blocks == (1, 1), "each chosen position has chunks of its own"
    assert ChosenSource(source, np.arange(63).reshape(7, 9)[:, ::2]).blocks == (2, 2)
    assert ChosenSource(source, np.arange(63).reshape(7, 9)[1:, :]).blocks == (1, 1), "begins inside a chunk"
    reads = []
    below = source.read
    source.read = lambda *cut: reads.append(cut) or below(*cut)
    ChosenSource(source, SCATTERED).read(slice(0, 5), slice(0, 6))
    x, y = np.divmod(SCATTERED, 9)
    assert len(reads) == len({(a // 2, b // 4) for a, b in zip(x.ravel(), y.ravel())})


def test_a_mask_gives_a_row_and_a_rectangle_a_scan():
    where = np.random.default_rng(0).random((7, 9)) > 0.6
    cube = DataCube(SCAN, Calibration(r_pixel=2.5, origin=np.stack(np.mgrid[:7, :9], -1) + 0.5))
    part = cube.select(where)
    np.testing.assert_array_equal(whole(part)[0], SCAN[where])
    assert part.calibration.r_pixel is None
    np.testing.assert_array_equal(part.calibration.positions[0], 2.5 * np.argwhere(where))
    np.testing.assert_array_equal(part.calibration.origin[0], np.argwhere(where) + 0.5)
    box = np.zeros((7, 9), bool)
    box[2:4, 5:8] = True
    assert cube.select(box).shape == (2, 3, 5, 6) and cube.select(box).calibration.r_pixel == 2.5
    np.testing.assert_array_equal(whole(cube.select(box)), SCAN[2:4, 5:8])


def test_the_calibration_follows_a_grid():
    origin = np.random.default_rng(1).normal(3, 1, (7, 9, 2))
    known = Calibration(q_pixel=0.1, r_pixel=2.0, origin=origin, origin_measured=origin, positions=origin, ellipse=(1.1, 1.0, 0.3))
    for cube, index in (
        (DataCube(SCAN, known).select(every=2), np.arange(63).reshape(7, 9)[::2, ::2]),
        (DataCube(SCAN, known).reshape((9, 6), flyback=1), frame_numbers(63, (9, 6), 1)),
    ):
        c = cube.calibration
        for field in ("origin", "origin_measured", "positions"):
            np.testing.assert_array_equal(getattr(c, field), origin.reshape(-1, 2)[index])
        assert (c.q_pixel, c.ellipse) == (0.1, (1.1, 1.0, 0.3))
    assert DataCube(SCAN, known).select(every=3).calibration.r_pixel == 6.0
    assert DataCube(SCAN, known).reshape((9, 7)).calibration.r_pixel == 2.0
    preview = DataCube(SCAN, known).preview(every=2, bin=2)
    assert (preview.shape, preview.dtype, preview.calibration.q_pixel, preview.calibration.r_pixel) == ((4, 5, 2, 3), "uint32", 0.2, 4.0)
    np.testing.assert_array_equal(whole(preview), SCAN[::2, ::2, :4].reshape(4, 5, 2, 2, 3, 2).sum((3, 5)))


def test_masks_and_corrections_follow():
    good = np.ones((5, 6), bool)
    good[2, 3] = False
    bad = ~good
    cube = DataCube(SCAN, detector_mask=good).corrected(bad_pixels=bad)
    part = cube.select(every=2)
    np.testing.assert_array_equal(part.detector_mask, good)
    assert part.corrections.description == "1 bad pixel replaced"
    np.testing.assert_array_equal(whole(part), whole(cube)[::2, ::2])
    np.testing.assert_array_equal(whole(part.select(every=2)), whole(cube)[::4, ::4])
    assert isinstance(part.select(every=2).source.source.source, ArraySource), "a choice of a choice is one"


@pytest.mark.parametrize("flyback_at", ["end", "start"])
@pytest.mark.parametrize("extra", [(0, 0), (2, 1)])
def test_frames_of_the_fly_back_are_left_out_without_a_copy(flyback_at, extra):
    scan = np.arange(4 * 7).reshape(4, 7)
    kept = scan[:, :5] if flyback_at == "end" else scan[:, 2:]
    frames = np.concatenate([np.full(extra[0], -1), scan.ravel(), np.full(extra[1], -1)]).reshape(1, -1, 1, 1)
    cube = DataCube(frames).reshape((4, 5), flyback=2, flyback_at=flyback_at, extra=extra)
    np.testing.assert_array_equal(whole(cube)[..., 0, 0], kept)
    assert cube.source.resident and np.shares_memory(whole(cube), frames)
    assert not whole(cube).flags.writeable, "positions beside each other share no memory, but a view must not be written to"
    sums = gpu4d.sweep(cube, gpu4d.VirtualImage(np.ones((1, 1), bool)))
    np.testing.assert_array_equal(np.asarray(sums), kept)


def test_the_last_row_may_lack_its_fly_back():
    frames = np.arange(12).reshape(1, 12, 1, 1)
    assert whole(DataCube(frames).reshape((3, 3), flyback=1, extra=(1, 0)))[..., 0, 0].tolist() == [[1, 2, 3], [5, 6, 7], [9, 10, 11]]


def test_a_file_stays_where_it_is(tmp_path):
    np.save(tmp_path / "a.npy", FRAMES[0])
    frames = gpu4d.open(tmp_path / "a.npy", scan_shape="frames")
    assert frames.scan_shape == (1, 63)
    cube = frames.reshape((7, 8), flyback=1)
    np.testing.assert_array_equal(whole(cube), SCAN[:, :8])
    assert cube.source.resident and "without 7 frames" in cube.source.description
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["few"], file["stack"] = SCAN, FRAMES[0]
    assert gpu4d.open(tmp_path / "a.h5", scan_shape="frames").scan_shape == (1, 63)
    assert gpu4d.open(tmp_path / "a.h5", dataset="few", scan_shape="frames").scan_shape == (1, 63)
    with pytest.raises(InputError, match=r'two whole numbers .* or "frames"'):
        gpu4d.open(tmp_path / "a.npy", scan_shape="all")


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((6, 8), {}, "takes 48 frames .6 rows of 8., there are 63: what fits is flyback=3, which the last row lacks, or extra=.*= 15"),
        ((7, 7), {}, "flyback=2, or extra"),
        ((7, 9), {"flyback": 1}, r"scan_shape=\(6, 9\) with extra=\(a, b\), a \+ b = 3"),
        ((9, 9), {}, r"scan_shape=\(7, 9\)"),
        ((100, 100), {}, "at least 100 frames, one row"),
        ((7, 9), {"extra": (0, -1)}, "from 0 on"),
        ((7, 9), {"flyback": 1.5}, "whole number"),
        ((7, 9), {"flyback": True}, "whole number"),
        ((7, 9), {"flyback_at": "middle"}, "'end' or 'start'"),
        ((7, 0), {}, "at least 1"),
        ((7, 9, 1), {}, "scan_shape"),
    ],
)
def test_a_shape_that_does_not_fit_says_what_would(shape, options, says):
    with pytest.raises(InputError, match=says):
        DataCube(SCAN).reshape(shape, **options)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "give one of them"),
        ({"every": 2, "where": np.ones((7, 9))}, "give one of them"),
        ({"every": 0}, "whole number from 1"),
        ({"every": 2.0}, "whole number from 1"),
        ({"where": np.zeros((7, 9), bool)}, "leaves no position"),
        ({"where": np.ones((7, 8), bool)}, "where is"),
    ],
)
def test_a_choice_that_is_none_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        DataCube(SCAN).select(**given)


def test_other_libraries_and_read_only_arrays():
    strict = pytest.importorskip("array_api_strict")
    for index, expected in ((GRID, SCAN[1::2, ::3]), (SCATTERED, SCAN.reshape(63, 5, 6)[SCATTERED])):
        found = ChosenSource(ArraySource(strict.asarray(SCAN)), index).read(slice(0, index.shape[0]), slice(0, index.shape[1]))
        assert isinstance(found, type(strict.asarray(1)))
        np.testing.assert_array_equal(arrays.to_numpy(found), expected)
    frozen = SCAN.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(whole(DataCube(frozen).select(every=2)), SCAN[::2, ::2])


def test_counted_scans_and_single_positions():
    events = EventSource([0, 2, 3, 3, 5], [1, 1, 2, 0, 3], (2, 2), (2, 2))
    np.testing.assert_array_equal(whole(DataCube(events).select([[0, 1], [1, 1]])), whole(DataCube(events)).reshape(1, 4, 2, 2)[:, 1:])
    assert DataCube(SCAN[:1, :1]).select(every=4).shape == (1, 1, 5, 6)
    assert DataCube(SCAN).select(np.eye(7, 9) == 1)[0, 3].shape == (5, 6)


def test_memory_of_a_sweep_is_declared(tmp_path):
    """The block that is read whole for some of its positions counts."""
    source = chunked(tmp_path, (2, 4, 5, 6)).source
    view = ChosenSource(source, SCATTERED)
    assert view.scratch_bytes == source.scratch_bytes + 2 * 4 * 5 * 6 * 2
    assert ChosenSource(ArraySource(SCAN), SCATTERED).scratch_bytes == 0
    assert list(rows_of_run(0, 0, 5)) == []
