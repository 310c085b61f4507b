"""Memory, order and contexts of CUDA devices, on a CuPy made of host memory."""

import contextlib
import gc
import threading
import weakref

import pytest
from fake_devices import cupy, opened

import gpu4d
from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.device.timeline import Timeline
from gpu4d.errors import InputError

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
