"""The memory pool of a sweep on a CUDA device: what CuPy's pool does at its limit, here and in the fake, and what the trace says of it."""

import gc

import fake_cupy
import pytest

from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.device.timeline import Timeline

BLOCK = 512


@pytest.fixture(params=["fake", pytest.param("cupy", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    """The fake and, on a machine with a GPU, CuPy itself: both must do the same."""
    if request.param == "fake":
        fake_cupy.install(monkeypatch)
        import cupy

        return cupy
    return pytest.importorskip("cupy")


@pytest.fixture
def pool(cupy):
    found = cupy.cuda.MemoryPool()
    found.set_limit(size=100 * BLOCK)
    return found


def test_a_pool_gives_back_what_it_keeps_before_it_refuses(pool):
    pool.malloc(60 * BLOCK)  # dropped at once, and kept for reuse
    assert pool.total_bytes() == pool.free_bytes() == 60 * BLOCK
    held = pool.malloc(70 * BLOCK)
    assert pool.total_bytes() == 70 * BLOCK and pool.free_bytes() == 0
    del held


def test_a_pool_collects_garbage_before_it_refuses(pool):
    gc.disable()
    try:
        ring = [pool.malloc(60 * BLOCK)]
        ring.append(ring)
        del ring
        assert pool.free_bytes() == 0, "the block is held by a cycle"
        held = pool.malloc(70 * BLOCK)
    finally:
        gc.enable()
    assert pool.total_bytes() == 70 * BLOCK
    del held


def test_a_request_above_the_limit_is_refused_at_once(pool):
    pool.malloc(60 * BLOCK)
    with pytest.raises(MemoryError, match="limit set to"):
        pool.malloc(101 * BLOCK)
    assert pool.free_bytes() == 60 * BLOCK, "what is kept stays"


def test_a_request_beside_blocks_in_use_is_refused(pool):
    held = pool.malloc(60 * BLOCK)
    with pytest.raises(MemoryError, match="limit set to"):
        pool.malloc(41 * BLOCK)
    assert pool.total_bytes() == 60 * BLOCK
    del held


@pytest.mark.parametrize("sizes", [(60, 70), (30, 30, 90)])
def test_the_trace_shows_what_a_sweep_gave_back(cupy, sizes):
    timeline = Timeline()
    workspace = CudaProcessor().workspace(100 * BLOCK, 1, timeline)
    try:
        with workspace.computing(workspace.stream("compute"), "chunk"):
            kept = [cupy.empty(size * BLOCK, "uint8") for size in sizes[:-1]]
            del kept
            cupy.empty(sizes[-1] * BLOCK, "uint8")
            cupy.empty(sizes[-1] * BLOCK, "uint8")
    finally:
        workspace.close()
    (span,) = [one for one in timeline.events if one.track == "cuda:0 memory"]
    assert span.details == {"bytes": sum(sizes[:-1]) * BLOCK} and span.start <= span.end


def test_the_trace_of_a_sweep_with_room_says_nothing_of_memory(cupy):
    timeline = Timeline()
    workspace = CudaProcessor().workspace(100 * BLOCK, 1, timeline)
    try:
        with workspace.computing(workspace.stream("compute"), "chunk"):
            cupy.empty(60 * BLOCK, "uint8")
            cupy.empty(40 * BLOCK, "uint8")
            cupy.empty(60 * BLOCK, "uint8")
    finally:
        workspace.close()
    assert {one.track for one in timeline.events} == {"cuda:0 compute"}
