"""One pool of threads that compute: shared, nested, forked, interrupted; and nothing that computes beside it."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpu4d
from gpu4d.device import threads
from gpu4d.operation import using
from gpu4d.ptychography.gather_pixels import gather_pixels


@pytest.fixture(autouse=True)
def _two(monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "2")


def _busy():
    return [t for t in threading.enumerate() if t.name.startswith("gpu4d-compute")]


def test_results_come_in_order_and_threads_are_kept():
    assert list(threads.in_threads(lambda i: i * i, range(50))) == [i * i for i in range(50)]
    first = {t.ident for t in _busy()}
    assert list(threads.in_threads(lambda i: i + 1, range(50))) == list(range(1, 51))
    assert len(first) == 1 and {t.ident for t in _busy()} == first, "the caller is the second"


def test_calls_at_the_same_time_share_the_threads():
    at_work, most, lock = [0], [0], threading.Lock()

    def work(_):
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
        time.sleep(0.002)
        with lock:
            at_work[0] -= 1

    together = threading.Barrier(4)

    def call():
        together.wait(60)
        list(threads.in_threads(work, range(20)))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert 4 <= most[0] <= 5 and not any(caller.is_alive() for caller in callers), "every caller, and the pool"


def test_work_inside_work_stays_in_its_thread():
    def inner(_):
        return threading.current_thread().name

    def outer(_):
        return threading.current_thread().name, set(threads.in_threads(inner, range(3)))

    names = set()
    for own, others in threads.in_threads(outer, range(50)):
        assert others == {own}
        names.add(own)
    assert names <= {threading.current_thread().name, *(t.name for t in _busy())} and len(names) <= 2


class _Slow:
    """A reduction that only takes its time."""

    def __init__(self, seconds):
        self.seconds = seconds

    def bytes_needed(self, scan, n_frames):
        return 0

    def passes(self, scan, budget):
        return 1

    def start(self, scan, device, pass_=0):
        self.tiles = 0

    def update(self, frames, positions):
        time.sleep(self.seconds)

    def state(self):
        return {}

    def restore(self, state):
        pass

    def merge(self, state):
        pass

    def finish(self):
        return "done"


def test_a_callback_may_wait_for_another_thread_that_sweeps():
    cube, small = (gpu4d.DataCube(np.zeros((64, 64, n, n), "uint16")) for n in (64, 16))
    with ThreadPoolExecutor(1) as window:

        def shown(done, total):
            assert window.submit(gpu4d.sweep, small, _Slow(0.001)).result(20) == "done"

        assert gpu4d.sweep(cube, _Slow(0.001), progress=shown) == "done"


def test_a_small_sweep_does_not_wait_for_the_end_of_a_long_one():
    cube, small = (gpu4d.DataCube(np.zeros((64, 64, n, n), "uint16")) for n in (64, 16))
    begun, ended = threading.Event(), threading.Event()

    def long():
        gpu4d.sweep(cube, _Slow(0.5), progress=lambda done, total: begun.set())
        ended.set()

    other = threading.Thread(target=long)
    other.start()
    assert begun.wait(120)
    assert gpu4d.sweep(small, _Slow(0.001)) == "done"
    early = not ended.is_set()
    other.join(60)
    assert early and ended.is_set()


def test_ctrl_c_in_the_callers_own_share_ends_at_once():
    started = []

    def work(i):
        started.append(i)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        list(threads.in_threads(work, range(40)))
    seen = len(started)
    time.sleep(0.2)
    assert len(started) == seen < 40


def test_an_error_ends_the_rest_first():
    done = []

    def work(i):
        if i == 0:
            raise ValueError("the first")
        time.sleep(0.02)
        done.append(i)

    with pytest.raises(ValueError, match="the first"):
        list(threads.in_threads(work, range(50)))
    seen = len(done)
    time.sleep(0.1)
    assert len(done) == seen < 50, "nothing is still at work"


def test_the_context_of_the_caller_holds_in_the_threads():
    with using("definition"):
        found = list(threads.in_threads(lambda _: gather_pixels.choose(np.zeros((2, 4, 4)), np.zeros(1, int)), range(4)))
    assert set(found) == {"definition"}


def test_another_number_of_threads_is_another_pool(monkeypatch):
    together = threading.Barrier(4)
    monkeypatch.setenv("GPU4D_THREADS", "4")
    assert len(list(threads.in_threads(lambda _: together.wait(60), range(4)))) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_makes_its_own():
    code = """
    import os, sys
    from gpu4d.device import threads
    assert list(threads.in_threads(abs, (-1, -2, -3))) == [1, 2, 3]
    child = os.fork()
    if child == 0:
        os._exit(0 if list(threads.in_threads(abs, (-1, -2, -3))) == [1, 2, 3] else 1)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=True, timeout=60)


ALONE = """
import os, sys, time
import numpy as np, gpu4d

scan = gpu4d.simulate.bragg_scan((16, 16), dose=300.0, seed=1)
phase = gpu4d.simulate.phase_object_scan((16, 16), seed=1)
com = np.random.default_rng(0).normal(size=(128, 128, 2))
template = gpu4d.probe.template(scan.probe)
frames = np.asarray(scan.cube.source.read(slice(0, 16), slice(0, 16))).reshape(-1, *scan.cube.detector_shape)


def all_of_it():
    disks = gpu4d.find_bragg_disks(frames, template)
    gpu4d.find_bragg_disks(scan.cube, template, refine="correlation")
    weights = np.random.default_rng(0).random(scan.cube.detector_shape)
    gpu4d.sweep(scan.cube, {"com": gpu4d.CenterOfMass(), "mean": gpu4d.MeanPattern(), "image": gpu4d.VirtualImage(weights)})
    gpu4d.dpc(com)
    gpu4d.ssb(phase.cube)


all_of_it()
wall, own, everybody = time.perf_counter(), time.thread_time(), time.process_time()
for _ in range(3):
    all_of_it()
wall, own, everybody = time.perf_counter() - wall, time.thread_time() - own, time.process_time() - everybody
print(own, everybody, wall)
sys.exit(0 if everybody <= 1.1 * own + 0.05 else 1)
"""


def test_one_thread_asked_is_one_thread_at_work(monkeypatch):
    """What BLAS does in threads of its own would show as time of the process that is not of the caller's thread."""
    monkeypatch.setenv("GPU4D_THREADS", "1")
    ran = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
