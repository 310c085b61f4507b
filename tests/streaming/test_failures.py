"""What goes wrong during a sweep: memory that runs out anywhere in a reduction or a source, files that break, users that lose patience.

Either the answer is the undisturbed one, to the last bit, or there is one clear error; threads and buffers are gone in any case.
"""

import contextlib
import gc
import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import h5py
import numpy as np
import pytest
from threads_left import passing_threads

import gpu4d
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError
from gpu4d.operation import Operation
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import BlockSums, ScanInfo
from gpu4d.streaming.conveyor import Conveyor, _rectangle, _runs
from gpu4d.streaming.plan import Tile
from gpu4d.testing.accounting import AccountingProcessor, VirtualSource

SHAPE = (26, 18, 17, 20)


class Stored:
    """A scan in a made-up file."""

    resident, description = False, "made up"

    def __init__(self, data, blocks=(2, 3), before=None):
        self.data, self.shape, self.dtype, self.blocks, self.before = data, data.shape, data.dtype, blocks, before

    def read(self, rows, columns, out=None):
        if self.before is not None:
            self.before((str(rows), str(columns)))
        if out is None:
            return self.data[rows, columns].copy()
        out[...] = self.data[rows, columns]
        return out


def scan(dtype="uint16", shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4.0, shape)
    return counts.astype(dtype) if np.dtype(dtype).kind in "iu" else (counts * 0.37 + rng.random(shape)).astype(dtype)


def every_reduction(shape=SHAPE):
    rng = np.random.default_rng(1)
    weights = rng.random(shape[:2])
    origin = np.stack(np.meshgrid(np.linspace(7, 9, shape[0]), np.linspace(8, 11, shape[1]), indexing="ij"), -1)
    return {
        "image": gpu4d.VirtualImage({"bf": gpu4d.detectors.disk(4.0), "mask": rng.random(shape[2:]) > 0.5}),
        "weights": gpu4d.VirtualImage(rng.random(shape[2:])),
        "moving": gpu4d.VirtualImage([gpu4d.detectors.disk(4.0), gpu4d.detectors.rectangle(3, 5)], origin),
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=weights),
        "aligned": gpu4d.MeanPattern(weights=weights, origin=origin),
        "max": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "stack": BrightFieldStack(np.flatnonzero(rng.random(shape[2:]) > 0.8)),
        "disks": gpu4d.BraggDisks(gpu4d.probe.synthetic(shape[2:], 2.5), min_significance=1.0),
    }


def as_bytes(result):
    if hasattr(result, "offsets"):
        return (np.asarray(result.offsets).tobytes(), *(np.asarray(result.flat(f)).tobytes() for f in result.fields))
    return np.asarray(getattr(result, "data", result)).tobytes()


def bits(results):
    return {name: as_bytes(result) for name, result in results.items()}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of six patterns, several rows of them in a block: a small scan is a long one. No thread may be left behind."""
    module = importlib.import_module("gpu4d.streaming.plan")
    monkeypatch.setattr(module, "TILE_BYTES", 6 * 17 * 20 * 2)
    monkeypatch.setattr(module, "CHUNK_BYTES", 36 * 17 * 20 * 2)
    monkeypatch.setattr(module, "MOST_BLOCKS", 5)
    before = passing_threads()
    yield
    assert passing_threads() == before


class Trips:
    """Raises at a few calls, drawn from a seed: `least` others or more lie between two, and none is for the same work."""

    def __init__(self, seed, error=MemoryError, least=60, spread=40, times=6):
        self.rng, self.error, self.least, self.spread, self.left = np.random.default_rng(seed), error, least, spread, times
        self.lock, self.next, self.inside, self.tripped = threading.Lock(), 0, threading.local(), set()
        self.rest()

    def rest(self):
        self.next = self.least + int(self.rng.integers(0, self.spread))

    def __call__(self, work):
        with self.lock:
            self.next -= 1
            if self.next > 0 or not self.left or work in self.tripped:
                return
            self.left -= 1
            self.tripped.add(work)
            self.rest()
        raise self.error("as asked")


def test_arrays_in_place_are_taken_in_runs(monkeypatch):
    """Parts of rows, several at a time: only what follows in the scan is taken together."""
    xp = pytest.importorskip("array_api_strict")
    for shape in ((26, 18, 5, 4), (7, 150, 5, 4), (9, 3, 5, 4)):
        data = scan("uint16", shape)
        module = importlib.import_module("gpu4d.streaming.plan")
        monkeypatch.setattr(module, "TILE_BYTES", 6 * 40)
        for together in (1, 2, 3, 7, 40):
            monkeypatch.setattr(module, "CHUNK_BYTES", together * 6 * 40)
            found = gpu4d.sweep(gpu4d.DataCube(xp.asarray(data)), gpu4d.VirtualImage(np.ones(shape[2:], bool)))
            np.testing.assert_array_equal(np.asarray(found.data), data.sum((2, 3)))


def test_runs_of_tiles_keep_the_order_of_their_positions():
    rng = np.random.default_rng(4)
    for _ in range(200):
        rx, ry, rows, columns = (int(n) for n in rng.integers(1, 9, 4))
        edges = lambda n, step: [slice(i, min(i + step, n)) for i in range(0, n, step)]  # noqa: E731
        tiles = [Tile(r, c) for r in edges(rx, rows) for c in edges(ry, columns)]
        first, last = sorted(int(n) for n in rng.integers(0, len(tiles) + 1, 2))
        chosen = tuple(tile for tile in tiles[first:last] if rng.random() < 0.9)
        runs = [(run, Tile(*_rectangle(run))) for run in _runs(chosen, ry)]
        assert tuple(tile for run, _ in runs for tile in run) == chosen
        for run, whole in runs:
            np.testing.assert_array_equal(whole.positions(), np.concatenate([tile.positions() for tile in run]))


def test_sums_asked_for_too_early_are_in_row_order_too():
    info = ScanInfo((8, 1, 1, 1), np.dtype("float64"), block_rows=(0, 2, 4, 6, 8))
    parts = [1e16, 1.0, -1e16, 1.0]  # order matters to the last bit
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        sums = BlockSums(info)
        for block in order:
            sums.add(block, parts[block], 1)  # of two frames
        assert sums.result() == ((1e16 + 1.0) - 1e16) + 1.0 and sums.folded == 0


def trip_reductions(monkeypatch, trips):
    """Before and after every operation and every addition that a reduction makes while it is updated."""

    def guarded(original):
        def call(*args, **options):
            work = getattr(trips.inside, "work", None)
            if work is not None:
                trips(work)
            found = original(*args, **options)
            if work is not None:
                trips(work)
            return found

        return call

    update, made = Conveyor._update, BlockSums.__init__

    def inside(self, step, frames):
        trips.inside.work = (str(step.tiles[0]), id(step.reductions[0]))
        try:
            update(self, step, frames)
        finally:
            trips.inside.work = None

    def combining(self, *args, **options):
        made(self, *args, **options)
        self.combine = guarded(self.combine)

    monkeypatch.setattr(Conveyor, "_update", inside)
    monkeypatch.setattr(Operation, "__call__", guarded(Operation.__call__))
    monkeypatch.setattr(BlockSums, "__init__", combining)


def where_it_runs(kind, data):
    """A cube and a device."""
    if kind == "accounting":
        return gpu4d.DataCube(Stored(data)), AccountingProcessor(readers_in_threads=True)
    if kind == "strict":
        return gpu4d.DataCube(pytest.importorskip("array_api_strict").asarray(data)), "auto"
    return gpu4d.DataCube(data if kind == "cpu in place" else Stored(data)), "cpu"


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("kind", ["accounting", "cpu", "cpu in place", "strict"])
@pytest.mark.parametrize("names", ["each alone", "all together"])
def test_memory_that_runs_out_inside_a_reduction(kind, dtype, names, monkeypatch):
    """The update that failed took nothing: the answer is the undisturbed one, and progress counts every pattern once."""
    shape = (8, 9, *SHAPE[2:]) if kind == "strict" else SHAPE  # definitions of a strict library are slow
    data = scan(dtype, shape)
    cube, device = where_it_runs(kind, data)
    wanted = bits(gpu4d.sweep(cube, every_reduction(shape), device=device))
    together = [tuple(wanted)] if names == "all together" else [(name,) for name in wanted]
    tripped = 0
    for seed in range(1 if kind == "strict" else 4):
        for chosen in together:
            with monkeypatch.context() as patch:
                least = 2 if kind == "strict" else 12  # its tiles are few updates, with few calls
                trips, calls = Trips(seed, least=least, spread=100 if len(chosen) > 1 else least), []
                trip_reductions(patch, trips)
                asked = {name: r for name, r in every_reduction(shape).items() if name in chosen}
                found = gpu4d.sweep(cube, asked, device=device, progress=lambda *call, calls=calls: calls.append(call))
            assert bits(found) == {name: wanted[name] for name in chosen}, (seed, chosen)
            done = [done for done, _ in calls]
            assert done == sorted(set(done)) and done[-1] == shape[0] * shape[1] and min(done) > 0, (seed, chosen)
            tripped += len(trips.tripped)
    assert tripped >= (2 if kind == "strict" else 3) * len(together), "the test would pass without a failure"


@pytest.mark.parametrize("fused", [("mean", "max", "com"), ("mean", "image"), ("max", "com", "image", "mean")])
def test_one_reading_for_several_is_taken_by_all_or_none(fused, monkeypatch):
    cube = gpu4d.DataCube(Stored(scan()))
    ask = lambda: {name: r for name, r in every_reduction().items() if name in fused}  # noqa: E731
    wanted = bits(gpu4d.sweep(cube, ask()))
    for seed in range(12):
        with monkeypatch.context() as patch:
            trips = Trips(seed, least=5, spread=9, times=12)
            trip_reductions(patch, trips)
            assert bits(gpu4d.sweep(cube, ask(), device=AccountingProcessor())) == wanted
            assert len(trips.tripped) > 2


@pytest.mark.parametrize("device", ["cpu", "accounting"])
def test_memory_that_runs_out_in_a_source(device):
    data = scan()
    wanted = bits(gpu4d.sweep(gpu4d.DataCube(Stored(data)), every_reduction()))
    for seed in range(6):
        trips = Trips(seed, least=8, spread=9)
        cube = gpu4d.DataCube(Stored(data, before=trips))
        processor = "cpu" if device == "cpu" else AccountingProcessor(readers_in_threads=bool(seed % 2))
        assert bits(gpu4d.sweep(cube, every_reduction(), device=processor)) == wanted
        assert len(trips.tripped) > 1


def test_memory_that_never_comes_back_is_an_error_with_three_numbers():
    def never(work):
        raise MemoryError("as asked")

    processor = AccountingProcessor()
    for device in (processor, "cpu"):
        with pytest.raises(MemoryBudgetError, match="single tiles") as error:
            gpu4d.sweep(gpu4d.DataCube(Stored(scan(), before=never)), gpu4d.MeanPattern(), device=device, memory="50 MB")
        assert error.value.cap == 50_000_000 and error.value.free > 0
    assert processor.held == processor.pinned_held == 0 and not processor.faults


@pytest.mark.parametrize("operation", ["allocate", "pinned", "read"])
def test_a_refusal_says_which_memory_ran_out_and_how(operation, monkeypatch):
    """Page-locked and reading memory are the host's: its figure is the one that is free."""
    for module in ("gpu4d.streaming.conveyor", "gpu4d.streaming.plan"):
        monkeypatch.setattr(importlib.import_module(module), "available_memory", lambda: 123_000_000)
    fails = lambda called, number: MemoryError("nobody has any left") if called == operation else None  # noqa: E731
    processor = AccountingProcessor(memory=7e9, failures=fails)
    source = VirtualSource(processor, SHAPE, np.uint16)
    with pytest.raises(MemoryBudgetError, match="memory ran out with: nobody has any left: raise memory=") as error:
        gpu4d.sweep(gpu4d.DataCube(source), gpu4d.MeanPattern(), device=processor, memory="50 MB")
    host = {"allocate": "", "pinned": ", in page-locked memory,", "read": ", in host memory,"}[operation]
    assert f"single tiles{host} needs" in str(error.value)
    assert error.value.free == (123_000_000 if host else 7_000_000_000) and error.value.cap == 50_000_000
    assert 0 < error.value.asked < 50_000_000
    given_back([processor])


class Hungry(gpu4d.MaxPattern):
    """Runs out of memory in one of its calls."""

    def __init__(self, call, on=None):
        super().__init__()
        self.call, self.on = call, on

    def _hungry(self, call):
        if call == self.call and self.on in (None, self.device):
            raise MemoryError(f"no room to {call}")

    def start(self, scan, device, pass_=0):
        self.device = device
        self._hungry("start")
        super().start(scan, device, pass_)

    def state(self):
        self._hungry("state")
        return super().state()

    def merge(self, state):
        self._hungry("merge")
        super().merge(state)

    def finish(self):
        self._hungry("finish")
        return super().finish()


@pytest.mark.parametrize(
    "call, where, free",
    [("start", 1, 3_000_000_000), ("state", 1, 3_000_000_000), ("merge", 0, 2_000_000_000), ("finish", 0, 2_000_000_000)],
)
def test_what_cannot_be_done_in_smaller_steps_is_refused_with_the_numbers_of_its_device(call, where, free):
    several = [AccountingProcessor(f"accounting:{i}", memory=m) for i, m in enumerate((2e9, 3e9))]
    reduction = Hungry(call, on=several[where].name if call == "start" else None)
    with pytest.raises(MemoryBudgetError, match=f"memory ran out with: no room to {call}") as error:
        gpu4d.sweep(gpu4d.DataCube(Stored(scan())), reduction, device=several, memory="50 MB")
    assert free - 10_000_000 < error.value.free <= free and error.value.cap == 50_000_000
    assert several[where].name in str(error.value) or call == "finish"
    given_back(several)


@pytest.mark.parametrize("call", ["start", "finish"])
def test_memory_that_runs_out_before_and_after_a_pass_on_the_cpu(call):
    with pytest.raises(MemoryBudgetError, match=f"memory ran out with: no room to {call}"):
        gpu4d.sweep(gpu4d.DataCube(scan()), Hungry(call))


@pytest.mark.parametrize("kind", ["allocate", "pinned"])
@pytest.mark.parametrize("buffers", [1, 2])
def test_a_ring_as_short_as_memory_allows(kind, buffers):
    """A device that has room for one buffer, though it promised more."""
    data = scan()

    def failing(operation, number):
        held = processor.held if kind == "allocate" else processor.pinned_held
        return MemoryError("as asked") if operation == kind and held >= buffers * SHAPE[2] * SHAPE[3] * 2 * 6 else None

    processor = AccountingProcessor(failures=failing)
    found = gpu4d.sweep(gpu4d.DataCube(Stored(data)), gpu4d.MaxPattern(), device=processor)
    np.testing.assert_array_equal(found, data.max((0, 1)))
    given_back([processor])


class Broken:
    """A reduction with a bug."""

    def __init__(self, after=3):
        self.after, self.lock = after, threading.Lock()

    def bytes_needed(self, scan, n_frames):
        return 0

    def passes(self, scan, budget):
        return 1

    def start(self, scan, device, pass_=0): ...

    def update(self, frames, positions):
        with self.lock:
            self.after -= 1
            if self.after < 0:
                raise ValueError("a bug of the caller")

    def state(self):
        return {"after": self.after}

    def restore(self, state): ...

    def merge(self, state): ...

    def finish(self): ...

    def __getstate__(self):
        return {"after": self.after}

    def __setstate__(self, state):
        self.__init__(state["after"])


def devices(kind):
    """Processors of a kind, and what `sweep` is given."""
    count = {"cpu": 0, "accounting": 1, "threads": 1, "two lanes": 1, "three devices": 3}[kind]
    options = {"readers_in_threads": kind != "accounting", "lanes": 2 if kind == "two lanes" else 1}
    several = [AccountingProcessor(f"accounting:{i}", **options) for i in range(count)]
    return several, "cpu" if not several else several if len(several) > 1 else several[0]


def given_back(several):
    for processor in several:
        assert processor.held == processor.pinned_held == 0 and not processor.faults, processor.faults


KINDS = ("cpu", "accounting", "threads", "two lanes", "three devices")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bug_in_a_reduction_leaves_nothing_behind(kind):
    for after in range(0, 12, 3):
        several, device = devices(kind)
        with pytest.raises(ValueError, match="a bug of the caller"):
            gpu4d.sweep(gpu4d.DataCube(Stored(scan(), before=lambda work: time.sleep(0.001))), {"bug": Broken(after)}, device=device)
        given_back(several)


@pytest.mark.parametrize("source", ["in place", "from a file"])
def test_the_others_stop_when_one_fails(source, monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "2")
    data, bug = scan(), Broken(2)
    seen, update = [], bug.update

    def slow(frames, positions):
        seen.append(len(positions))
        time.sleep(0.002)
        update(frames, positions)

    bug.update = slow
    with pytest.raises(ValueError, match="a bug of the caller"):
        gpu4d.sweep(gpu4d.DataCube(data if source == "in place" else Stored(data)), bug)
    assert len(seen) < 12, "of 104 tiles"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_a_read_that_fails_in_the_middle(kind, error):
    for least in (1, 5, 20):
        several, device = devices(kind)
        trips = Trips(0, error, least=least, times=1)
        trips.next = least

        def before(work, trips=trips):
            time.sleep(0.0005)
            trips(work)

        with pytest.raises(error, match="as asked"):
            gpu4d.sweep(gpu4d.DataCube(Stored(scan(), before=before)), every_reduction(), device=device)
        given_back(several)


@pytest.mark.parametrize("kind", KINDS)
def test_progress_that_fails_ends_the_sweep(kind):
    def told(done, total):
        if done > 30:
            raise RuntimeError("the window was closed")

    several, device = devices(kind)
    with pytest.raises(RuntimeError, match="window was closed"):
        gpu4d.sweep(gpu4d.DataCube(Stored(scan())), gpu4d.MeanPattern(), device=device, progress=told)
    given_back(several)


@pytest.mark.parametrize("kind", ["two lanes", "three devices"])
def test_several_conveyors_and_what_fails_on_one(kind):
    """A lost device or an empty one: the same bits, or one error; the others stop and leave nothing."""
    data = scan(shape=(24, 9, 17, 20))
    wanted = bits(gpu4d.sweep(gpu4d.DataCube(Stored(data)), every_reduction(data.shape)))
    rng, outcomes = np.random.default_rng(3), set()
    for _ in range(40):
        several, device = devices(kind)
        planned = [
            (str(rng.choice(["allocate", "pinned", "copy", "compute", "submit", "job", "wait"])), int(rng.integers(1, 9))) for _ in range(2)
        ]
        for processor in several[:2]:
            kinds = (MemoryError, MemoryError, DeviceError, InputError)
            failing = {key: kinds[rng.integers(0, 4)]("as asked") for key in planned}
            processor._failures = lambda operation, number, failing=failing: failing.get((operation, number))
        cube = gpu4d.DataCube(Stored(data, before=lambda work: time.sleep(0.0003)))
        try:
            assert bits(gpu4d.sweep(cube, every_reduction(data.shape), device=device)) == wanted
            outcomes.add("done")
        except (DeviceError, InputError, MemoryBudgetError) as error:
            outcomes.add(type(error).__name__)
        given_back(several)
    assert {"done", "DeviceError", "InputError"} <= outcomes


INTERRUPTED = """
import sys, threading, time
import numpy as np, gpu4d
from gpu4d.testing.accounting import AccountingProcessor

path, device, probe = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
processor = AccountingProcessor(readers_in_threads=True, lanes=int(sys.argv[4])) if device == "accounting" else device
cube = gpu4d.open(path)

def reductions():
    return {"mean": gpu4d.MeanPattern(weights=np.ones(cube.scan_shape)), "com": gpu4d.CenterOfMass(), "max": gpu4d.MaxPattern(),
            "disks": gpu4d.BraggDisks(probe)}

def others():  # those that compute are kept
    return [thread for thread in threading.enumerate() if not thread.name.startswith("gpu4d-compute")]

gpu4d.sweep(cube, reductions(), device=processor)  # compiled code is loaded
threads = len(others())
print("ready", flush=True)
try:
    while True:
        gpu4d.sweep(cube, reductions(), device=processor)
except KeyboardInterrupt:
    until = time.monotonic() + 2  # a thread that was just being started ends by itself: its pool had not noted it yet
    while len(others()) > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert len(others()) == threads, threading.enumerate()
    if device == "accounting":
        assert processor.held == processor.pinned_held == 0 and not processor.faults, processor.faults
    print("interrupted", flush=True)
    sys.exit(130)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="sends SIGINT to a process")
@pytest.mark.parametrize("device", ["cpu", "accounting"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c(device, workers, tmp_path):
    """Within seconds, at whatever moment; no thread, buffer or file is left."""
    small = gpu4d.simulate.bragg_scan((4, 4), (64, 64), seed=1)
    path, probe = tmp_path / "scan.h5", tmp_path / "probe.npy"
    with h5py.File(path, "w") as f:
        options = {"chunks": (4, 4, 64, 64), "compression": "gzip", "compression_opts": 1}
        f.create_dataset("data", data=np.tile(np.asarray(small.cube.source.array), (8, 8, 1, 1)), **options)
    np.save(probe, small.probe)
    rng = np.random.default_rng()
    for _ in range(2):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        run = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, path, device, probe, workers],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GPU4D_THREADS": workers, "TMPDIR": str(scratch)},
        )
        try:
            assert run.stdout.readline() == "ready\n", run.stderr.read()
            time.sleep(rng.uniform(0, 0.5))
            begin = time.monotonic()
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=20)
        finally:
            run.kill()
        assert run.returncode == 130 and out == "interrupted\n", err
        assert time.monotonic() - begin < 5
        assert list(scratch.iterdir()) == [] and sorted(p.name for p in tmp_path.iterdir()) == ["probe.npy", "scan.h5", "scratch"]


@pytest.mark.parametrize("device", ["cpu", "accounting"])
def test_ctrl_c_while_a_thread_is_started(device, monkeypatch):
    """The pool does not know the thread it was starting: the sweep ends only after that thread has left its buffers."""
    started, workspaces = [], []

    def interrupted(work, *args):
        thread = threading.Thread(target=work, args=args)
        started.append(thread)
        thread.start()
        time.sleep(0.05)  # it is at work
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def beside(count, name):
        yield interrupted

    class Slow(gpu4d.MeanPattern):
        def update(self, frames, positions):
            time.sleep(0.2)
            super().update(frames, positions)

    monkeypatch.setenv("GPU4D_THREADS", "2")
    engine = importlib.import_module("gpu4d.streaming.engine")
    monkeypatch.setattr(engine.threads, "beside", beside)
    monkeypatch.setattr(engine.threads, "submit", interrupted)
    close = engine._Door.close
    monkeypatch.setattr(engine._Door, "close", lambda door: (close(door), workspaces.append(started[0].is_alive() and door._inside))[0])
    processor = AccountingProcessor(lanes=2) if device == "accounting" else "cpu"
    try:
        gpu4d.sweep(gpu4d.DataCube(np.ones((64, 8, 16, 16), np.uint8)), Slow(), device=processor, memory="1 MB")
        raise AssertionError("the interrupt was lost")
    except KeyboardInterrupt:  # pytest.raises would keep its frames, and with them the buffers
        pass
    assert started and workspaces == [0], "the thread has left before the sweep goes on"
    started[0].join(5)
    if device == "accounting":
        gc.collect()
        assert not processor.faults and processor.held == processor.pinned_held == 0


EDGES = {
    "one position": ((1, 1, 17, 20), (1, 1)),
    "one pixel": ((5, 6, 1, 1), (1, 1)),
    "one row": ((1, 40, 17, 20), (1, 7)),
    "one column": ((40, 1, 17, 20), (7, 1)),
    "blocks larger than the scan": ((5, 6, 17, 20), (64, 64)),
    "no row": ((0, 6, 17, 20), (1, 1)),
    "no column": ((5, 0, 17, 20), (1, 1)),
    "ragged blocks": ((11, 13, 17, 20), (4, 5)),
}


@pytest.mark.parametrize("shape, blocks", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("nothing", [False, True])
def test_scans_at_the_edge(shape, blocks, nothing):
    """Of one position, of one pixel, of none: the same from every device, NaN where nothing was seen, NaN patterns alone harmed."""
    data = scan("float32", shape)
    if data.size:
        data[-1, -1] = np.nan
    where = np.zeros(shape[:2], bool) if nothing else None

    def ask():
        return {
            "image": gpu4d.VirtualImage(np.ones(shape[2:], bool)),
            "mean": gpu4d.MeanPattern(),
            "weighted": gpu4d.MeanPattern(weights=np.ones(shape[:2])),
            "max": gpu4d.MaxPattern(),
            "com": gpu4d.CenterOfMass(),
            "stack": BrightFieldStack([0]),
        }

    found = [
        gpu4d.sweep(gpu4d.DataCube(source), ask(), device=device, where=where)
        for source, device in (
            (Stored(data, blocks), "cpu"),
            (data, "cpu"),
            (Stored(data, blocks), AccountingProcessor()),
            (Stored(data, blocks), [AccountingProcessor("accounting:0"), AccountingProcessor("accounting:1")]),
        )
    ]
    assert all(bits(other) == bits(found[0]) for other in found[1:])
    good = np.isfinite(data).all((2, 3)) & (not nothing)
    image, mean = np.asarray(found[0]["image"]), np.asarray(found[0]["mean"])
    assert np.isnan(image[~good]).all() and np.isfinite(image[good]).all()
    if good.any():
        np.testing.assert_allclose(mean, data[good].mean(0, dtype=float), rtol=1e-12)
        np.testing.assert_array_equal(found[0]["max"], data[good].max(0))
    else:
        assert np.isnan(mean).all() and np.isnan(np.asarray(found[0]["max"])).all()


def test_no_reduction_at_all():
    processor = AccountingProcessor()
    assert gpu4d.sweep(gpu4d.DataCube(Stored(scan())), {}, device=processor) == {}
    assert gpu4d.sweep(gpu4d.DataCube(Stored(scan())), {}) == {}
    given_back([processor])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16"])
def test_every_dtype_that_files_may_have(dtype):
    data = scan("float32") > 3 if dtype == "bool" else scan("uint8").astype(dtype)
    ask = lambda: {name: r for name, r in every_reduction().items() if name != "disks"}  # noqa: E731
    found = gpu4d.sweep(gpu4d.DataCube(Stored(data)), ask())
    wanted = gpu4d.sweep(gpu4d.DataCube(Stored(data.astype("float64"))), ask())
    for name in found:
        np.testing.assert_allclose(np.asarray(found[name], float), np.asarray(wanted[name]), rtol=1e-13, atol=1e-12, err_msg=name)


def test_where_results_are_kept():
    """Beside the array by default, on the host where asked; another device than the array's is refused."""
    xp = pytest.importorskip("array_api_strict")
    data = scan("float32", (2, 3, 17, 20))
    ask = lambda: {name: r for name, r in every_reduction(data.shape).items() if name != "stack"}  # noqa: E731
    plain = lambda result: result.flat("qx") if hasattr(result, "offsets") else result.data  # noqa: E731
    for device in (None, xp.Device("device1")):
        cube = gpu4d.DataCube(xp.asarray(data, device=device))
        for keep, library in ((None, "array_api_strict"), ("device", "array_api_strict"), ("host", "numpy")):
            for name, result in gpu4d.sweep(cube, ask(), keep=keep).items():
                found = plain(result)
                assert type(found).__module__.startswith(library), (name, keep)
                if library != "numpy" and device is not None:
                    assert found.device == device, name
        with pytest.raises(DeviceError, match="cuda"):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), device="cuda:0")
    with pytest.raises(InputError, match="keep='elsewhere'"):
        gpu4d.sweep(cube, gpu4d.MeanPattern(), keep="elsewhere")
    for keep in (None, "host", "device"):
        result = gpu4d.sweep(gpu4d.DataCube(Stored(data)), gpu4d.MeanPattern(), device=AccountingProcessor(), keep=keep)
        assert type(result.data) is np.ndarray
    with pytest.raises(InputError, match="several devices"):
        several = [AccountingProcessor("accounting:0"), AccountingProcessor("accounting:1")]
        gpu4d.sweep(gpu4d.DataCube(Stored(data)), gpu4d.MeanPattern(), device=several, keep="device")
