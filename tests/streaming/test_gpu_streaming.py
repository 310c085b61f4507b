"""Sweeps of files through a GPU (`pytest -m gpu`): the cap is kept, the link is filled, copies hide behind computing, nothing is left.

Where it makes sense the same test runs on the CPU with small scans, so that it is known to be able to pass, and with those on the CUDA of
host memory (`-p gpu_without_gpu`), which computes at the rate of one processor core. What is measured is
printed (`pytest -s`): benchmarks/streaming.py measures more of it.
"""

import contextlib
import gc
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time

import gpu_without_gpu
import numpy as np
import pytest
from watched import watched

import gpu4d
from gpu4d.device.processors.cuda import CudaProcessor
from gpu4d.device.timeline import Timeline
from gpu4d.errors import MemoryBudgetError
from gpu4d.streaming.plan import plan

EITHER = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
MB, GB = 10**6, 10**9


NEARLY_FULL = 64 << 20  # bytes that a full device may call free: pieces of the driver's steps, and what other processes gave back
LEAST_PIECE = 64 << 10  # bytes: less is no use to a sweep


def is_a_card(device):
    """Whether scans are large: on a card, not on the CPU or on host memory that stands for a card."""
    return device != "cpu" and not gpu_without_gpu.active()


def bragg_file(path, scan_shape, detector_shape=(128, 128)):
    """A scan with disks in every pattern, made of a few dozen simulated ones; and its probe."""
    small = gpu4d.simulate.bragg_scan((6, 6), detector_shape, radius=5.0, spacing=20.0, seed=4)
    patterns = np.asarray(small.cube.source.array).reshape(-1, *detector_shape)
    out = np.lib.format.open_memmap(path, "w+", patterns.dtype, (*scan_shape, *detector_shape))
    rng = np.random.default_rng(5)
    for row in range(scan_shape[0]):
        out[row] = patterns[rng.integers(0, len(patterns), scan_shape[1])]
    out.flush()
    return gpu4d.open(path), small.probe


def counts_file(path, nbytes, detector_shape=(256, 256)):
    """A scan of counts that are different everywhere, quickly written: in the page cache when it is opened."""
    rows, frame = 64, 2 * detector_shape[0] * detector_shape[1]
    shape = (rows, max(1, nbytes // (rows * frame)), *detector_shape)
    row = np.random.default_rng(6).integers(0, 4096, shape[1:], dtype="uint16")
    out = np.lib.format.open_memmap(path, "w+", "uint16", shape)
    for number in range(rows):
        out[number] = row
        out[number, :, 0, 0] = number
    out.flush()
    return gpu4d.open(path)


def reductions(probe=None, detector_shape=(128, 128)):
    away = np.hypot(*(np.indices(detector_shape) - (np.array(detector_shape)[:, None, None] - 1) / 2))
    several = {"bf": away < 8, "adf": (away > 20) & (away < 50)}
    found = {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "image": gpu4d.VirtualImage(several), "com": gpu4d.CenterOfMass()}
    return found if probe is None else found | {"disks": gpu4d.BraggDisks(probe)}


def light():
    """Two sums over every pixel: far below what a link takes."""
    return {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()}


def assert_equal(found, expected):
    for name in set(expected) - {"com", "disks"}:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]), err_msg=name)
    if "com" in expected:
        np.testing.assert_allclose(np.asarray(found["com"]), np.asarray(expected["com"]), rtol=1e-13)
    if "disks" in expected:
        one, two = found["disks"], expected["disks"]
        np.testing.assert_array_equal(one.counts, two.counts)
        for axis in ("qx", "qy"):
            np.testing.assert_allclose(one.flat(axis), two.flat(axis), atol=1e-3)


def mem_free():
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0])


@contextlib.contextmanager
def least_free():
    """The least free memory of the device inside the block, asked for all the time, as a list of one."""
    least, over = [mem_free()], threading.Event()

    def look():
        while not over.is_set():
            least[0] = min(least[0], mem_free())
            time.sleep(2e-4)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield least
    finally:
        over.set()
        thread.join()


# ---------------------------------------------------------------- memory


@EITHER
def test_the_cap_is_kept_by_a_scan_eight_times_as_large(device, tmp_path):
    scan_shape, detector, cap = ((192, 256), (128, 128), 192 * MB) if is_a_card(device) else ((64, 192), (64, 64), 12 * MB)
    cube, probe = bragg_file(tmp_path / "scan.npy", scan_shape, detector)
    assert np.prod(cube.shape) * cube.dtype.itemsize >= 8 * cap
    if not is_a_card(device):
        probe = None  # the lists of disks alone are larger than this cap
    processor = watched(device)
    gpu4d.sweep(cube, reductions(probe, detector), device=processor, memory=cap)  # kernels are compiled, libraries open their handles
    expected = gpu4d.sweep(cube, reductions(probe, detector), device="cpu")
    with least_free() if device != "cpu" else contextlib.nullcontext([0]) as least:
        before = mem_free() if device != "cpu" else 0
        found = gpu4d.sweep(cube, reductions(probe, detector), device=processor, memory=cap)
    print(f"peak {processor.opened[-1].peak / MB:.0f} of {cap / MB:.0f} MB, pinned {processor.opened[-1].pinned_peak / MB:.0f} MB")
    assert processor.opened[-1].peak <= cap and processor.opened[-1].pinned_peak <= cap
    if device != "cpu":
        assert processor.opened[-1].peak > 0
        print(f"the device: {(before - least[0]) / MB:.0f} MB less free")
        assert before - least[0] <= cap + 64 * MB  # handles of libraries, and whole pages of the driver
    assert_equal(found, expected)


@EITHER
def test_a_second_sweep_leaves_no_memory(device, tmp_path):
    cube = counts_file(tmp_path / "scan.npy", 256 * MB if is_a_card(device) else 8 * MB, (128, 128) if is_a_card(device) else (64, 64))
    detector = cube.detector_shape
    free = mem_free if device != "cpu" else lambda: 0
    gpu4d.sweep(cube, reductions(None, detector), device=device, memory="64 MB")
    before, threads = free(), threading.active_count()
    for _ in range(3):
        gpu4d.sweep(cube, reductions(None, detector), device=device, memory="64 MB")
        gc.collect()
        assert free() >= before and threading.active_count() <= threads


@pytest.mark.gpu
def test_results_kept_on_the_device_outlive_the_sweep(tmp_path):
    import cupy

    cube = counts_file(tmp_path / "scan.npy", 128 * MB)
    expected = gpu4d.sweep(cube, light(), device="cpu")
    gpu4d.sweep(cube, light(), device="cuda:0", memory="64 MB")
    before = mem_free()
    found = gpu4d.sweep(cube, light(), device="cuda:0", memory="64 MB", keep="device")
    gc.collect()
    others = [cupy.full(1 << 20, 255, dtype="uint8") for _ in range(64)]  # would be given the results' memory if it were free
    assert isinstance(found["mean"].data, cupy.ndarray)
    for name in expected:
        np.testing.assert_array_equal(found[name].data.get(), np.asarray(expected[name]))
    del found, others
    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    assert mem_free() >= before


@pytest.mark.gpu
def test_work_areas_of_ffts_are_inside_the_cap():
    import cupy

    frames = cupy.ones((64, 250, 250), dtype="complex64")
    workspace = CudaProcessor(0).workspace(400 * MB, 0)
    try:
        elsewhere = cupy.get_default_memory_pool().total_bytes()
        with workspace.computing(workspace.stream("compute"), "fft"):
            size = cupy.fft.fft2(frames).nbytes
            held = cupy.fft.config.get_plan_cache().get_curr_memsize()
        print(f"work area {held / MB:.0f} MB")
        assert workspace.peak >= size + held and cupy.get_default_memory_pool().total_bytes() == elsewhere
        with pytest.raises(MemoryError), workspace.computing(workspace.stream("compute"), "too large"):
            cupy.fft.fft2(cupy.ones((1024, 256, 256), dtype="complex64"))
        assert workspace.peak <= 400 * MB
    finally:
        workspace.close()
    assert cupy.fft.config.get_plan_cache().get_curr_size() == 0


@EITHER
def test_a_filled_device_makes_smaller_steps(device, tmp_path, caplog):
    """After the plan was made, somebody else takes the memory: too little for the chunks planned, enough for smaller ones."""
    size = 2 * GB if is_a_card(device) else 32 * MB if device == "cpu" else 128 * MB
    cube = counts_file(tmp_path / "scan.npy", size, (128, 128))
    expected = gpu4d.sweep(cube, light(), device="cpu")
    gpu4d.sweep(cube, light(), device=device, memory="320 MB")  # kernels are loaded while there is memory for them
    processor, filling = watched(device), []
    todo = plan(cube, light(), device=processor, memory="320 MB" if is_a_card(device) else "64 MB")
    open_workspace = processor.workspace

    def filled(cap, *args, **options):
        if device == "cpu":  # no memory is taken from anybody here: the cap is lowered
            return open_workspace(todo.bytes * 2 // 3, *args, **options)
        import cupy

        made = open_workspace(cap, *args, **options)
        filling.append(cupy.cuda.Memory(mem_free() - todo.bytes * 2 // 3))
        return made

    processor.workspace = filled
    try:
        with caplog.at_level("INFO", logger="gpu4d"):
            found = gpu4d.sweep(cube, light(), device=processor, memory=todo.budget)
    finally:
        filling.clear()
    assert processor.opened[-1].peak < todo.bytes
    if device != "cpu":
        assert "continuing with chunks of" in caplog.text
    assert_equal(found, expected)


def all_memory():
    """Take what memory of the device can be had; the pieces.

    Each is half of the one that was refused: free memory is not one piece, is given in steps, and others on the device use it too.
    """
    import cupy

    taken, size = [], mem_free()
    while size >= LEAST_PIECE:
        try:
            taken.append(cupy.cuda.Memory(size))
        except cupy.cuda.runtime.CUDARuntimeError:
            size //= 2
    return taken


@pytest.mark.gpu
def test_a_full_device_is_refused_with_three_numbers(tmp_path):
    import cupy

    cube = counts_file(tmp_path / "scan.npy", 64 * MB)
    cupy.get_default_memory_pool().free_all_blocks()
    filling = all_memory()
    with pytest.raises(MemoryBudgetError) as caught:
        gpu4d.sweep(cube, light(), device="cuda:0", memory="1 GB")
    del filling
    # What is free may be more than is asked, in pieces that are too small: then the driver's words stand beside the numbers.
    assert caught.value.asked > caught.value.free or "out of memory" in str(caught.value)
    assert caught.value.free <= NEARLY_FULL and caught.value.cap == GB
    gpu4d.sweep(cube, light(), device="cuda:0", memory="1 GB")


# ---------------------------------------------------------------- speed


def host_to_device_rate(nbytes, seconds=1.0):
    """Bytes per second from page-locked memory, in copies of this size, as the conveyor makes them: two buffers, one stream."""
    import cupy

    workspace = CudaProcessor(0).workspace(4 * nbytes, 0)
    try:
        stream = workspace.stream("copy")
        pairs = [(workspace.allocate(nbytes), workspace.pinned(nbytes)) for _ in range(2)]
        for there, here in pairs:
            here.view((nbytes,), "uint8")[...] = 1
            workspace.copy(there, here, nbytes, stream)
        stream.synchronize()
        rates, over = [], time.perf_counter() + seconds
        while time.perf_counter() < over:
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record(stream.cupy)
            for there, here in pairs * 4:
                workspace.copy(there, here, nbytes, stream)
            end.record(stream.cupy)
            end.synchronize()
            rates.append(8 * nbytes / (cupy.cuda.get_elapsed_time(begin, end) * 1e-3))
        return statistics.median(rates)
    finally:
        workspace.close()


def rate_of_reading(cube, todo):
    """Bytes per second from the page cache into page-locked memory, by as many threads as a sweep would have."""
    from gpu4d.benchmarks.streaming import reading_rate

    workspace = CudaProcessor(0).workspace(4 * todo.readers * todo.tile_bytes, 0)
    try:
        buffers = [workspace.pinned(todo.tile_bytes).view((todo.tile_bytes,), "uint8") for _ in range(2 * todo.readers)]
        return reading_rate(cube, buffers, todo.readers, rounds=3)
    finally:
        workspace.close()


def seconds_of(cube, device, rounds, **options):
    """Seconds of a sweep, the shortest of some, and its results."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        results = gpu4d.sweep(cube, light(), device=device, **options)
        times.append(time.perf_counter() - start)
    return min(times), results


@EITHER
@pytest.mark.real_gpu("the rate of a link")
def test_a_file_in_the_page_cache_fills_the_link(device, tmp_path):
    """The rate of what a longer scan takes more time: what a sweep costs whatever its length (pinning, planning) is not of the link."""
    sizes = (GB, 5 * GB) if device != "cpu" else (16 * MB, 32 * MB)
    cubes = [counts_file(tmp_path / f"{size}.npy", size) for size in sizes]
    expected = gpu4d.sweep(cubes[1], light(), device="cpu")
    seconds_of(cubes[0], device, 1)
    short, _ = seconds_of(cubes[0], device, 5)
    long, found = seconds_of(cubes[1], device, 5)
    assert_equal(found, expected)
    nbytes = [float(np.prod(cube.shape)) * cube.dtype.itemsize for cube in cubes]
    rate = (nbytes[1] - nbytes[0]) / max(long - short, 1e-9)
    if device == "cpu":
        assert rate > 0
        return
    todo = plan(cubes[1], light(), device=device)
    link, reading = host_to_device_rate(todo.chunk_bytes), rate_of_reading(cubes[1], todo)
    print(f"link {link / GB:.1f} GB/s, reading {reading / GB:.1f} GB/s, sweep {rate / GB:.1f} GB/s ({rate / min(link, reading):.2f})")
    assert rate >= 0.9 * min(link, reading)  # on a virtual machine the page cache may be slower than the link


@EITHER
@pytest.mark.real_gpu("copies and kernels at the same time")
def test_copies_hide_behind_computing(device, tmp_path):
    cube = counts_file(tmp_path / "scan.npy", 2 * GB if device != "cpu" else 32 * MB)
    gpu4d.sweep(cube, reductions(None, cube.detector_shape), device=device)
    timeline = Timeline()  # on a GPU filled from timed events
    gpu4d.sweep(cube, reductions(None, cube.detector_shape), device=device, trace=timeline)
    if device == "cpu":
        assert timeline.busy("cpu compute 0") > 0
        return
    copy, compute = timeline.busy("cuda:0 copy"), timeline.busy("cuda:0 compute")
    both = timeline.overlap("cuda:0 copy", "cuda:0 compute")
    print(f"copying {copy * 1e3:.0f} ms, computing {compute * 1e3:.0f} ms, both at once {both * 1e3:.0f} ms")
    assert min(copy, compute) > 0 and both >= 0.7 * min(copy, compute)


# ---------------------------------------------------------------- order


@EITHER
def test_two_streams_give_the_definitions_answer(device, tmp_path):
    """Small, for compute-sanitizer: many chunks through a short ring, twice the same bits."""
    cube, probe = bragg_file(tmp_path / "scan.npy", (24, 16), (64, 64))
    expected = gpu4d.sweep(cube, reductions(probe, (64, 64)), device="cpu")
    found = [gpu4d.sweep(cube, reductions(probe, (64, 64)), device=device, memory="256 MB") for _ in range(2)]
    assert_equal(found[0], expected)
    assert_equal(found[1], found[0])
    assert found[0]["disks"].flat("qx").tobytes() == found[1]["disks"].flat("qx").tobytes()


@pytest.mark.gpu
def test_two_devices_give_the_bits_of_one(tmp_path):
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one CUDA device")
    cube, probe = bragg_file(tmp_path / "scan.npy", (64, 64))
    one = gpu4d.sweep(cube, reductions(probe), device="cuda:0", memory="256 MB")
    two = gpu4d.sweep(cube, reductions(probe), device=["cuda:0", "cuda:1"], memory="256 MB")
    for name in set(one) - {"disks"}:
        assert np.asarray(one[name]).tobytes() == np.asarray(two[name]).tobytes(), name
    assert one["disks"].counts.tobytes() == two["disks"].counts.tobytes()
    for axis in ("qx", "qy", "intensity"):
        assert one["disks"].flat(axis).tobytes() == two["disks"].flat(axis).tobytes()


# ---------------------------------------------------------------- what needs a process of its own


def in_a_process(code, *arguments, limit=120):
    environment = gpu_without_gpu.environment() if gpu_without_gpu.active() else os.environ
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, timeout=limit, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split(), done.stderr


@pytest.mark.gpu
def test_other_devices_are_not_touched(tmp_path):
    import cupy

    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one CUDA device")
    counts_file(tmp_path / "scan.npy", 16 * MB)
    said, _ = in_a_process(
        """
        import sys, gpu4d
        from gpu4d.device.processors.cuda_memory import has_context
        gpu4d.sweep(gpu4d.open(sys.argv[1]), gpu4d.MeanPattern(), device="cuda:1", memory="64 MB")
        print(has_context(0), has_context(1))
        """,
        tmp_path / "scan.npy",
    )
    assert said == ["False", "True"]


@pytest.mark.gpu
def test_a_lost_device_is_an_error_and_an_end(tmp_path):
    """A kernel that writes where there is no memory: no call on the device works after it, in this process."""
    counts_file(tmp_path / "scan.npy", 64 * MB)
    said, complaints = in_a_process(
        """
        import sys, cupy, gpu4d
        from gpu4d.errors import DeviceError

        class Wild(gpu4d.MeanPattern):
            def joins(self):
                return None

            def update(self, frames, positions):
                cupy.RawKernel('extern "C" __global__ void wild(int* p) { *p = 1; }', "wild")((1,), (1,), (cupy.uint64(8),))
                super().update(frames, positions)

        try:
            gpu4d.sweep(gpu4d.open(sys.argv[1]), Wild(), device="cuda:0", memory="64 MB")
        except DeviceError as error:
            print("IllegalAddress" in str(error) or "ILLEGAL_ADDRESS" in str(error), "nvidia-smi" in str(error))
        """,
        tmp_path / "scan.npy",
    )
    print(complaints)  # of destructors, which cannot raise
    assert said == ["True", "True"]
