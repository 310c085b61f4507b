"""One pass over a scan: the same bits for every cut, the whole protocol, a budget that is kept."""

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

import gpu4d
from gpu4d.data import ArraySource
from gpu4d.device import Device
from gpu4d.device.processors.cpu import CpuProcessor
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError
from gpu4d.operation import Twin
from gpu4d.streaming import BlockSums, PerPosition, ScanInfo, plan
from gpu4d.streaming.plan import MOST_BLOCKS, cut, scan_info
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource


class Slow(ArraySource):
    """An array that answers as a chunked file does: it fills buffers, in blocks of its own."""

    def __init__(self, array, blocks):
        super().__init__(array)
        self.blocks, self.reads, self.resident = blocks, [], False
        self._data = array
        del self.array

    def read(self, rows, columns, out=None):
        self.reads.append((rows, columns))
        frames = self._data[rows, columns]
        if out is None:
            return frames.copy()
        out[...] = frames
        return out


def scan(dtype="uint16", shape=(13, 9, 17, 20), seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4.0, shape)
    return counts.astype(dtype) if np.dtype(dtype).kind in "iu" else (counts * 0.37 + rng.random(shape)).astype(dtype)


def all_reductions(shape=(17, 20)):
    rng = np.random.default_rng(1)
    weights = rng.random((13, 9))
    origin = np.stack(np.meshgrid(np.linspace(7, 9, 13), np.linspace(8, 11, 9), indexing="ij"), -1)
    probe = gpu4d.probe.synthetic(shape, 2.5)
    return {
        "image": gpu4d.VirtualImage(
            {"bf": gpu4d.detectors.disk(4.0), "mask": rng.random(shape) > 0.5, "weights": rng.random(shape)}, origin
        ),
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=weights),
        "aligned": gpu4d.MeanPattern(weights=weights, origin=origin),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "disks": gpu4d.BraggDisks(probe, min_significance=1.0),
    }


def as_bytes(result):
    if hasattr(result, "offsets"):
        return (result.offsets.tobytes(), *(result.flat(f).tobytes() for f in result.fields))
    return np.asarray(result).tobytes()


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
                frames = np.ascontiguousarray(data[tile.rows, tile.columns].reshape(-1, 17, 20))
                for r in reductions.values():
                    r.update(frames, tile.positions())
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


class TwoPasses:
    """Standard deviation the textbook way: the mean in a first pass, squares about it in a second."""

    def bytes_needed(self, scan, n_frames):
        return 0

    def passes(self, scan, budget):
        return 2

    def start(self, scan, device, pass_=0):
        self.pass_ = pass_
        if pass_ == 0:
            self.n = self.total = self.squares = 0.0

    def update(self, frames, positions):
        if self.pass_ == 0:
            self.n, self.total = self.n + frames.size, self.total + frames.sum(dtype=float)
        else:
            self.squares += ((frames - self.total / self.n) ** 2).sum()

    def state(self):
        return {}

    def restore(self, state): ...

    def merge(self, state): ...

    def finish(self):
        return np.sqrt(self.squares / self.n)


def test_reductions_of_several_passes(monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "1")
    data = scan()
    out = gpu4d.sweep(gpu4d.DataCube(data), {"two": TwoPasses(), "mean": gpu4d.MeanPattern()})
    np.testing.assert_allclose(out["two"], data.std(), rtol=1e-12)
    np.testing.assert_array_equal(out["mean"], data.mean((0, 1), dtype=float))


def test_several_passes_want_one_device():
    """A device would build its second pass on a mean of its own rows."""
    both = [AccountingProcessor(f"accounting:{i}") for i in range(2)]
    with pytest.raises(InputError, match="two needs several passes"):
        gpu4d.sweep(gpu4d.DataCube(scan()), {"two": TwoPasses()}, device=both)


class HalfInEachPass(TwoPasses):
    """Passes follow from the memory that is left beside what it holds."""

    def bytes_needed(self, scan, n_frames):
        return 60_000

    def passes(self, scan, budget):
        return 1 if budget >= 60_000 else 2

    def start(self, scan, device, pass_=0):
        super().start(scan, device, pass_)
        self.seen = pass_ + 1

    def finish(self):
        return self.seen


def test_passes_are_those_of_the_plan():
    cube = gpu4d.DataCube(scan())
    for memory, passes in ((100_000, 2), (1_000_000, 1)):
        assert gpu4d.streaming.plan(cube, {"half": HalfInEachPass()}, memory=memory).passes == passes
        assert gpu4d.sweep(cube, HalfInEachPass(), memory=memory) == passes


def test_progress_counts_every_pattern():
    calls = []
    gpu4d.sweep(gpu4d.DataCube(scan()), gpu4d.MeanPattern(), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (13 * 9, 13 * 9) and [c[0] for c in calls] == sorted(c[0] for c in calls)


def test_errors_of_workers_reach_the_caller():
    class Broken(Slow):
        def read(self, rows, columns, out=None):
            if rows.start >= 8:
                raise InputError("the file ends early")
            return super().read(rows, columns, out)

    with pytest.raises(InputError, match="ends early"):
        gpu4d.sweep(gpu4d.DataCube(Broken(scan(), (4, 3))), gpu4d.MeanPattern())


def test_bad_calls_say_what_to_do():
    cube = gpu4d.DataCube(scan())
    with pytest.raises(InputError, match="need a Reduction"):
        gpu4d.sweep(cube, {"x": np.mean})
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        gpu4d.sweep(cube, gpu4d.MeanPattern(), trace="nowhere/trace.json")
    for wrong, say in {
        "where holds NaN": {"where": np.full((13, 9), np.nan)},
        "finite": {"memory": float("inf")},
        "progress=3": {"progress": 3},
        "progress=None": {"progress": None},
    }.items():
        with pytest.raises(InputError, match=wrong):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), **say)
    with pytest.raises(InputError, match=r"ndarray, need a DataCube: gpu4d.DataCube\(array\)"):
        gpu4d.sweep(scan(), gpu4d.MeanPattern())
    with pytest.raises(InputError, match=r"need a DataCube: gpu4d.open\(path\)"):
        gpu4d.sweep("scan.h5", gpu4d.MeanPattern())
    for asked in (gpu4d.MeanPattern, {"mean": gpu4d.MeanPattern}):
        with pytest.raises(InputError, match="class MeanPattern: call it"):
            gpu4d.sweep(cube, asked)
    with pytest.raises(DeviceError, match="cuda:9"):
        gpu4d.sweep(cube, gpu4d.MeanPattern(), device="cuda:9")
    with pytest.raises(MemoryBudgetError) as error:
        gpu4d.sweep(gpu4d.DataCube(Slow(scan(), (4, 3))), gpu4d.MeanPattern(), memory="20 kB")
    assert error.value.asked > error.value.cap == 20000 and "free" in str(error.value) and "allows 20 kB" in str(error.value)


class Unable(TwoPasses):
    def passes(self, scan, budget):
        return 1

    def update(self, frames, positions):
        raise ValueError("a bug of the caller")


def test_a_trace_that_cannot_be_written_is_refused_before_the_work(tmp_path):
    cube, calls = gpu4d.DataCube(scan()), []
    (tmp_path / "notes.txt").write_text("mine")
    wrong = {
        tmp_path: "is a folder",
        tmp_path / "notes.txt": "is not a trace",
        tmp_path / ("x" * 300): "",
        "/dev/null": "",
        tmp_path / "no" / "t": "no folder",
    }
    for place in (3, True, "", "a\0b", b"t.json", *wrong):
        with pytest.raises(InputError, match=f"(?s)^trace=.*{wrong.get(place, 'name of a file')}"):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), trace=place, progress=lambda *call: calls.append(call))
    assert not calls and (tmp_path / "notes.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_trace_is_replaced_and_nothing_else(tmp_path, monkeypatch):
    cube, place = gpu4d.DataCube(scan()), tmp_path / "t.json"
    place.touch()
    for _ in range(2):
        gpu4d.sweep(cube, gpu4d.MeanPattern(), trace=str(place))
        assert "pass 1 of 1" in place.read_text()
    monkeypatch.chdir(tmp_path)
    gpu4d.sweep(cube, gpu4d.MeanPattern(), trace="here.json", progress=lambda *_: monkeypatch.chdir("/"))
    assert (tmp_path / "here.json").exists(), "where it was when the sweep began"


def test_a_trace_that_fails_at_the_end_costs_nothing_else(tmp_path, caplog):
    cube, place = gpu4d.DataCube(scan()), tmp_path / "t.json"
    want = gpu4d.sweep(cube, gpu4d.MeanPattern())

    def in_the_way(*_):
        place.mkdir(exist_ok=True)

    found = gpu4d.sweep(cube, gpu4d.MeanPattern(), trace=place, progress=in_the_way)
    assert as_bytes(found) == as_bytes(want) and "t.json could not be written" in caplog.text
    place.rmdir()

    class Late(Unable):
        def update(self, frames, positions):
            in_the_way()
            super().update(frames, positions)

    with pytest.raises(ValueError, match="a bug of the caller"):
        gpu4d.sweep(cube, Late(), trace=place)
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_an_array_on_a_device_is_not_quietly_reduced_elsewhere():
    xp = pytest.importorskip("array_api_strict")
    cube = gpu4d.DataCube(xp.asarray(scan("float32")))
    for device in ("auto", "cpu", ["auto"], ["cpu"], ("cpu",), Device("cpu"), CpuProcessor()):
        gpu4d.sweep(cube, gpu4d.MaxPattern(), device=device)
    for device in (Device("cuda", 3), ["cuda:0"], "cuda:0", AccountingProcessor(), [Device("cuda", 0), Device("cuda", 1)]):
        with pytest.raises(DeviceError):
            gpu4d.sweep(cube, gpu4d.MaxPattern(), device=device)
    for device in ("junk", ["junk"], [], 0, None, ["cpu", "auto"]):
        with pytest.raises(InputError, match="device="):
            gpu4d.sweep(cube, gpu4d.MaxPattern(), device=device)


def test_page_locked_memory_of_all_devices_is_counted_together(monkeypatch):
    several = [AccountingProcessor(f"accounting:{i}", memory=80e9, moves_bytes=False) for i in range(8)]
    cube = gpu4d.DataCube(VirtualSource(several[0], (512, 512, 256, 256), np.uint16))
    module = importlib.import_module("gpu4d.streaming.plan")
    for host in (4_000_000_000, 250_000_000):
        monkeypatch.setattr(module, "available_memory", lambda host=host: host)
        todo = plan(cube, {"mean": gpu4d.MeanPattern()}, device=several)
        assert 0 < 8 * todo.staging_bytes <= host
    monkeypatch.setattr(module, "available_memory", lambda: 30_000_000)
    plan(cube, {"mean": gpu4d.MeanPattern()}, device=several[:1])
    with pytest.raises(MemoryBudgetError, match="page-locked memory of 8 devices") as error:
        plan(cube, {"mean": gpu4d.MeanPattern()}, device=several, memory="1 GB")
    assert error.value.asked == 8 * 4 << 20 and error.value.free == 30_000_000 and error.value.cap == 8_000_000_000


@pytest.mark.parametrize("name", ["gpu4d.device.timeline.Timeline()", "gpu4d.streaming.plan", "gpu4d.streaming.sums.BlockSums"])
def test_names_of_the_pages_are_there_after_import_gpu4d(name):
    heavy = ("cupy", "numba", "scipy", "h5py", "matplotlib", "gpu4d.device", "gpu4d.streaming")
    code = f"import sys, gpu4d; early = [m for m in {heavy} if m in sys.modules]; {name}; print(early)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stdout + run.stderr


def test_block_sums_fold_in_row_order():
    info = ScanInfo((4, 1, 1, 1), np.dtype("float64"), block_rows=(0, 1, 2, 3, 4))
    parts = [1e16, 1.0, -1e16, 1.0]  # order matters to the last bit
    want = ((1e16 + 1.0) - 1e16) + 1.0
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        sums = BlockSums(info)
        for block in order:
            sums.add(block, parts[block], 1)
        assert sums.result() == want and sums.folded == 4 and not sums.open


@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_per_position_values(library):
    xp = pytest.importorskip(library)
    info = ScanInfo((2, 3, 1, 1), np.dtype("float64"), block_rows=(0, 2), sample=xp.zeros((0,)))
    values = PerPosition(info, 2)
    assert np.isnan(np.asarray(values.result())).all()
    values.put(np.array([[1, 2], [0, 0]]), xp.asarray([[1.0, 2.0], [3.0, 4.0]]))
    want = np.full((2, 2, 3), np.nan)
    want[:, 1, 2], want[:, 0, 0] = (1, 2), (3, 4)
    got = values.result()
    assert type(got) is type(xp.zeros(1))
    np.testing.assert_array_equal(np.asarray(got), want)


def test_arrays_of_other_libraries_stay_there():
    xp = pytest.importorskip("array_api_strict")
    data = scan("float32")
    cube = gpu4d.DataCube(xp.asarray(data))
    out = gpu4d.sweep(cube, all_reductions())
    want = gpu4d.sweep(gpu4d.DataCube(data), all_reductions())
    for name in ("image", "mean", "max", "com"):
        assert type(out[name].data).__module__.startswith("array_api_strict"), name
        np.testing.assert_allclose(np.asarray(out[name].data), np.asarray(want[name]), rtol=1e-6, err_msg=name)
    assert type(out["disks"].flat("qx")).__module__.startswith("array_api_strict")
    np.testing.assert_array_equal(np.asarray(out["disks"].counts), want["disks"].counts)


def test_zero_positions():
    out = gpu4d.sweep(gpu4d.DataCube(np.zeros((0, 5, 17, 20), "uint16")), {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()})
    assert np.isnan(np.asarray(out["mean"])).all() and np.asarray(out["com"]).shape == (2, 0, 5)


def test_using_holds_in_the_threads_of_a_sweep(monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "2")
    from gpu4d.imaging.first_moments import first_moments

    monkeypatch.setitem(first_moments.twins, "cpu", Twin("no_such_module"))
    with gpu4d.using("definition"):
        gpu4d.sweep(gpu4d.DataCube(scan()), gpu4d.CenterOfMass())
    with pytest.raises(ModuleNotFoundError):
        gpu4d.sweep(gpu4d.DataCube(scan()), gpu4d.CenterOfMass())
