"""Sweeps of several passes, refusals, traces, and what reductions are built on."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from small_sweeps import Slow, TwoPasses, all_reductions, as_bytes, scan

import gpu4d
from gpu4d.device import Device
from gpu4d.device.processors.cpu import CpuProcessor
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError
from gpu4d.operation import Twin
from gpu4d.streaming import BlockSums, PerPosition, ScanInfo, plan
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource


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
    monkeypatch.setattr(module, "available_memory", lambda: 8_000_000)
    plan(cube, {"mean": gpu4d.MeanPattern()}, device=several[:1])
    with pytest.raises(MemoryBudgetError, match="page-locked memory of 8 devices") as error:
        plan(cube, {"mean": gpu4d.MeanPattern()}, device=several, memory="1 GB")
    assert error.value.asked == 8 << 20 and error.value.free == 8_000_000 and error.value.cap == 8_000_000_000


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
            sums.add(np.array([[block, 0]]), parts[block])
        assert sums.result() == want and sums.folded == 4 and not sums.rows and not sums.groups


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
