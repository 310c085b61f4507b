"""One pass over a scan: the same bits for every cut, and what a bad frame or a mask leaves out."""

import pickle

import numpy as np
import pytest
from small_sweeps import Slow, all_reductions, as_bytes, scan

import gpu4d
from gpu4d.errors import InputError
from gpu4d.streaming import plan
from gpu4d.streaming.plan import scan_info
from gpu4d.streaming.tiles import MOST_BLOCKS, cut


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_bits_do_not_depend_on_memory_threads_or_source(dtype, monkeypatch):
    data = scan(dtype)
    want = None
    for threads, memory, source in [
        ("1", "100 MB", Slow(data, (4, 3))),
        ("1", "7 MB", Slow(data, (4, 3))),
        ("2", "100 MB", Slow(data, (4, 3))),
        ("5", "100 MB", Slow(data, (4, 3))),
    ]:
        monkeypatch.setenv("GPU4D_THREADS", threads)
        out = gpu4d.sweep(gpu4d.DataCube(source), all_reductions(), memory=memory)
        got = {name: as_bytes(result) for name, result in out.items()}
        want = want or got
        assert got == want, (threads, memory)


def test_results_are_those_of_numpy():
    data = scan()
    out = gpu4d.sweep(gpu4d.DataCube(data), all_reductions())
    np.testing.assert_array_equal(out["mean"], data.mean((0, 1), dtype=np.float64))
    np.testing.assert_array_equal(out["max"], data.max((0, 1)))
    weights = np.random.default_rng(1).random((13, 9))
    np.testing.assert_allclose(out["weighted"], (data * weights[:, :, None, None]).sum((0, 1)) / weights.sum(), rtol=1e-13)
    x = np.arange(17)[:, None]
    np.testing.assert_allclose(out["com"]["com_x"], (data * x).sum((2, 3)) / data.sum((2, 3)), rtol=1e-14)


def test_the_cut_follows_shape_and_layout_alone():
    data = scan()
    cube = gpu4d.DataCube(Slow(data, (4, 3)))
    reductions = {"mean": gpu4d.MeanPattern()}
    small, large = plan(cube, reductions, memory="5 MB"), plan(cube, reductions, memory="500 MB")
    assert small.cut == large.cut and small.scan.block_rows == large.scan.block_rows
    gpu4d.sweep(cube, reductions)
    assert all(r.start % 4 == 0 and c.start % 3 == 0 for r, c in cube.source.reads), "tiles start on the file's own blocks"
    seen = np.zeros((13, 9), int)
    for r, c in cube.source.reads:
        seen[r, c] += 1
    assert (seen == 1).all(), "every position is read once"


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (1000, 3, 8, 8), (3, 1000, 64, 64), (512, 512, 512, 512), (7, 5, 4096, 4096)])
@pytest.mark.parametrize("blocks", [(1, 1), (16, 16), (1, 4), (512, 512)])
def test_tiles_cover_the_scan_once(shape, blocks):
    c = cut(shape, shape[2] * shape[3] * 2, blocks)
    assert 1 <= c.rows <= shape[0] and 1 <= c.columns <= shape[1]
    assert c.block_rows % c.rows == 0 and -(-shape[0] // c.block_rows) <= MOST_BLOCKS
    assert c.amplification >= 1


def test_where_visits_only_its_positions():
    data = scan()
    where = np.random.default_rng(3).random((13, 9)) > 0.6
    out = gpu4d.sweep(gpu4d.DataCube(data), all_reductions(), where=where)
    np.testing.assert_allclose(out["mean"], data[where].mean(0, dtype=np.float64), rtol=1e-14)
    image = np.asarray(out["image"])
    assert np.isnan(image[:, ~where]).all() and np.isfinite(image[:, where]).all()
    assert (np.asarray(out["disks"].counts)[~where] == 0).all()
    with pytest.raises(InputError, match=r"where is \(9, 13\)"):
        gpu4d.sweep(gpu4d.DataCube(data), gpu4d.MeanPattern(), where=where.T)


def test_where_of_nothing():
    out = gpu4d.sweep(gpu4d.DataCube(scan()), all_reductions(), where=np.zeros((13, 9), bool))
    assert np.isnan(np.asarray(out["mean"])).all() and np.isnan(np.asarray(out["com"])).all() and len(out["disks"]) == 0


def test_detector_mask_is_left_out_everywhere():
    data = scan()
    mask = np.ones((17, 20), bool)
    mask[5:8, 10:14] = False
    wild = data.copy()
    wild[:, :, ~mask] = 60000
    one = gpu4d.sweep(gpu4d.DataCube(data, detector_mask=mask), all_reductions())
    two = gpu4d.sweep(gpu4d.DataCube(wild, detector_mask=mask), all_reductions())
    for name in ("image", "mean", "max", "com"):
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(two[name]), err_msg=name)
    assert np.isnan(np.asarray(one["mean"])[~mask]).all()
    np.testing.assert_array_equal(one["disks"].flat("qx"), two["disks"].flat("qx"))


def test_a_bad_frame_harms_only_itself():
    data = scan("float32")
    bad = data.copy()
    bad[3, 4, 2, 2], bad[5, 6, 1, 1], bad[7, 8] = np.nan, np.inf, 0
    mean = gpu4d.MeanPattern()
    out = gpu4d.sweep(gpu4d.DataCube(bad), {**all_reductions(), "mean": mean})
    assert mean.left_out == 2
    keep = np.ones((13, 9), bool)
    keep[3, 4] = keep[5, 6] = False
    np.testing.assert_allclose(out["mean"], bad[keep].mean(0, dtype=np.float64), rtol=1e-12)
    com = np.asarray(out["com"])
    assert np.isnan(com[:, [3, 5, 7], [4, 6, 8]]).all() and np.isfinite(com[:, keep]).sum() == 2 * (keep.sum() - 1)
    assert out["disks"].counts[3, 4] == out["disks"].counts[5, 6] == out["disks"].counts[7, 8] == 0


def test_halves_merge_to_the_whole_bit_for_bit():
    """Two workers see different row blocks; their states merge, in either order and through a pickle, to the same bits."""
    data = scan("float32")
    cube = gpu4d.DataCube(Slow(data, (4, 3)))
    info, _ = scan_info(cube)
    whole = gpu4d.sweep(cube, all_reductions())

    def worker(blocks):
        reductions = all_reductions()
        todo = plan(cube, reductions)
        for r in reductions.values():
            r.start(info, None)
        for block in blocks:
            for tile in todo.tiles(block):
                for part in tile.segments(todo.cut.segment):
                    frames = np.ascontiguousarray(data[part.rows, part.columns].reshape(-1, 17, 20))
                    for r in reductions.values():
                        r.update(frames, part.positions())
        return reductions

    blocks = list(range(info.blocks))
    assert len(blocks) > 2
    for first, second in ((blocks[:2], blocks[2:]), (blocks[2:], blocks[:2]), (blocks[::2], blocks[1::2])):
        one, two = worker(first), worker(second)
        for name in one:
            one[name].merge(pickle.loads(pickle.dumps(two[name].state())))
            assert as_bytes(one[name].finish()) == as_bytes(whole[name]), name


def test_finish_at_any_time_and_restore():
    data = scan()
    info, _ = scan_info(gpu4d.DataCube(data))
    for name, reduction in all_reductions().items():
        reduction.start(info, None)
        empty = reduction.finish()
        assert len(empty) == 0 if hasattr(empty, "offsets") else np.isnan(np.asarray(empty)).all(), name
        positions = np.array([[0, 1], [0, 2], [0, 5]])
        reduction.update(np.ascontiguousarray(data[0, [1, 2, 5]]), positions)
        once, twice = as_bytes(reduction.finish()), as_bytes(reduction.finish())
        assert once == twice, name
        fresh = all_reductions()[name]
        fresh.start(info, None)
        fresh.restore(pickle.loads(pickle.dumps(reduction.state())))
        assert as_bytes(fresh.finish()) == once, name
