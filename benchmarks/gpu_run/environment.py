"""First stage: what this machine is, and whether the ground everything else stands on holds. One line each, as it is known."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from gpu4d.benchmarks.gpu_run.settings import Settings

PACKAGES = (
    "gpu4d numpy scipy numba llvmlite h5py hdf5plugin array-api-compat array-api-strict cupy-cuda13x cupy-cuda12x torch jax jaxlib "
    "nvidia-ml-py cuda-python cuda-bindings pytest pytest-xdist"
).split()
ASKED = "name,driver_version,memory.total,memory.used,clocks.max.sm,clocks.max.mem,power.limit,pcie.link.gen.max,pcie.link.width.max"
SOURCE = 'extern "C" __global__ void add(float* x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] += 1.0f; }'
COPY = 64 << 20  # bytes of the copy that is timed


def main(settings: Settings) -> bool:
    print(f"python {platform.python_version()}, {platform.platform()}, {len(os.sched_getaffinity(0))} processors")
    print("packages: " + ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))))
    print(f"memory: {_memory()}; /dev/shm: {_space('/dev/shm')}; folder of temporary files: {_space('/tmp')}")
    checks: list[tuple[str, Callable[[], Any]]] = [
        ("nvidia-smi", _nvidia_smi),
        ("numba", _numba),
        ("attributes", _attributes),
        ("gpu4d devices", _devices),
        ("RawModule", _raw_module),
        ("there and back", _there_and_back),
        ("events", _events),
        ("cuFFT", _fft),
        ("cuBLAS", _product),
        ("page-locked copies", _pinned),
        ("shared memory, carve-out", _carve_out),
        ("torch, shared memory", lambda: _shares_memory("torch")),
        ("torch, an empty array", lambda: _empty_array("torch")),
        ("jax, shared memory", lambda: _shares_memory("jax")),
        ("jax, an empty array", lambda: _empty_array("jax")),
        ("jax, a strided array", _strided_to_jax),
        ("a kernel of gpu4d", _own_kernel),
    ]
    good = [_check(name, call) for name, call in checks]
    return all(good)


def _check(name: str, call: Callable[[], Any]) -> bool:
    """Ask one thing; an answer that cannot be had is an answer."""
    start = time.perf_counter()
    try:
        said = call()
        outcome = "ok"
    except ImportError as error:
        said, outcome = error, "absent"
    except Exception as error:  # whatever comes of it must not end the others
        said, outcome = f"{type(error).__name__}: {error}", "FAILED"
    for number, line in enumerate(str(said).splitlines() or [""]):
        print(
            f"{name}: {outcome if number == 0 else '  '} {line}" + (f" ({time.perf_counter() - start:.2f} s)" if number == 0 else ""),
            flush=True,
        )
    return outcome != "FAILED"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"


def _space(folder: str) -> str:
    return f"{shutil.disk_usage(folder).free / 1e9:.0f} GB free" if os.path.isdir(folder) else "absent"


def _nvidia_smi() -> str:
    if shutil.which("nvidia-smi") is None:
        raise ImportError("nvidia-smi is not installed")
    ask = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
    return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout


def _numba() -> str:
    import numba

    @numba.njit
    def total(x: Any) -> Any:
        s = 0.0
        for v in x:
            s += v
        return s

    assert total(np.arange(4.0)) == 6.0
    return f"{numba.__version__} takes numpy {np.__version__}"


def _attributes() -> str:
    import cupy

    runtime, device = cupy.cuda.runtime, cupy.cuda.Device()
    versions = f"cupy {cupy.__version__}, driver {runtime.driverGetVersion()}, runtime {runtime.runtimeGetVersion()}"
    free, total = runtime.memGetInfo()
    name = runtime.getDeviceProperties(device.id)["name"].decode()
    values = " ".join(f"{k}={v}" for k, v in sorted(device.attributes.items()))
    return f"{name}, {versions}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free\n{values}"


def _devices() -> str:
    from gpu4d.workflow.describe import describe_devices

    return describe_devices()


def _raw_module() -> str:
    import cupy

    add = cupy.RawModule(code=SOURCE, options=("--std=c++17",)).get_function("add")
    x = cupy.zeros(1000, "float32")
    add((8,), (128,), (x, np.int32(1000)))
    assert float(x.sum()) == 1000.0
    return f"{add.num_regs} registers"


def _there_and_back() -> str:
    import cupy

    given = np.random.default_rng(0).integers(0, 1 << 16, (64, 128, 128), dtype="uint16")
    assert np.array_equal(cupy.asarray(given).get(), given)
    return ""


def _events() -> str:
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for _ in range(100):
        cupy.zeros(1)
    end.record()
    end.synchronize()
    return f"{cupy.cuda.get_elapsed_time(begin, end) * 10:.1f} us for a small kernel and its memory"


def _fft() -> str:
    import cupy

    given = np.random.default_rng(1).normal(size=(3, 130, 127)).astype("float32")
    there = cupy.fft.irfftn(cupy.fft.rfftn(cupy.asarray(given), axes=(1, 2)), s=(130, 127), axes=(1, 2))
    assert np.allclose(there.get(), given, atol=1e-5)
    return ""


def _product() -> str:
    import cupy

    given = np.random.default_rng(2).normal(size=(64, 64))
    assert np.allclose((cupy.asarray(given) @ cupy.asarray(given)).get(), given @ given)
    return ""


def _pinned() -> str:
    import cupy

    start = time.perf_counter()
    block = cupy.cuda.alloc_pinned_memory(COPY)
    locking = time.perf_counter() - start
    here, there = np.frombuffer(block, np.uint8, COPY), cupy.empty(COPY, "uint8")
    here[...] = 1
    stream, rates = cupy.cuda.Stream(non_blocking=True), []
    for _ in range(5):
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record(stream)
        cupy.cuda.runtime.memcpyAsync(there.data.ptr, here.ctypes.data, COPY, cupy.cuda.runtime.memcpyHostToDevice, stream.ptr)
        end.record(stream)
        end.synchronize()
        rates.append(COPY / max(cupy.cuda.get_elapsed_time(begin, end) * 1e-3, 1e-9))
    return f"{max(rates) / 1e9:.1f} GB/s to the device; page-locking {COPY >> 20} MiB took {locking * 1e3:.1f} ms"


def _carve_out() -> str:
    from gpu4d import device

    function = device.kernel("fused_disks.cu", "find_disks_128", "SIZE=128")
    before = function.preferred_shared_memory_carveout
    function.preferred_shared_memory_carveout = 100
    after = function.preferred_shared_memory_carveout
    return f"{before} before, then {after}; {function.num_regs} registers, {function.local_size_bytes} bytes local"


def _library(name: str) -> tuple[Any, Callable[[Any], Any]]:
    """A library's namespace on the GPU, and what makes one of its arrays of CuPy's."""
    if name == "torch":
        import torch

        if not torch.cuda.is_available():
            raise ImportError(f"torch {torch.__version__} sees no GPU")
        return torch, torch.from_dlpack
    import jax

    if jax.default_backend() != "gpu":
        raise ImportError(f"jax {jax.__version__} computes on {jax.default_backend()}")
    return jax.numpy, jax.dlpack.from_dlpack


def _shares_memory(name: str) -> str:
    """A result of CuPy in the other library: the same memory, read there."""
    import cupy

    from gpu4d import arrays

    _, take = _library(name)
    given = cupy.arange(12.0).reshape(3, 4)
    other = take(given)
    assert arrays.cupy_view(other).data.ptr == given.data.ptr
    assert float(other.sum()) == 66.0
    return "and back: the same memory"


def _empty_array(name: str) -> str:
    """DLPack asks the driver for the device of a null pointer."""
    import cupy

    _, take = _library(name)
    return f"shape {tuple(take(cupy.empty((0, 3))).shape)}"


def _strided_to_jax() -> str:
    import cupy

    from gpu4d import arrays

    namespace, take = _library("jax")
    given = cupy.arange(24.0).reshape(4, 6)[:, ::2]
    like = take(cupy.zeros(1))
    found = np.asarray(arrays.like(given, like))
    assert np.array_equal(found, given.get()), "arrays.like gives JAX other values than those of the strided array"
    return f"{namespace.__name__} took it"


def _own_kernel() -> str:
    import cupy

    import gpu4d
    from gpu4d.operation import all_operations

    given = np.random.default_rng(3).integers(0, 100, (5, 32, 32), dtype="uint16")
    found = gpu4d.center_of_mass(cupy.asarray(given))
    assert isinstance(found, cupy.ndarray) and np.allclose(found.get(), gpu4d.center_of_mass(given), atol=1e-9)
    return f"center_of_mass by {all_operations()['center_of_mass'].choose(cupy.asarray(given))}"
