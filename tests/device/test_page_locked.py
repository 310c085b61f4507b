"""Page-locked memory between sweeps: kept, bounded, counted and given back."""

import threading
import time

import fake_cupy
import pytest
from fake_devices import calls_for_page_locked_memory, opened

import gpu4d
from gpu4d.device import page_locked
from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.errors import DeviceError


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
