"""Sweeps through the CUDA processor on a CuPy made of host memory, and that this CuPy is true to the real one."""

import re
import threading

import fake_cupy
import pytest
from fake_devices import cupy, data, reductions, same

import gpu4d
from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.errors import DeviceError, MemoryBudgetError

# ---------------------------------------------------------------- a sweep through it


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
