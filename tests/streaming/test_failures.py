"""Errors in a sweep leave nothing behind: bugs in reductions, files that break, progress that fails, Ctrl-C."""

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
from failing_sweeps import KINDS, Stored, Trips, bits, devices, every_reduction, given_back, scan

import gpu4d
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError
from gpu4d.testing.accounting import AccountingProcessor

pytestmark = pytest.mark.usefixtures("small_tiles")

# ---------------------------------------------------------------- errors


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
        time.sleep(0.005)
        update(frames, positions)

    bug.update = slow
    with pytest.raises(ValueError, match="a bug of the caller"):
        gpu4d.sweep(gpu4d.DataCube(data if source == "in place" else Stored(data)), bug)
    assert len(seen) < 70, "of 104 tiles: half a second of the other thread's work is left"


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


# What fails at the first call of an operation, whichever processor makes it, and how the sweep ends.
FIRST_CALL = [(None, "done"), ("copy", "DeviceError"), ("copy", "InputError")]


@pytest.mark.parametrize("kind", ["two lanes", "three devices"])
def test_several_conveyors_and_what_fails_on_one(kind):
    """A lost device or an empty one: the same bits, or one error; the others stop and leave nothing."""
    data = scan(shape=(24, 9, 17, 20))
    wanted = bits(gpu4d.sweep(gpu4d.DataCube(Stored(data)), every_reduction(data.shape)))

    def outcome(failures):
        several, device = devices(kind)
        for processor, failing in zip(several, failures, strict=False):
            processor._failures = lambda operation, number, failing=failing: failing.get((operation, number))
        cube = gpu4d.DataCube(Stored(data, before=lambda work: time.sleep(0.0003)))
        try:
            assert bits(gpu4d.sweep(cube, every_reduction(data.shape), device=device)) == wanted
            return "done"
        except (DeviceError, InputError, MemoryBudgetError) as error:
            return type(error).__name__
        finally:
            given_back(several)

    errors = {"DeviceError": DeviceError, "InputError": InputError}
    for operation, ending in FIRST_CALL:
        failing = {} if operation is None else {(operation, 1): errors[ending]("as asked")}
        assert outcome([failing] * 3) == ending
    rng = np.random.default_rng(3)
    for _ in range(12):  # which of several failures comes first, and whether it comes, depends on the threads
        planned = [
            (str(rng.choice(["allocate", "pinned", "copy", "compute", "submit", "job", "wait"])), int(rng.integers(1, 9))) for _ in range(2)
        ]
        kinds = (MemoryError, MemoryError, DeviceError, InputError)
        outcome([{key: kinds[rng.integers(0, 4)]("as asked") for key in planned} for _ in range(2)])


# ---------------------------------------------------------------- interrupts


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np, gpu4d
from gpu4d.testing.accounting import AccountingProcessor

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell ignore it

path, probe, workers = sys.argv[1], np.load(sys.argv[2]), int(sys.argv[3])
cube, rng = gpu4d.open(path), np.random.default_rng()

def reductions():
    return {"mean": gpu4d.MeanPattern(weights=np.ones(cube.scan_shape)), "com": gpu4d.CenterOfMass(), "max": gpu4d.MaxPattern(),
            "disks": gpu4d.BraggDisks(probe, refine="correlation")}

def others():  # those that compute are kept
    return [thread for thread in threading.enumerate() if not thread.name.startswith("gpu4d-compute")]

def interrupt(device, threads):
    arrived = threading.Event()

    def send():
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(os.getpid(), signal.SIGINT)
        while not arrived.wait(5):  # Python ignores errors in some callbacks
            os.kill(os.getpid(), signal.SIGINT)

    signals = threading.Thread(target=send)
    try:
        signals.start()
        while True:
            gpu4d.sweep(cube, reductions(), device=device)
    except KeyboardInterrupt:
        arrived.set()
    signals.join()
    until = time.monotonic() + 30  # a thread that was just being started ends by itself: its pool had not noted it yet
    while len(others()) > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert len(others()) == threads, threading.enumerate()

processor = AccountingProcessor(readers_in_threads=True, lanes=workers)
for device in ("cpu", processor):
    gpu4d.sweep(cube, reductions(), device=device)  # compiled code is loaded
    threads = len(others())
    for _ in range(4):
        interrupt(device, threads)
        assert processor.held == processor.pinned_held == 0 and not processor.faults, processor.faults
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="sends SIGINT to a process")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c(workers, tmp_path):
    """At whatever moment it ends; no thread, buffer or file is left."""
    small = gpu4d.simulate.bragg_scan((4, 4), (64, 64), seed=1)
    path, probe, scratch = tmp_path / "scan.h5", tmp_path / "probe.npy", tmp_path / "scratch"
    scratch.mkdir()
    with h5py.File(path, "w") as f:
        options = {"chunks": (4, 4, 64, 64), "compression": "gzip", "compression_opts": 1}
        f.create_dataset("data", data=np.tile(np.asarray(small.cube.source.array), (3, 3, 1, 1)), **options)
    np.save(probe, small.probe)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, path, probe, workers],
        capture_output=True,
        text=True,
        env={**os.environ, "GPU4D_THREADS": workers, "TMPDIR": str(scratch)},
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout == "interrupted\n" * 2, done.stderr
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
    passes = importlib.import_module("gpu4d.streaming.passes")
    monkeypatch.setattr(passes.threads, "beside", beside)
    monkeypatch.setattr(passes.threads, "submit", interrupted)
    close = passes._Door.close
    monkeypatch.setattr(passes._Door, "close", lambda door: (close(door), workspaces.append(started[0].is_alive() and door._inside))[0])
    processor = AccountingProcessor(lanes=2) if device == "accounting" else "cpu"
    try:
        gpu4d.sweep(gpu4d.DataCube(np.ones((64, 8, 16, 16), np.uint8)), Slow(), device=processor, memory="1 MB")
        raise AssertionError("the interrupt was lost")
    except KeyboardInterrupt:  # pytest.raises would keep its frames, and with them the buffers
        pass
    assert started and workspaces == [0], "the thread has left before the sweep goes on"
    started[0].join(60)
    if device == "accounting":
        gc.collect()
        assert not processor.faults and processor.held == processor.pinned_held == 0
