"""The CPU and CUDA devices as processors of the sweep.

CUDA runs on a CuPy made of host memory (`tests/support/fake_cupy.py`), which is strict about order, freed memory, contexts and signatures.
On a real one it runs in `tests/streaming/test_gpu_streaming.py`.
"""

import threading
import time

import numpy as np
import pytest
from fake_devices import PROCESSORS, opened

import gpu4d
from gpu4d.device.processors.cpu import CpuProcessor
from gpu4d.device.processors.processor import Processor
from gpu4d.device.timeline import Timeline
from gpu4d.errors import InputError

# ---------------------------------------------------------------- both devices


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_copy_arrives_and_buffers_are_views(world, kind):
    processor = kind()
    assert isinstance(processor, Processor)
    with opened(processor) as workspace:
        copy, compute = workspace.stream("copy"), workspace.stream("compute")
        there, here = workspace.allocate(4096), workspace.pinned(4096)
        here.view((32, 32), "float32")[...] = np.arange(1024).reshape(32, 32)
        workspace.copy(there, here, 4096, copy)
        compute.wait(copy.record())
        with workspace.computing(compute, "look"):
            assert there.view((4,), "float32", offset=128).tolist() == [32, 33, 34, 35]
        there.view((8,), "uint8")[...] = 1
        assert there.view((2,), "uint8", 7).tolist()[0] == 1, "views are of the same bytes"


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("get", ["allocate", "pinned"])
def test_the_cap_is_kept_and_freed_bytes_come_back(world, kind, get):
    with opened(kind(), cap=10_000) as workspace:
        first = getattr(workspace, get)(6_000)
        with pytest.raises(MemoryError, match=r"4.01 kB .* 6 kB of 10 kB is held"):
            getattr(workspace, get)(4_008)
        second = getattr(workspace, get)(4_000)
        first.free()
        first.free()
        third = getattr(workspace, get)(6_000)
        with pytest.raises(MemoryError):
            getattr(workspace, get)(1_000)
        assert (workspace.peak if get == "allocate" else workspace.pinned_peak) == 10_000
        assert (workspace.pinned_peak if get == "allocate" else workspace.peak) == 0
        second.free()
        third.free()


@pytest.mark.parametrize("kind", PROCESSORS)
def test_readers_run_at_the_same_time_and_close_ends_them(world, kind):
    both = threading.Barrier(2)
    with opened(kind(), readers=2) as workspace:
        for one in [workspace.submit(both.wait, 10) for _ in range(2)]:
            one.result()
    begun, go, ran = threading.Event(), threading.Event(), []
    workspace = kind().workspace(1000, 1)

    def read():
        begun.set()
        go.wait(10)
        ran.append(1)

    running = workspace.submit(read)
    waiting = [workspace.submit(ran.append, 2) for _ in range(3)]
    begun.wait(10)
    threading.Timer(0.05, go.set).start()
    workspace.close()
    assert ran == [1] and running.done() and all(one.cancelled() for one in waiting)
    workspace.close()
    with pytest.raises(RuntimeError, match="closed"):
        workspace.submit(print)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_readers_see_what_the_caller_asked_of_operations(world, kind):
    with opened(kind(), readers=1) as workspace, gpu4d.using("definition"):
        from gpu4d.imaging.frame_reductions import frame_reductions as op

        frames = np.ones((1, 4, 4), "uint16")
        assert workspace.submit(op.choose, frames, np.ones((1, 4, 4), bool)).result() == "definition"


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_timeline_shows_computing_on_the_callers_clock(world, kind):
    timeline = Timeline()
    before = time.perf_counter()
    with opened(kind(), timeline=timeline) as workspace:
        assert before <= workspace.now() <= time.perf_counter()
        with workspace.computing(workspace.stream("compute"), "chunk 1"):
            pass
    (span,) = timeline.events
    assert span.name == "chunk 1" and span.track in ("cpu compute 0", "cuda:0 compute") and before <= span.start <= span.end


# ---------------------------------------------------------------- the CPU


def test_cpu_memory_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("gpu4d.device.processors.cpu.available_memory", lambda: 5_000)
    with opened(CpuProcessor(), cap=1 << 40) as workspace:
        with pytest.raises(MemoryError, match="6 kB of host memory asked for, 5 kB is free"):
            workspace.allocate(6_000)
        workspace.allocate(5_000)
        assert workspace.peak == 5_000


def test_cpu_threads_have_tracks_of_their_own():
    timeline = Timeline()
    with opened(CpuProcessor(), readers=2, timeline=timeline) as workspace:
        both = threading.Barrier(2)

        def work():
            with workspace.computing(workspace.stream("compute"), "chunk"):
                both.wait(10)

        for one in [workspace.submit(work) for _ in range(2)]:
            one.result()
    assert {span.track for span in timeline.events} == {"cpu compute 0", "cpu compute 1", "read 0", "read 1"}


def test_cpu_says_what_it_is(monkeypatch):
    monkeypatch.setenv("GPU4D_THREADS", "3")
    cpu = CpuProcessor()
    assert (cpu.name, cpu.copies, cpu.lanes, cpu.link_rate, cpu.sample("uint16")) == ("cpu", False, 3, None, None)
    assert cpu.free_memory() == pytest.approx(gpu4d.device.available_memory(), rel=0.2)
    monkeypatch.setenv("GPU4D_THREADS", "many")
    with pytest.raises(InputError, match="GPU4D_THREADS"):
        CpuProcessor()
