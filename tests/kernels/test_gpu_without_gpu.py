"""The instrument itself (`tests/support/gpu_without_gpu`): what no device would take is reported, and what is counted is right.

Runs where CuPy for CUDA 13 is installed, in child processes: the CuPy of this process may have a real device.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import gpu_without_gpu
import pytest

pytestmark = pytest.mark.slow
SUPPORT = Path(gpu_without_gpu.__file__).parents[1]


@pytest.fixture(autouse=True)
def can_be_had():
    if reason := gpu_without_gpu.why_not():
        pytest.skip(f"gpu_without_gpu: {reason}")


def python(code):
    """Run Python in a process in which CuPy runs without a GPU; what it prints."""
    begin = """
        import cupy, gpu_without_gpu as without
        from cupy.cuda import runtime

        def complaint(call, error=None):
            "What is said of a call, which may raise one kind of error."
            raised = None
            try:
                call()
            except Exception as one:
                raised = one
            assert (raised is None) == (error is None) and (error is None or error in str(raised)), raised
            return " ".join(without.take_complaints())
    """
    text = textwrap.dedent(begin) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=gpu_without_gpu.environment(), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_copies_outside_of_blocks_are_reported():
    python(
        """
        block, host = cupy.cuda.Memory(1000), cupy.cuda.alloc_pinned_memory(4096)
        copy = lambda to, source, n, kind: lambda: runtime.memcpy(to, source, n, kind)
        assert complaint(copy(block.ptr, host.ptr, 1000, 1)) == ""
        assert "copy of 1001 bytes to" in complaint(copy(block.ptr, host.ptr, 1001, 1), "cudaErrorInvalidValue")
        assert "copy of 8 bytes to" in complaint(copy(block.ptr + 993, host.ptr, 8, 1), "cudaErrorInvalidValue")
        assert "copy of 8 bytes to" in complaint(copy(host.ptr, host.ptr, 8, 1), "cudaErrorInvalidValue")
        assert "copy of 8 bytes from" in complaint(copy(host.ptr, host.ptr, 8, 2), "cudaErrorInvalidValue")
        assert "copy of 8 bytes from" in complaint(copy(block.ptr, block.ptr + 996, 8, 3), "cudaErrorInvalidValue")
        assert "cudaMemset of 8 bytes" in complaint(lambda: runtime.memset(host.ptr, 0, 8), "cudaErrorInvalidValue")
        """
    )


def test_wrong_frees_and_writes_behind_a_block_are_reported():
    python(
        """
        block, host = runtime.malloc(1000), runtime.hostAlloc(1000, 0)
        assert "where no block begins" in complaint(lambda: runtime.free(block + 8), "cudaErrorInvalidValue")
        assert "page-locked" in complaint(lambda: runtime.free(host), "cudaErrorInvalidValue")
        assert "device" in complaint(lambda: runtime.freeHost(block), "cudaErrorInvalidValue")
        assert complaint(lambda: runtime.free(block)) == ""
        assert "where no block begins" in complaint(lambda: runtime.free(block), "cudaErrorInvalidValue")
        import ctypes
        block = runtime.malloc(1000)
        ctypes.memset(block + 1003, 0, 1)
        assert "byte 3 behind a block of 1000 bytes" in complaint(lambda: runtime.free(block))
        """
    )


def test_launches_that_no_device_takes_are_reported():
    python(
        """
        kernel = cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
        refused = "CUDA_ERROR_INVALID_VALUE"
        assert complaint(lambda: kernel((3, 65535), (1,), ())) == ""
        assert "1025 x 1 x 1 threads" in complaint(lambda: kernel((1,), (1025,), ()), refused)
        assert "1 x 65536 x 1 blocks" in complaint(lambda: kernel((1, 65536), (1,), ()), refused)
        assert "49153 bytes" in complaint(lambda: kernel((1,), (1,), (), shared_mem=49153), refused)
        kernel.max_dynamic_shared_size_bytes = 60000
        assert complaint(lambda: kernel((1,), (1,), (), shared_mem=60000)) == ""
        assert "the device has 232448" in complaint(lambda: setattr(kernel, "max_dynamic_shared_size_bytes", 232449), refused)
        """
    )


def test_what_the_host_shim_finds_is_reported():
    python(
        """
        source = '''extern "C" __global__ void uneven(int* out) {
            if (threadIdx.x) __syncthreads();
            out[threadIdx.x] = threadIdx.x;
        }'''
        out = cupy.zeros(32, "int32")
        launch = lambda: cupy.RawKernel(source, "uneven")((1,), (32,), (out,))
        assert "31 threads wait at __syncthreads" in complaint(launch, "CUDA_ERROR_LAUNCH_FAILED")
        """
    )


def test_an_access_of_no_memory_loses_the_device():
    python(
        """
        source = 'extern "C" __global__ void wild(int* p) { *p = 1; }'
        launch = lambda: cupy.RawKernel(source, "wild")((1,), (1,), (cupy.uint64(8),))
        assert "address 0x8" in complaint(launch, "CUDA_ERROR_ILLEGAL_ADDRESS")
        complaint(lambda: cupy.zeros(3), "cudaErrorIllegalAddress")
        without.lose_device(0)
        assert int(cupy.arange(10).sum()) == 45
        """
    )


def test_a_function_that_is_not_there_says_its_name():
    python(
        """
        a = cupy.ones((3, 3))
        assert "cusolverDnCreateParams is called" in complaint(lambda: cupy.linalg.eigh(a), "801")
        """
    )


def test_counts():
    """Of calls whose number follows from what CUDA must be asked to do."""
    python(
        """
        import numpy as np
        ones = np.ones(1000)
        add = cupy.RawKernel('extern "C" __global__ void add(double* a) { a[blockIdx.x] += 1; }', "add")
        add((1,), (1,), (cupy.ones(1),))
        with without.counting() as seen:
            there = cupy.asarray(ones)
        assert (seen.uploads, seen.upload_bytes, seen.launches, seen.downloads) == (1, 8000, 0, 0), seen
        with without.counting() as seen:
            for _ in range(3):
                add((1000,), (1,), (there,))
        assert seen.kernels == {"add": 3} and seen.launches == 3 and seen.waits == seen.uploads == 0, seen
        with without.counting() as seen:
            back = there.get()
        assert (seen.downloads, seen.download_bytes, seen.waits) == (1, 8000, 1) and (back == 4).all(), seen
        with without.counting() as seen:
            cupy.cuda.Device().synchronize()
            cupy.cuda.Stream.null.synchronize()
            event = cupy.cuda.Event()
            event.record()
            event.synchronize()
        assert (seen.waits, seen.events) == (3, 1), seen
        with without.counting() as seen:
            block = cupy.cuda.Memory(512)
            del block
        assert (seen.allocations, seen.releases) == (1, 1), seen
        with without.counting() as seen:
            cupy.fft.fft(there)
            there @ there.reshape(1000, 1)
        assert seen.library_calls >= 1 and seen.uploads == 0, seen
        """
    )


def test_memory():
    python(
        """
        without.set_memory(10_000_000)
        assert runtime.memGetInfo() == (10_000_000, 10_000_000)
        first = cupy.cuda.Memory(6_000_000)
        complaint(lambda: cupy.cuda.Memory(4_000_001), "")
        second = cupy.cuda.Memory(4_000_000)
        assert without.memory().used == 10_000_000 and runtime.memGetInfo()[0] == 0
        del first
        now = without.memory()
        assert (now.used, now.most_used) == (4_000_000, 10_000_000), now
        """
    )


def test_barriers_and_shuffles_of_cupys_own_kernels():
    """Sums over many blocks, running sums and sorts, against NumPy."""
    python(
        """
        import numpy as np
        rng = np.random.default_rng(1)
        a = rng.integers(-50, 50, (37, 911))
        there = cupy.asarray(a)
        for axis in (None, 0, 1):
            assert (there.sum(axis=axis).get() == a.sum(axis=axis)).all()
            assert (there.argmax(axis=axis).get() == a.argmax(axis=axis)).all()
        assert (there.ravel().cumsum().get() == a.ravel().cumsum()).all()
        assert all((x.get() == y).all() for x, y in zip(there.nonzero(), a.nonzero()))
        assert (there[there > 3].get() == a[a > 3]).all()
        assert (cupy.sort(there, axis=0).get() == np.sort(a, axis=0)).all()
        b = rng.normal(size=(4, 5, 5)) + 1j * rng.normal(size=(4, 5, 5))
        np.testing.assert_allclose((cupy.asarray(b) @ cupy.asarray(b[::-1])).get(), b @ b[::-1], rtol=1e-13)
        np.testing.assert_allclose(cupy.fft.ifft2(cupy.asarray(b)).get(), np.fft.ifft2(b), rtol=1e-12)
        np.testing.assert_allclose(cupy.linalg.solve(cupy.asarray(b.real), cupy.asarray(b.imag)).get(), np.linalg.solve(b.real, b.imag))
        assert without.take_complaints() == []
        """
    )


def test_a_complaint_fails_the_test_that_caused_it(tmp_path):
    (tmp_path / "test_two.py").write_text(
        textwrap.dedent(
            """
            import cupy, pytest

            def test_wrong():
                with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
                    cupy.cuda.runtime.free(4096)

            def test_right():
                assert int(cupy.arange(4).sum()) == 6
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "gpu_without_gpu", "-p", "no:cacheprovider", "test_two.py"]
    environment = gpu_without_gpu.environment(PYTHONPATH=str(SUPPORT))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert "ERROR test_two.py::test_wrong" in done.stdout and "2 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "where no block begins" in done.stdout


def test_importing_it_changes_nothing():
    code = "import gpu_without_gpu, sys; print(gpu_without_gpu.active(), 'cupy' in sys.modules, 'numpy' in sys.modules)"
    environment = gpu_without_gpu.environment(PYTHONPATH=str(SUPPORT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["False"] * 3, done.stdout + done.stderr


@pytest.mark.parametrize(("version", "said"), [(None, "pip install"), ("13.6.0", "tried with CuPy 14.x, 13.6.0 is installed")])
def test_another_cupy_is_refused(version, said, monkeypatch):
    monkeypatch.setattr(gpu_without_gpu.activation, "cupy_version", lambda: version)
    monkeypatch.setattr(gpu_without_gpu.activation.sys, "meta_path", [])
    with pytest.raises(gpu_without_gpu.Unavailable, match=said):
        gpu_without_gpu.activate()
