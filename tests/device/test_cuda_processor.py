"""The CPU and CUDA devices as processors of the sweep. CUDA runs on a CuPy made of host memory here (`fake_cupy.py`), which is strict
about order, freed memory, contexts and signatures; on a real one in `tests/streaming/test_gpu_streaming.py`."""

import contextlib
import gc
import re
import sys
import threading
import time
import weakref

import fake_cupy
import numpy as np
import pytest

import gpu4d
from gpu4d.device import page_locked
from gpu4d.device.processors import cuda, cuda_memory
from gpu4d.device.processors.cpu import CpuProcessor
from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.device.processors.processor import Processor
from gpu4d.device.timeline import Timeline
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError


@pytest.fixture
def world(monkeypatch):
    machine = fake_cupy.install(monkeypatch)
    monkeypatch.setattr(cuda_memory, "_context_there", lambda index: machine.cards[index].context)
    monkeypatch.setattr(cuda_memory, "_with_context", set())
    abandoned = []
    monkeypatch.setattr(cuda, "_abandoned", abandoned)
    yield machine
    for card in machine.cards:
        card.lost = None
    abandoned.clear()
    gc.collect()
    assert not machine.unraisable, "a destructor called a lost device"


@pytest.fixture
def two_cards(monkeypatch):
    machine = fake_cupy.install(monkeypatch, cards=2)
    monkeypatch.setattr(cuda_memory, "_context_there", lambda index: machine.cards[index].context)
    monkeypatch.setattr(cuda_memory, "_with_context", set())
    return machine


def cupy():
    return sys.modules["cupy"]


@contextlib.contextmanager
def opened(processor, cap=1 << 20, readers=2, timeline=None):
    workspace = processor.workspace(cap, readers, timeline)
    try:
        yield workspace
    finally:
        workspace.close()


PROCESSORS = [CpuProcessor, CudaProcessor]


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


# ---------------------------------------------------------------- memory of a CUDA device


def test_arrays_and_buffers_share_one_cap(world):
    with opened(CudaProcessor(), cap=100 * 512) as workspace:
        compute = workspace.stream("compute")
        ring = workspace.allocate(60 * 512)
        with workspace.computing(compute, "a"):
            kept = cupy().empty(30 * 512, "uint8")
            with pytest.raises(MemoryError, match="limit set to"):
                cupy().empty(11 * 512, "uint8")
        with pytest.raises(MemoryError, match="cuda:0 asked for"):
            workspace.allocate(11 * 512)
        with workspace.computing(compute, "b"):
            more = cupy().empty(10 * 512, "uint8")
        assert workspace.peak == world.cards[0].most == 100 * 512
        del kept, more
        ring.free()
        workspace.allocate(100 * 512)  # what the pool keeps for reuse makes room
        with workspace.computing(compute, "c"), pytest.raises(MemoryError):
            cupy().empty(1, "uint8")
        assert world.cards[0].most == 100 * 512
    assert world.cards[0].held == 0


def test_blocks_kept_for_reuse_do_not_count_as_used(world):
    """CuPy counts free blocks of other sizes against the limit of a pool, until it gives them back."""
    with opened(CudaProcessor(), cap=100 * 512) as workspace, workspace.computing(workspace.stream("compute"), "a"):
        cupy().empty(60 * 512, "uint8")
        cupy().empty(70 * 512, "uint8")
    assert workspace.peak <= 100 * 512


def test_work_areas_of_fft_plans_count_and_go_with_the_workspace(world):
    foreign = cupy().fft.config.get_plan_cache()
    foreign.plans.append("made by the caller, before, in another stream")
    with opened(CudaProcessor(), cap=100 * 512) as workspace:
        with workspace.computing(workspace.stream("compute"), "fft"):
            cache = cupy().fft.config.get_plan_cache()
            assert not cache.plans, "plans of others may still be at work in other streams"
            cache.plans.append(cupy().empty(80 * 512, "uint8"))  # a plan with its work area
        with workspace.computing(workspace.stream("compute"), "fft again"):
            assert cache.plans, "plans are reused from chunk to chunk"
        assert world.cards[0].held == 80 * 512
        workspace.allocate(50 * 512)  # they make room where memory is short
        assert not cache.plans
        with workspace.computing(workspace.stream("compute"), "fft"):
            cache.plans.append(cupy().empty(40 * 512, "uint8"))
    assert not cache.plans and world.cards[0].held == 0


def test_results_outlive_the_workspace(world):
    """CuPy's blocks do not keep their pool, and a pool that goes takes them with it."""
    workspace = CudaProcessor().workspace(1 << 20, 0)
    with workspace.computing(workspace.stream("compute"), "finish"):
        result, other = cupy().empty(1000, "uint8"), cupy().empty(5000, "uint8")
        result.bytes()[...] = 7
    workspace.allocate(1 << 16)
    workspace.close()
    gone = weakref.ref(workspace)
    del workspace
    gc.collect()
    assert gone() is None, "results keep their pool, not the workspace"
    assert (result.bytes() == 7).all()
    assert world.cards[0].held == 1024 + 5120, "results and nothing else"
    del other
    assert world.cards[0].held == 1024, "what comes back later is not kept for reuse"
    del result
    assert world.cards[0].held == 0


def test_buffers_are_freed_after_the_work_on_them(world):
    with opened(CudaProcessor()) as workspace:
        copy, there, here = workspace.stream("copy"), workspace.allocate(512), workspace.pinned(512)
        workspace.copy(there, here, 512, copy)
        here.free()  # the copy has not begun: freeing must wait for it, or the copy reads memory that is gone
        there.free()
        assert world.cards[0].held == 0 and gpu4d.device.release() == 512 and world.pinned == 0
        assert not copy.cupy.queue


def test_a_freed_buffer_lives_as_long_as_its_views(world):
    with opened(CudaProcessor()) as workspace:
        there, here = workspace.allocate(512), workspace.pinned(512)
        views = there.view((4,), "uint8"), here.view((4,), "uint8")
        there.free()
        here.free()
        gpu4d.device.release()
        assert world.cards[0].held == world.pinned == 512
        views[0][...] = 3
        assert views[0].tolist() == [3] * 4
        del views
        assert world.cards[0].held == world.pinned == 0


@pytest.mark.parametrize("leave", ["normally", "after an error"])
def test_close_gives_everything_back(world, leave):
    with contextlib.suppress(InputError), opened(CudaProcessor(), timeline=Timeline()) as workspace:
        copy = workspace.stream("copy")
        for _ in range(3):
            workspace.copy(workspace.allocate(1000), workspace.pinned(1000), 1000, copy)
        with workspace.computing(workspace.stream("compute"), "a"):
            cupy().empty(100, "uint8")
        if leave == "after an error":
            raise InputError("a reduction cannot go on")
    assert world.cards[0].held == 0 and world.pinned == 3000, "the page-locked ring is kept for the next sweep"
    workspace.close()
    assert gpu4d.device.release() == 3000 and world.pinned == 0


def test_trim_waits_and_gives_back_what_is_kept(world):
    with opened(CudaProcessor()) as workspace:
        with workspace.computing(workspace.stream("compute"), "a"):
            cupy().empty(4096, "uint8")
        cupy().empty(8192, "uint8")  # of the caller, freed, kept by CuPy
        assert world.cards[0].held == 4096 + 8192
        copy = workspace.stream("copy")
        workspace.copy(workspace.allocate(512), workspace.pinned(512), 512, copy)
        workspace.trim()
        assert world.cards[0].held == 512 and not copy.cupy.queue


def test_a_full_card_is_asked_again_once_kept_memory_is_back(world):
    kept = cupy().empty((1 << 28) - 4096, "uint8")
    with opened(CudaProcessor(), cap=1 << 20) as workspace:
        with pytest.raises(MemoryError, match="cuda:0: cudaErrorMemoryAllocation"):
            workspace.allocate(8192)
        assert workspace.peak == 0
        del kept  # CuPy's own pool keeps it, and does not know that others need it
        workspace.allocate(8192)
        with workspace.computing(workspace.stream("compute"), "a"):
            cupy().empty(1 << 16, "uint8")


# ---------------------------------------------------------------- order


def test_streams_of_one_name_are_one_stream(world):
    with opened(CudaProcessor()) as workspace:
        assert workspace.stream("compute") is workspace.stream("compute") is not workspace.stream("copy")


def test_nothing_waits_but_who_asks_for_it(world):
    with opened(CudaProcessor()) as workspace:
        copy = workspace.stream("copy")
        there, here = workspace.allocate(512), workspace.pinned(512)
        here.view((512,), "uint8")[...] = 5
        workspace.copy(there, here, 512, copy)
        done = copy.record()
        assert not done.cupy.done and there.view((1,), "uint8")[0] == 0xEE, "putting a copy in does not wait for it"
        workspace.submit(done.wait).result()
        assert there.view((1,), "uint8")[0] == 5
        workspace.stream("compute").synchronize()


def test_copies_larger_than_a_buffer_are_refused(world):
    with opened(CudaProcessor()) as workspace:
        with pytest.raises(ValueError, match="copy of 600 bytes"):
            workspace.copy(workspace.allocate(512), workspace.pinned(1024), 600, workspace.stream("copy"))


def test_a_timeline_shows_when_the_device_worked(world):
    """The device's clock here: one millisecond for everything a stream does."""
    timeline = Timeline()
    with opened(CudaProcessor(), timeline=timeline) as workspace:
        copy, compute = workspace.stream("copy"), workspace.stream("compute")
        workspace.copy(workspace.allocate(512), workspace.pinned(512), 512, copy)
        compute.wait(copy.record())
        with workspace.computing(compute, "chunk 0"):
            pass
        assert not timeline.events, "times are known at the end"
    first, second = timeline.events
    assert (first.track, first.name, first.details) == ("cuda:0 copy", "copy", {"bytes": 512})
    assert (second.track, second.name) == ("cuda:0 compute", "chunk 0")
    assert first.end - first.start == pytest.approx(2e-3) and second.start > first.end


def test_without_a_timeline_events_are_not_timed(world):
    with opened(CudaProcessor()) as workspace:
        copy = workspace.stream("copy")
        workspace.copy(workspace.allocate(512), workspace.pinned(512), 512, copy)
        assert not copy.record().cupy.timed and "eventElapsedTime" not in world.cards[0].calls
        assert world.cards[0].calls.count("eventRecord") == 1


# ---------------------------------------------------------------- page-locked memory between sweeps


def calls_for_page_locked_memory(world):
    return sum(card.calls.count("hostAlloc") for card in world.cards)


def test_the_page_locked_ring_of_one_sweep_serves_the_next(two_cards):
    for processor in (CudaProcessor(0), CudaProcessor(0), CudaProcessor(1)):
        with opened(processor) as workspace:
            ring = [workspace.pinned(1000) for _ in range(3)]
            assert len({buffer.address for buffer in ring}) == 3
            assert workspace.pinned_peak == 3000, "what is taken from the store counts as anything else"
    assert calls_for_page_locked_memory(two_cards) == 3
    with opened(CudaProcessor()) as workspace:
        workspace.pinned(999)
    assert calls_for_page_locked_memory(two_cards) == 4, "of another size"
    assert gpu4d.device.release() == 3999 and two_cards.pinned == 0 and set(two_cards.freed_on) == {0}


def test_no_more_page_locked_memory_is_kept_than_its_bound(world, monkeypatch):
    monkeypatch.setattr(page_locked, "_store", page_locked.PageLocked(cap=2500))
    with opened(CudaProcessor()) as workspace:
        last = [workspace.pinned(1000) for _ in range(4)][-1].address
        for buffer in list(workspace._pinned.buffers):
            buffer.free() if buffer.address != last else None
    assert world.pinned == page_locked.store().held == 2000
    assert page_locked.KEPT_BYTES == 256 << 20


def test_kept_page_locked_memory_counts_against_the_cap_of_the_next_sweep(world):
    with opened(CudaProcessor(), cap=10_000) as workspace:
        for _ in range(10):
            workspace.pinned(1000)
    assert world.pinned == 10_000
    with opened(CudaProcessor(), cap=5000) as workspace:
        workspace.pinned(1000)
        assert world.pinned == 5000, "one in use and four kept"
        workspace.pinned(2500)
        assert world.pinned == 4500
        with pytest.raises(MemoryError, match="page-locked"):
            workspace.pinned(2000)


def test_kept_page_locked_memory_is_given_back_where_memory_runs_out(world):
    with opened(CudaProcessor()) as workspace:
        workspace.pinned(1000)
    with opened(CudaProcessor()) as workspace:
        world.cards[0].failures["hostAlloc"] = [fake_cupy.CUDARuntimeError(2)]
        workspace.pinned(3000)
        assert world.pinned == 3000
        workspace.pinned(500).free()
        workspace.trim()
        assert world.pinned == 3000


def test_no_page_locked_memory_is_kept_after_an_error_of_the_device(world):
    with opened(CudaProcessor()) as workspace:
        workspace.pinned(1000)
    with opened(CudaProcessor()) as workspace:
        workspace.pinned(2000)
        world.cards[0].lost = 719
        with pytest.raises(DeviceError):
            workspace.stream("copy")
    assert page_locked.store().held == gpu4d.device.release() == 0
    assert world.pinned == 3000, "what a lost device holds cannot be freed"
    world.cards[0].lost = None


def test_sweeps_at_the_same_time_share_no_block(world):
    with opened(CudaProcessor()) as workspace:
        for _ in range(4):
            workspace.pinned(1000)

    def work(taken):
        for _ in range(50):
            with opened(CudaProcessor()) as workspace:
                ring = [workspace.pinned(1000) for _ in range(2)]
                for buffer in ring:
                    buffer.view((1000,), "uint8")[...] = taken
                time.sleep(0)
                assert all((buffer.view((1000,), "uint8") == taken).all() for buffer in ring)
        done.append(taken)

    done = []
    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [0, 1] and world.pinned == page_locked.store().held == 4000


# ---------------------------------------------------------------- several devices


def test_no_context_is_made_on_other_devices(two_cards):
    seen = []

    def work():
        with opened(CudaProcessor(1)) as workspace:
            there, here = workspace.allocate(512), workspace.pinned(512)
            workspace.copy(there, here, 512, workspace.stream("copy"))
            event = workspace.stream("copy").record()
            workspace.submit(event.wait).result()
            with workspace.computing(workspace.stream("compute"), "a"):
                cupy().empty(100, "uint8")
                seen.append(cupy().cuda.runtime.getDevice())
            CudaProcessor(1).sample("uint16")
            CudaProcessor(1).free_memory()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert seen == [1] and [card.context for card in two_cards.cards] == [False, True]
    gpu4d.device.release()
    assert two_cards.cards[1].held == two_cards.pinned == 0 and set(two_cards.freed_on) == {1}


def test_the_callers_device_comes_back(two_cards):
    cupy().empty(10, "uint8")  # the caller works on cuda:0
    with opened(CudaProcessor(1)) as workspace:
        with workspace.computing(workspace.stream("compute"), "a"):
            result = cupy().empty(100, "uint8")
        workspace.allocate(512)
        assert cupy().cuda.runtime.getDevice() == 0
    assert cupy().cuda.runtime.getDevice() == 0
    del result
    assert cupy().cuda.runtime.getDevice() == 0 and two_cards.cards[1].held == 0


# ---------------------------------------------------------------- errors


class Named(RuntimeError):
    """An error of a library, told by its message."""


class CuFFTError(Named): ...


class CUBLASError(Named): ...


class CUSOLVERError(Named): ...


class CUDADriverError(Named): ...


class XlaRuntimeError(Named): ...


TorchOutOfMemory = type("OutOfMemoryError", (RuntimeError,), {})

OUT_OF_MEMORY = [
    fake_cupy.CUDARuntimeError(2),
    fake_cupy.OutOfMemoryError("Out of memory allocating 512 bytes"),
    CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    CuFFTError("CUFFT_ALLOC_FAILED"),
    CuFFTError("cuFFT Error: CUFFT_ALLOC_FAILED"),
    CUBLASError("CUBLAS_STATUS_ALLOC_FAILED"),
    CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED"),
    CUSOLVERError("CUSOLVER_STATUS_ALLOC_FAILED"),
    TorchOutOfMemory("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes."),
    MemoryError("of NumPy"),
]

LOST = [
    fake_cupy.CUDARuntimeError(700),
    fake_cupy.CUDARuntimeError(719),
    fake_cupy.CUDARuntimeError(214),
    CUDADriverError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"),
    CUDADriverError("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"),
    CUDADriverError("CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA`"),
]

OTHER = [
    InputError("a reduction was given nonsense"),
    DeviceError("of the library itself"),
    ValueError("CUFFT_ALLOC_FAILED is not what a ValueError means"),
    RuntimeError("dictionary changed size during iteration"),
    fake_cupy.CUDARuntimeError(400),
    CuFFTError("CUFFT_INVALID_SIZE"),
    KeyboardInterrupt(),
]


def ids(errors):
    return [f"{type(error).__name__}: {str(error)[:32]}" for error in errors]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=ids(OUT_OF_MEMORY))
def test_lack_of_memory_leaves_as_memory_error(world, error):
    with opened(CudaProcessor()) as workspace:
        with pytest.raises(MemoryError) as caught, workspace.computing(workspace.stream("compute"), "a"):
            raise error
        assert caught.value is error or (caught.value.__cause__ is error and str(caught.value).startswith("cuda:0: "))
        workspace.allocate(1000)  # the device is as good as before
    assert world.cards[0].held == 0


@pytest.mark.parametrize("error", LOST, ids=ids(LOST))
def test_a_lost_device_is_named_with_what_to_do(world, error):
    with opened(CudaProcessor()) as workspace:
        workspace.allocate(1000)
        with pytest.raises(DeviceError, match=r"^cuda:0 does not answer .*Start Python again.*nvidia-smi.*dmesg") as caught:
            with workspace.computing(workspace.stream("compute"), "a"):
                raise error
        assert caught.value.__cause__ is error and str(error).splitlines()[0] in str(caught.value)


@pytest.mark.parametrize("status", [46, 100])
def test_a_device_that_cannot_be_had_is_named(world, status):
    with opened(CudaProcessor()) as workspace:
        with pytest.raises(DeviceError, match=r"^cuda:0 cannot be used \(cudaError(NoDevice|DevicesUnavailable): .*gpu4d devices.*'cpu'"):
            with workspace.computing(workspace.stream("compute"), "a"):
                raise fake_cupy.CUDARuntimeError(status)


@pytest.mark.parametrize("error", OTHER, ids=ids(OTHER))
def test_other_errors_pass_unchanged(world, error):
    with opened(CudaProcessor()) as workspace:
        with pytest.raises(type(error)) as caught, workspace.computing(workspace.stream("compute"), "a"):
            raise error
        assert caught.value is error


def test_an_internal_error_of_a_library_is_looked_into(world):
    """cuFFT gives the same answer to a lack of memory, to a lost device and to its own faults."""
    error = CuFFTError("CUFFT_INTERNAL_ERROR")
    with opened(CudaProcessor(), cap=1 << 28) as workspace:
        compute = workspace.stream("compute")
        with pytest.raises(CuFFTError), workspace.computing(compute, "its own fault"):
            raise error
        filled = workspace.allocate((1 << 28) - (8 << 20))
        with pytest.raises(MemoryError, match="CUFFT_INTERNAL_ERROR"), workspace.computing(compute, "8 MB are free"):
            raise error
        filled.free()
        with pytest.raises(DeviceError, match="cudaErrorLaunchFailure"), workspace.computing(compute, "the card is gone"):
            world.cards[0].lost = 719
            raise CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED")


CALLS = {
    "malloc": lambda w: w.allocate(100),
    "hostAlloc": lambda w: w.pinned(100),
    "memcpyAsync": lambda w: w.copy(w.allocate(100), w.pinned(100), 100, w.stream("copy")),
    "eventRecord": lambda w: w.stream("copy").record(),
    "eventCreate": lambda w: w.stream("copy").record(),
    "streamCreate": lambda w: w.stream("another"),
    "streamWaitEvent": lambda w: w.stream("compute").wait(w.stream("copy").record()),
    "eventSynchronize": lambda w: w.submit(w.stream("copy").record().wait).result(),
    "streamSynchronize": lambda w: w.stream("copy").synchronize(),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_fails_in_our_words(world, call):
    with opened(CudaProcessor()) as workspace:
        workspace.stream("copy"), workspace.stream("compute")
        world.cards[0].failures[call] = [fake_cupy.CUDARuntimeError(2)] * 2  # what can be freed is freed before memory is asked for again
        with pytest.raises(MemoryError, match="cuda:0: cudaErrorMemoryAllocation"):
            for _ in range(2):
                CALLS[call](workspace)
        world.cards[0].failures.clear()
        world.cards[0].failures[call] = [fake_cupy.CUDARuntimeError(214)]
        with pytest.raises(DeviceError, match="cudaErrorECCUncorrectable"):
            CALLS[call](workspace)
        world.cards[0].failures.clear()


def test_memory_refused_once_is_asked_for_again(world):
    with opened(CudaProcessor()) as workspace:
        world.cards[0].failures = {"malloc": [fake_cupy.CUDARuntimeError(2)], "hostAlloc": [fake_cupy.CUDARuntimeError(2)]}
        workspace.allocate(1000)
        workspace.pinned(1000)
        assert workspace.peak == workspace.pinned_peak == 1000


def test_a_failed_allocation_holds_nothing(world):
    with opened(CudaProcessor(), cap=1000) as workspace:
        for call, get in (("malloc", workspace.allocate), ("hostAlloc", workspace.pinned)):
            world.cards[0].failures[call] = [fake_cupy.CUDARuntimeError(2)] * 2
            with pytest.raises(MemoryError):
                get(1000)
            get(1000)


def test_close_after_the_device_was_lost(world, caplog):
    """It neither raises nor hangs, and no destructor calls the device."""
    timeline = Timeline()
    workspace = CudaProcessor().workspace(1 << 20, 1, timeline)
    copy = workspace.stream("copy")
    buffers = [workspace.allocate(1000), workspace.pinned(1000)]
    workspace.copy(*buffers, 1000, copy)
    with workspace.computing(workspace.stream("compute"), "a"):
        result = cupy().empty(100, "uint8")
    done = copy.record()
    world.cards[0].lost = 719
    waiting = workspace.submit(done.wait)
    with contextlib.suppress(DeviceError):
        waiting.result()
    with pytest.raises(DeviceError):
        workspace.trim()
    workspace.close()
    workspace.close()
    for buffer in buffers:
        buffer.free()
    del workspace, buffers, buffer, result, copy, waiting, done
    gc.collect()
    assert not world.unraisable


def test_a_device_lost_unnoticed_is_noticed_by_close(world, caplog):
    workspace = CudaProcessor().workspace(1 << 20, 0)
    workspace.allocate(1000), workspace.stream("copy")
    world.cards[0].lost = 700
    workspace.close()
    assert re.search("cuda:0 could not be left in order: cuda:0 does not answer", caplog.text)


def test_a_device_that_is_not_there_says_so(world):
    world.cards[0].lost = 100
    for ask in (CudaProcessor().free_memory, lambda: CudaProcessor().workspace(1, 1, Timeline())):
        with pytest.raises(DeviceError, match="cudaErrorNoDevice"):
            ask()


# ---------------------------------------------------------------- a sweep through it


@pytest.fixture
def scan(tmp_path):
    rng = np.random.default_rng(3)
    path = tmp_path / "scan.npy"
    np.save(path, rng.poisson(2.0, (16, 24, 32, 32)).astype("uint16"))
    return gpu4d.open(path)


def reductions():
    disk = np.hypot(*(np.indices((32, 32)) - 15.5)) < 12
    return {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "image": gpu4d.VirtualImage({"in": disk, "out": ~disk})}


def data(results):
    return {name: np.asarray(result) for name, result in results.items()}


def same(found, expected):
    return all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_sweep_over_a_file(world, scan, tmp_path):
    expected = data(gpu4d.sweep(scan, reductions(), device="cpu"))
    free = CudaProcessor().free_memory()
    found = gpu4d.sweep(scan, reductions(), device=CudaProcessor(), memory="2 MB", trace=tmp_path / "trace.json")
    assert same(data(found), expected)
    assert 0 < world.cards[0].most <= 2e6 and world.pinned <= 2e6
    assert gpu4d.device.release() > 0 and world.pinned == 0
    assert CudaProcessor().free_memory() == free
    assert {"cuda:0 copy", "cuda:0 compute"} <= set(re.findall(r"cuda:0 \w+", (tmp_path / "trace.json").read_text()))


@pytest.mark.parametrize("call", ["malloc", "hostAlloc", "memcpyAsync", "eventRecord"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_sweep_goes_on_after_a_lack_of_memory(world, scan, call, after):
    expected = data(gpu4d.sweep(scan, reductions(), device="cpu"))
    card = world.cards[0]
    error, count = fake_cupy.CUDARuntimeError(2), 0
    whole = card.call

    def fails(name):
        nonlocal count
        if name == call:
            count += 1
            if after < count <= after + 2:
                raise error
        whole(name)

    card.call = fails
    found = gpu4d.sweep(scan, reductions(), device=CudaProcessor(), memory="8 MB")
    assert same(data(found), expected) and count > after
    gpu4d.device.release()
    assert card.held == world.pinned == 0


def test_a_sweep_over_a_full_card_says_three_numbers(world, scan):
    filled = cupy().empty((1 << 28) - 4096, "uint8")
    with pytest.raises(MemoryBudgetError) as caught:
        gpu4d.sweep(scan, reductions(), device=CudaProcessor(), memory="8 MB")
    assert caught.value.asked > caught.value.free and caught.value.cap == 8_000_000
    del filled  # CuPy's pool keeps it: nobody holds it, so it is free
    gpu4d.sweep(scan, reductions(), device=CudaProcessor(), memory="8 MB")


@pytest.mark.parametrize("after", [1, 30, 60])
def test_a_sweep_whose_device_is_lost(world, scan, after, caplog):
    card = world.cards[0]
    whole = card.call

    def fails(name):
        if len(card.calls) >= after:
            card.lost = 719
        whole(name)

    card.call = fails
    threads = threading.active_count()
    with pytest.raises(DeviceError, match="cuda:0 does not answer this process any more"):
        gpu4d.sweep(scan, reductions(), device=CudaProcessor(), memory="2 MB")
    assert threading.active_count() == threads
    assert "could not be left in order" not in caplog.text, "one error is enough"


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_benchmark_checks_and_reports(world, monkeypatch, device):
    from gpu4d.benchmarks import streaming

    monkeypatch.setattr(streaming, "CHUNKS", (1 << 20, 4 << 20))
    monkeypatch.setattr(streaming, "READERS", (1, 2))
    found = streaming.run(device, size=16 << 20, quick=True)
    text = streaming.table(found)
    gpu4d.device.release()
    assert device in text and world.cards[0].held == world.pinned == 0
    figures = found["files"] if device == "cpu" else found["sweeps"]
    assert len(figures) == (2 if device == "cpu" else 4) and all(one["rate"] > 0 for one in figures)
    check = streaming.check
    monkeypatch.setattr(streaming, "check", lambda cube, where, expected: check(cube, where, {"mean": expected["mean"] + 1e-9}))
    with pytest.raises(AssertionError, match=r"mean of .* is wrong; nothing was timed"):
        streaming.run(device, size=16 << 20, quick=True)


# ---------------------------------------------------------------- the fake is true to CuPy


def test_cupy_has_what_the_fake_has():
    real = pytest.importorskip("cupy")
    named = {
        "cuda.Stream": ["non_blocking"],
        "cuda.Event": ["block", "disable_timing"],
        "cuda.PinnedMemory": ["size", "flags"],
        "cuda.PinnedMemoryPointer": ["mem", "offset"],
        "cuda.Memory": ["size"],
        "cuda.MemoryPointer": ["mem", "offset"],
        "cuda.UnownedMemory": ["ptr", "size", "owner", "device_id"],
        "cuda.MemoryPool": [],
        "cuda.MemoryPool.set_limit": ["size"],
        "cuda.MemoryPool.malloc": ["size"],
        "cuda.MemoryPool.total_bytes": [],
        "cuda.MemoryPool.free_all_blocks": [],
        "cuda.MemoryPool.free_bytes": [],
        "cuda.using_allocator": ["allocator"],
        "cuda.get_elapsed_time": ["start_event", "end_event"],
        "cuda.runtime.memcpyAsync": ["dst", "src", "size", "kind", "stream"],
        "cuda.runtime.memGetInfo": [],
        "cuda.runtime.getDevice": [],
        "cuda.runtime.setDevice": ["device"],
        "cuda.runtime.CUDARuntimeError": [],
        "fft.config.get_plan_cache": [],
        "get_default_memory_pool": [],
        "get_default_pinned_memory_pool": [],
    }
    import inspect

    for name, parameters in named.items():
        found = real
        for part in name.split("."):
            found = getattr(found, part)
        try:
            said = str(inspect.signature(found))
        except (ValueError, TypeError):
            said = (found.__doc__ or "").split("\n")[0]
        assert all(re.search(rf"\b{parameter}\b", said) for parameter in parameters), f"{name}{said}"
    assert int(real.cuda.runtime.memcpyHostToDevice) == 1 and int(real.cuda.runtime.hostAllocPortable) == 1
    for status, text in fake_cupy.NAMES.items():
        assert str(real.cuda.runtime.CUDARuntimeError(status)) == text
    assert issubclass(real.cuda.runtime.CUDARuntimeError, RuntimeError) and issubclass(real.cuda.memory.OutOfMemoryError, MemoryError)
    cache = type(real.fft._cache.PlanCache)
    assert cache is type and hasattr(real.fft._cache.PlanCache, "get_curr_size") and hasattr(real.fft._cache.PlanCache, "clear")
    for name in ("synchronize", "wait_event", "__enter__", "ptr"):
        assert hasattr(real.cuda.Stream, name) or name == "ptr"
