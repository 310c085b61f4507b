"""A scan larger than its budget: private memory is sampled while the sweep runs, in a process of its own. And what a plan promises."""

import json
import pickle
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.data.source import scratch_bytes
from gpu4d.errors import MemoryBudgetError
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import plan
from gpu4d.testing.accounting import AccountingProcessor

SWEEP = """
import json, sys, threading
import numpy as np, gpu4d

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.005):
        peak[0] = max(peak[0], status("RssAnon"))

path, budget, probe = sys.argv[1], int(sys.argv[2]), np.load(sys.argv[3])
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
reductions = {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass(),
              "images": gpu4d.VirtualImage([gpu4d.detectors.disk(9.0), gpu4d.detectors.annulus(10, 40)]),
              "disks": gpu4d.BraggDisks(probe, expected_peaks=25)}
out = gpu4d.sweep(gpu4d.open(path), reductions, memory=budget)
stop.set()
watcher.join()
# VmHWM, not ru_maxrss: that one starts from the memory of the process which started this one
print(json.dumps({"anonymous": peak[0], "maxrss": status("VmHWM"),
                  "sum": float(np.asarray(out["mean"]).sum()), "points": len(out["disks"])}))
"""


SLOW, EXHAUSTIVE = pytest.mark.slow, pytest.mark.exhaustive


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(
    "layout", [pytest.param("contiguous", marks=SLOW), pytest.param("gzip", marks=EXHAUSTIVE), pytest.param("bitshuffle", marks=SLOW)]
)
def test_scan_eight_times_the_budget(tmp_path, layout):
    """Pages that are mapped, and chunks that are decoded. Which filter decodes them is the matter of tests of the chunks' scratch."""
    small = gpu4d.simulate.bragg_scan((8, 8), (128, 128), seed=1)
    frames = np.asarray(small.cube.source.array)
    options = {} if layout == "contiguous" else {"chunks": (4, 4, 128, 128)}
    if layout == "gzip":
        options |= {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    if layout == "bitshuffle":
        options |= pytest.importorskip("hdf5plugin").Bitshuffle(cname="lz4")
    path, probe = tmp_path / "scan.h5", tmp_path / "probe.npy"
    with h5py.File(path, "w") as f:
        data = f.create_dataset("data", (128, 64, 128, 128), "u2", **options)
        for row in range(0, 128, 8):
            data[row : row + 8] = np.tile(frames, (1, 8, 1, 1))
    np.save(probe, small.probe)
    size = 128 * 64 * 128 * 128 * 2
    budget = size // 8
    run = subprocess.run([sys.executable, "-c", SWEEP, path, str(budget), probe], capture_output=True, text=True, check=True)
    seen = json.loads(run.stdout)
    assert seen["anonymous"] <= budget + 300e6
    if layout != "contiguous":  # nothing is mapped: resident memory is private memory
        assert seen["maxrss"] <= budget + 300e6
    assert seen["sum"] == pytest.approx(frames.mean((0, 1), dtype=float).sum(), rel=1e-12)
    assert seen["points"] == 128 * len(gpu4d.find_bragg_disks(small.cube, small.probe))


class _Read:
    """A source in no memory, which notes how many bytes it was asked for at once."""

    resident, description = False, "made up"

    def __init__(self, shape, blocks):
        self.shape, self.blocks, self.dtype = shape, blocks, np.dtype(np.uint16)
        self.most, self.times = 0, np.zeros(shape[:2], int)

    def read(self, rows, columns, out=None):
        number = np.arange(rows.start, rows.stop)[:, None] * self.shape[1] + np.arange(columns.start, columns.stop)
        frames = np.empty((*number.shape, *self.shape[2:]), np.uint16)
        frames[...] = number[..., None, None] % 1000
        self.most = max(self.most, frames.nbytes)
        self.times[rows, columns] += 1
        return frames


@pytest.mark.parametrize("blocks", [(1, 1), (3, 4)])
@pytest.mark.parametrize("view", ["crop", "bin", "both"])
def test_views_read_little_at_once(view, blocks):
    """Memory is planned for what a view keeps: it must not read all it drops at once."""
    whole = gpu4d.DataCube(_Read((48, 60, 128, 128), blocks))
    cube = whole.crop(rx=(5, 48), qx=(60, 68), qy=(0, 8)) if view == "crop" else whole.bin(detector=16, scan=3)
    cube = cube.crop(ry=(0, 20)) if view == "both" else cube
    got = np.asarray(gpu4d.sweep(cube, gpu4d.VirtualImage(np.ones((8, 8), bool)), memory="60 MB").data)
    number = (np.arange(48)[:, None] * 60 + np.arange(60)) % 1000
    expected = 64 * number[5:] if view == "crop" else 128 * 128 * number.reshape(16, 3, 20, 3).sum((1, 3))
    assert np.array_equal(got, expected)
    assert whole.source.most <= 8 << 20
    assert whole.source.times.max() == 1, "no pattern is read twice"


LARGE_CHUNKS = """
import json, sys, threading
import numpy as np, gpu4d

def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

cube, reductions = gpu4d.DataCube(np.ones((2, 2, 256, 256), "u2")), {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}
gpu4d.sweep(cube, reductions)  # compiled code is loaded
cube = gpu4d.open(sys.argv[1])
peak, stop = [0], threading.Event()
def watch():
    while not stop.wait(0.001):
        peak[0] = max(peak[0], anonymous())

before, watcher = anonymous(), threading.Thread(target=watch)
watcher.start()
out = gpu4d.sweep(cube, reductions, memory=int(sys.argv[2]))
stop.set()
watcher.join()
print(json.dumps({"held": peak[0] - before, "sum": float(np.asarray(out["mean"]).sum())}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize(
    "layout", [pytest.param("shuffle gzip", marks=SLOW), pytest.param("bitshuffle", marks=SLOW), pytest.param("lzf", marks=EXHAUSTIVE)]
)
def test_what_chunks_are_decoded_in_is_planned(tmp_path, layout, monkeypatch):
    """Chunks of 33 MB: a thread that decodes them holds several beside the tile it fills.

    Two filters one after the other, which hold most, and one that decodes in blocks. A filter alone holds what gzip does.
    """
    monkeypatch.setenv("GPU4D_THREADS", "2")
    options = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if layout == "shuffle gzip" else {"compression": "lzf"}
    if layout == "bitshuffle":
        options = dict(pytest.importorskip("hdf5plugin").Bitshuffle(cname="lz4"))
    path, chunk = tmp_path / "scan.h5", 16 * 16 * 256 * 256 * 2
    noise = np.random.default_rng(0).poisson(20.0, (16, 16, 256, 256)).astype("u2")
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (16, 32, 256, 256), "u2", chunks=(16, 16, 256, 256), **options)
        for column in range(0, 32, 16):
            data[:, column : column + 16] = noise
    cube, reductions = gpu4d.open(path), {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}
    assert cube.source.scratch_bytes > chunk
    with pytest.raises(MemoryBudgetError) as refused:
        plan(cube, reductions, device="cpu", memory=chunk)
    least = refused.value.asked
    assert least > cube.source.scratch_bytes and refused.value.cap == chunk and refused.value.free > chunk
    with pytest.raises(MemoryBudgetError):
        plan(cube, reductions, device="cpu", memory=least - 1)
    for memory, lanes in [(least, 1), (10**9, 2)]:
        todo = plan(cube, reductions, device="cpu", memory=memory)
        assert todo.bytes <= memory and (todo.lanes, todo.readers) == (lanes, lanes)
        run = subprocess.run([sys.executable, "-c", LARGE_CHUNKS, path, str(memory)], capture_output=True, text=True, check=True)
        seen = json.loads(run.stdout)
        assert seen["sum"] == pytest.approx(noise.mean((0, 1), dtype=float).sum(), rel=1e-12)
        assert seen["held"] <= todo.bytes + 10e6, f"{seen['held'] / 1e6:.0f} MB held, {todo.bytes / 1e6:.0f} MB planned"


SEARCHES = """
import gc, json, sys, tracemalloc
import numpy as np, gpu4d
from gpu4d.probe import synthetic, template

def search(n, radius, mask):
    counts = np.random.default_rng(0).poisson(100 * synthetic((n, n), 15.0) + 1, (1, 2, n, n)).astype("uint16")
    gpu4d.find_bragg_disks(gpu4d.DataCube(counts, detector_mask=mask), template(synthetic((n, n), radius)))

search(128, 15.0, None)  # compiled code is loaded
mask = np.arange(1024)[:, None] * np.ones(1024) != 700
tracemalloc.start()
for radius in (14.5, 15.0, 15.5):
    search(1024, radius, mask)
gc.collect()
print(json.dumps(tracemalloc.get_traced_memory()[0]))
"""


@pytest.mark.slow
def test_little_stays_of_searches_of_a_large_detector():
    """Tables of three disks; not their images, 8 MB each, nor scratch and transforms of that size."""
    run = subprocess.run([sys.executable, "-c", SEARCHES], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout.splitlines()[-1]) < 40e6


@pytest.mark.parametrize("view", ["itself", "crop", "bin", "swap", "frames"])
def test_a_source_holds_what_it_says_beside_the_buffer(tmp_path, view):
    """Measured by what Python, NumPy included, asks of the system."""
    shape, hdf5 = (24, 12, 64, 50), {"compression": "gzip", "shuffle": True}
    data = np.random.default_rng(0).poisson(2.0, shape).astype("u2")
    chunks = (24, 12, 64, 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if view == "frames":
            file.create_dataset("data", data=data.reshape(-1, 64, 50), chunks=(288, 64, 50), **hdf5)
        else:
            file.create_dataset("data", data=data, chunks=chunks, **hdf5)
    cube = gpu4d.open(tmp_path / "a.h5", scan_shape=(24, 12) if view == "frames" else None)
    cube, expected = {
        "itself": lambda: (cube, data),
        "frames": lambda: (cube, data),
        "crop": lambda: (cube.crop(qx=(3, 60), ry=(1, 12)), data[:, 1:, 3:60]),
        "bin": lambda: (cube.bin(detector=3, scan=2), data[:, :, :63, :48].reshape(12, 2, 6, 2, 21, 3, 16, 3).sum((1, 3, 5, 7))),
        "swap": lambda: (cube.swap_axes(scan=True), data.swapaxes(0, 1)),
    }[view]()
    source, peaks = cube.source, []
    for rows in (slice(0, 2), slice(0, cube.shape[0])):
        buffer = np.empty((rows.stop, *cube.shape[1:]), source.dtype)
        buffer[...] = 0
        tracemalloc.start()
        with ThreadPoolExecutor(1) as reader:  # in a thread of its own, whose scratch is new
            found = reader.submit(source.read, rows, slice(0, cube.shape[1]), buffer).result()
            peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        np.testing.assert_array_equal(found, expected[rows])
    assert max(peaks) <= source.scratch_bytes + 300_000
    assert source.scratch_bytes <= 1.6 * max(peaks), "planned for far more than is held"


def test_sources_in_memory_and_mapped_need_no_scratch(tmp_path):
    data = np.zeros((4, 4, 64, 64), "u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = data
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file.create_dataset("data", data=data, chunks=(4, 4, 64, 64))
    for cube in (gpu4d.DataCube(data), gpu4d.open(tmp_path / "a.h5"), gpu4d.open(tmp_path / "plain.h5")):
        assert scratch_bytes(cube.source) == 0
    assert scratch_bytes(gpu4d.DataCube(data).crop(qx=(3, 9)).source) == 0


def test_readers_before_a_link_decode_in_host_memory(monkeypatch):
    """As many as there is room for, beside the page-locked ring; one at least, or what it needs is said."""
    monkeypatch.setenv("GPU4D_THREADS", "8")
    source = _Filled((64, 64, 64, 64), "uint16")
    cube, mean = gpu4d.DataCube(source), {"mean": gpu4d.MeanPattern()}
    without = plan(cube, mean, device=AccountingProcessor(memory=2e9), memory="500 MB")
    source.scratch_bytes = 100_000_000
    todo = plan(cube, mean, device=AccountingProcessor(memory=2e9), memory="500 MB")
    assert (without.readers, without.scratch_bytes) == (8, 0)
    assert todo.bytes == without.bytes and todo.chunk_tiles == without.chunk_tiles, "the device holds none of it"
    assert todo.readers == (500_000_000 - without.staging_bytes) // 10**8
    assert todo.staging_bytes == without.staging_bytes + todo.readers * 10**8 <= 500_000_000
    with pytest.raises(MemoryBudgetError, match="decode") as refused:  # beside tiles of one segment
        plan(cube, mean, device=AccountingProcessor(memory=2e9), memory="90 MB")
    assert refused.value.asked == 10**8 + (1 << 20) and refused.value.cap == 90_000_000 and refused.value.free > 0


def test_a_refusal_goes_from_process_to_process():
    refused = MemoryBudgetError("a sweep", 3000, 2000, 1000, OSError("of a library that may not be there"))
    again = pickle.loads(pickle.dumps(refused))
    assert type(again) is MemoryBudgetError and str(again) == str(refused)
    assert (again.asked, again.free, again.cap) == (3000, 2000, 1000)


class _Filled:
    """The same pattern everywhere, in no memory."""

    resident, description, blocks = False, "made up", (1, 1)

    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.pattern = np.random.default_rng(0).poisson(3.0, shape[2:]).astype(dtype)

    def read(self, rows, columns, out=None):
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start, *self.shape[2:]), self.dtype) if out is None else out
        out[...] = self.pattern
        return out


def _reductions(shape):
    rx, ry, qx, qy = shape
    rng = np.random.default_rng(1)
    weights, origin = rng.random((rx, ry)), np.array([qx, qy]) / 2 + rng.uniform(-1, 1, (rx, ry, 2))
    radius = min(qx, qy) / 8
    disk, ring = gpu4d.detectors.disk(radius), gpu4d.detectors.annulus(radius, 2 * radius)
    several = {
        "mean": gpu4d.MeanPattern(),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "image": gpu4d.VirtualImage([disk, ring]),
    }
    alone = {
        "weighted": gpu4d.MeanPattern(weights=weights),
        "aligned": gpu4d.MeanPattern(weights=weights, origin=origin),
        "weights": gpu4d.VirtualImage(rng.random((qx, qy))),
        "moving": gpu4d.VirtualImage([disk, ring, gpu4d.detectors.rectangle(radius, radius)], origin),
        "stack": BrightFieldStack(np.hypot(*(np.indices((qx, qy)) - np.array([[[qx]], [[qy]]]) // 2)) < radius),
    }
    return {
        **{name: {name: r} for name, r in (several | alone).items()},
        "several": several,
        "all": several | alone,
    }


OF_PYTHON = 1_500_000  # bytes of threads, futures, slices and code loaded on the way
SCANS = [
    ((32, 32, 128, 128), "uint16"),
    ((16, 16, 256, 256), "uint8"),
    ((96, 96, 32, 32), "float32"),
    ((100, 100, 4, 4), "uint8"),
    ((24, 24, 96, 100), "uint64"),
    ((24, 24, 96, 100), "float16"),
]


# Scans that take seconds run on one of the two devices for each commit.
ON_THE_OTHER = {("cpu", "float32"), ("accounting", (100, 100, 4, 4)), ("cpu", "uint64")}


@pytest.mark.parametrize(
    "device, masked, shape, dtype",
    [
        pytest.param(on, masked, *scan, marks=EXHAUSTIVE if {(on, part) for part in scan} & ON_THE_OTHER else SLOW)
        for on, masked in (("cpu", False), ("accounting", True))
        for scan in SCANS
    ],
)
def test_a_sweep_holds_what_its_plan_says(shape, dtype, device, masked, monkeypatch):
    """Measured by what Python, NumPy included, asks of the system: never more than planned, and not a fraction of it."""
    monkeypatch.setenv("GPU4D_THREADS", "2")
    mask = np.arange(shape[2] * shape[3]).reshape(shape[2:]) > 0 if masked else None
    where = np.random.default_rng(2).random(shape[:2]) > 0.1 if masked else None
    for name in _reductions(shape):

        def swept(shape, where, name=name, mask=mask):
            cube = gpu4d.DataCube(_Filled(shape, dtype), detector_mask=mask)
            asked, on = _reductions(shape)[name], AccountingProcessor() if device == "accounting" else "cpu"
            todo = plan(cube, asked, device=on, where=where)
            tracemalloc.start()
            gpu4d.sweep(cube, asked, device=on, where=where)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return peak, todo.bytes + todo.staging_bytes

        swept((4, 4, *shape[2:]), None if where is None else np.eye(4) > 0)  # compiled code is loaded
        peak, promised = swept(shape, where)
        if peak > promised + OF_PYTHON:  # a table of the interpreter's own (interned strings) may have grown by 4 MB; it does so once
            peak, promised = swept(shape, where)
        assert peak <= promised + OF_PYTHON, f"{name}: {peak / 1e6:.2f} MB held, {promised / 1e6:.2f} MB promised"
        # a second worker of the CPU may find nothing left to do; definitions of float16 make copies one after the other, each planned for
        if device == "accounting" and dtype != "float16":
            assert promised <= 3 * peak, f"{name}: {peak / 1e6:.2f} MB held, {promised / 1e6:.2f} MB promised"


@pytest.mark.parametrize("device", ["cpu", "accounting"])
def test_the_least_memory_and_a_byte_less(device, monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "2")
    cube = gpu4d.DataCube(_Filled((64, 64, 32, 32), "uint16"))
    processor = AccountingProcessor(memory=2e9) if device == "accounting" else "cpu"
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, gpu4d.MeanPattern(), device=processor, memory=1000)
    least = refused.value.asked
    todo = plan(cube, {"mean": gpu4d.MeanPattern()}, device=processor, memory=least)
    assert (todo.bytes, todo.lanes, todo.ring, todo.chunk_tiles) == (least, 1, 1, 1)
    result = gpu4d.sweep(cube, gpu4d.MeanPattern(), device=processor, memory=least)
    np.testing.assert_array_equal(result, cube.source.pattern.astype(float))
    if device == "accounting":
        assert processor.peak <= least and processor.pinned_peak <= least
    with pytest.raises(MemoryBudgetError) as refused:
        gpu4d.sweep(cube, gpu4d.MeanPattern(), device=processor, memory=least - 1)
    assert refused.value.asked == least and refused.value.cap == least - 1
    assert refused.value.free == 2e9 if device == "accounting" else refused.value.free > 1e6
    if device == "accounting":  # too little of the device, and too little to lock
        with pytest.raises(MemoryBudgetError) as refused:
            gpu4d.sweep(cube, gpu4d.MeanPattern(), device=AccountingProcessor(memory=least - 1), memory="1 GB")
        assert (refused.value.asked, refused.value.free, refused.value.cap) == (least, least - 1, 10**9)
        module = __import__("sys").modules["gpu4d.streaming.plan"]
        monkeypatch.setattr(module, "available_memory", lambda: 1000)
        with pytest.raises(MemoryBudgetError, match="page-locked") as refused:
            gpu4d.sweep(cube, gpu4d.MeanPattern(), device=processor, memory="1 GB")
        assert (refused.value.asked, refused.value.free, refused.value.cap) == (todo.tile_bytes, 1000, 10**9)
