"""Errors of CUDA devices: each leaves as an error of ours, and says what to do."""

import contextlib
import gc
import re

import fake_cupy
import pytest
from fake_devices import cupy, ids, opened

from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.device.timeline import Timeline
from gpu4d.errors import DeviceError, InputError


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
