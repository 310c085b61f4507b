"""Measure what the machine can do at best, in the same run as the workloads: bytes and flops a second that nothing surpasses.

Each floor is a `Workload` of the part FLOOR. Its amount is in bytes or flops a call, and its value is amount / median seconds. What a
floor moves is compared, word by word, with what it was made from: a copy that does nothing has no rate.

Sizes are beyond all caches: an array has at least four times the bytes of the last-level cache, as STREAM asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import log2
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import attainable_disk, attainable_links, data
from gpu4d.benchmarks.suite.machine import caches
from gpu4d.benchmarks.suite.statistics import summarise
from gpu4d.benchmarks.suite.words import Words, copy_made, equal, in_pieces, spoil, sum_of_words, words
from gpu4d.benchmarks.suite.workload import FLOOR, Check, Place, Prepared, Size, Workload, relative_error

SIDE = 128  # pixels of the transformed planes
PLANES = 2  # in the cache of a core, 64 KiB each with as much for their transforms
GPU_TIMES = 16  # copies in a call on a GPU, where one takes less than a millisecond and starting it some microseconds
FFT_FLOPS = 2.5 * SIDE**2 * log2(SIDE**2)  # of a real plane, as FFTW counts

ARRAYS: dict[str, Size] = {  # at least 4 times all last-level caches, as STREAM asks; "quick" only shows that it runs
    tier: {"MiB": value, "caches": times} for tier, value, times in (("quick", 16, 0), ("S", 128, 4), ("M", 512, 4), ("L", 2048, 4))
}
ROWS = {"quick": 256, "S": 1536, "M": 2048, "L": 8192}  # of square matrices
ROWS64 = {"quick": 256, "S": 1024, "M": 1024, "L": 4096}  # most cards have 1/32 or 1/64 of the rate in double precision
TRANSFORMS = {"quick": 128, "S": 2048, "M": 8192, "L": 16384}


def floors(place: Place) -> dict[str, Workload]:
    """Return the floors that this place has, by key: those of its memory and arithmetic, its links, its disk."""
    links = attainable_links.floors() if place.on_gpu else [HOST_READ]
    return {floor.key: floor for floor in (*FLOORS, *links, *attainable_disk.floors())}


def measure(floor: Workload, place: Place, tier: str, seed: int = data.SEED, calls: int = 5) -> dict[str, Any]:
    """Check and time one floor, and return its entry of "attainable" in the result file.

    A run measures floors in its passes, between the workloads. This is for everything that needs one floor by itself.
    """
    prepared = floor.make(place, floor.sizes[tier], seed)
    try:
        seconds = []
        for number in range(calls + 1):
            if prepared.before is not None:
                prepared.before()
            place.wait()
            start = time.perf_counter()
            found = prepared.call()
            place.wait()
            if number:  # the first fills caches and starts libraries
                seconds.append(time.perf_counter() - start)
        prepared.check(prepared.arrays(found))
        return entry(floor, prepared, [seconds])
    finally:
        if prepared.close is not None:
            prepared.close()


def entry(floor: Workload, prepared: Prepared, samples: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the entry of "attainable" in the result file from the seconds of a call in each pass."""
    median = summarise([second for one in samples for second in one]).median
    return {
        "title": floor.title,
        "unit": floor.unit,
        "value": prepared.amount / median,
        "amount": prepared.amount,
        "cache": prepared.cache,
        "implementation": prepared.implementation,
        "samples": [list(one) for one in samples],
    }


def array_bytes(place: Place, size: Size) -> int:
    """Return the bytes of an array: those of the size, or so many times the last-level caches, at most an eighth of the free memory."""
    if place.on_gpu:
        from gpu4d.device import l2_cache

        cache, most = l2_cache(), place.xp.cuda.runtime.memGetInfo()[0] // 8
    else:
        from gpu4d.device.memory import available_memory

        last = list(caches().values())[-1:]
        cache, most = sum(one["bytes"] * one["number"] for one in last), available_memory() // 8
    return max(size["MiB"], min(size["caches"] * cache, most) >> 20) << 20


def copy(place: Place, size: Size, seed: int) -> Prepared:
    """Copy an array to another, by all threads."""
    given = words(place.xp, array_bytes(place, size), seed)
    made = place.xp.zeros_like(given.array)
    times = GPU_TIMES if place.on_gpu else 1

    def call() -> Any:
        for _ in range(times):
            if place.on_gpu:
                made[...] = given.array
            else:
                in_pieces(lambda part: np.copyto(made[part], given.array[part]), len(made))
        return made

    return Prepared(
        call,
        lambda found: {"equal": equal(place, found, given.array)},
        lambda found: copy_made(found, len(made)),
        2 * times * made.nbytes,
        given.digest,
        bytes=2.0 * times * made.nbytes,
        before=lambda: spoil(made),
        implementation="cudaMemcpyAsync" if place.on_gpu else "memcpy in threads",
    )


def read(place: Place, size: Size, seed: int) -> Prepared:
    """Read an array once and add its words up, by all threads."""
    given = words(place.xp, array_bytes(place, size), seed)
    times = GPU_TIMES if place.on_gpu else 1
    return Prepared(
        lambda: [sum_of_words(place, given.array) for _ in range(times)][-1],
        lambda found: {"sum": place.host(found).astype(np.uint64)},
        lambda found: sum_is(found, given),
        times * given.array.nbytes,
        given.digest,
        bytes=float(times * given.array.nbytes),
        moved="read",
        implementation="grid of threads, 16 bytes a load" if place.on_gpu else "compiled sums in threads",
    )


def sum_is(found: dict[str, np.ndarray], given: Words) -> Check:
    wrong = int(found["sum"]) != given.sum
    return Check(float(wrong), 0.0, given.words, "the sum of all words modulo 2⁶⁴, worked out from how they are made")


def fft(place: Place, size: Size, seed: int) -> Prepared:
    """Transform real float32 planes of 128 × 128 pixels."""
    return _fft_in_device_memory(place, size["transforms"], seed) if place.on_gpu else _fft_in_caches(size["transforms"], seed)


def _fft_in_device_memory(place: Place, n: int, seed: int) -> Prepared:
    from gpu4d import fft as transforms

    planes = data.hashed(place.xp, seed, 0, n * SIDE**2).reshape(n, SIDE, SIDE).astype("float32") / np.float32(2**32)
    chosen = np.linspace(0, n - 1, 16).astype(int)

    def call() -> Any:
        for _ in range(GPU_TIMES):
            made = transforms.rfft2(planes)
        return made

    def check(found: dict[str, np.ndarray]) -> Check:
        want = np.fft.rfft2(place.host(planes[chosen]).astype(float))
        return Check(relative_error(found["planes"], want), 1e-5, want.size, "NumPy's transform in float64 of 16 planes")

    return Prepared(
        call,
        lambda found: {"planes": place.host(found[chosen])},
        check,
        int(GPU_TIMES * n * FFT_FLOPS),
        data.digest(place.xp, planes),
        bytes=2.0 * GPU_TIMES * planes.nbytes,
        flops=GPU_TIMES * n * FFT_FLOPS,
        implementation="cuFFT, batched",
    )


def _fft_in_caches(n: int, seed: int) -> Prepared:
    """Transform the same few planes again and again, by all threads: the arithmetic without the memory."""
    from gpu4d.benchmarks.suite.compiled_floors import transform_planes
    from gpu4d.cpu_fallback.aligned import zeros
    from gpu4d.cpu_fallback.plane_transform import half_rows, line_plan, padded, panels_of, transform_scratch

    from gpu4d.device.choose import cpu_threads
    from gpu4d.device.threads import in_threads

    threads, rows, plan = cpu_threads(), half_rows(SIDE), line_plan(SIDE)
    times = max(1, n // (PLANES * threads))
    planes = zeros(threads, PLANES, SIDE, padded(SIDE))
    planes[...] = (data.uniform(seed, planes.size)).reshape(planes.shape)
    columns = [zeros(2, rows, padded(SIDE)) for _ in range(threads)]
    scratch = [transform_scratch(SIDE, SIDE) for _ in range(threads)]
    out = [zeros(PLANES, 2, rows // 16, SIDE, 16) for _ in range(threads)]

    def one(k: int) -> None:
        transform_planes(planes[k], times, plan, plan, scratch[k], columns[k], out[k])

    def check(found: dict[str, np.ndarray]) -> Check:
        want = np.stack([panels_of(plane, (SIDE, SIDE)) for plane in np.fft.rfft2(planes.reshape(-1, SIDE, SIDE).astype(float))])
        error = relative_error(found["planes"].reshape(want.shape), want)
        return Check(error, 1e-5, want.size, "NumPy's transform in float64 of all planes")

    return Prepared(
        lambda: list(in_threads(one, range(threads))),
        lambda _: {"planes": np.stack(out)},
        check,
        int(threads * PLANES * times * FFT_FLOPS),
        data.digest(np, planes),
        bytes=0.0,
        flops=threads * PLANES * times * FFT_FLOPS,
        cache="caches of the cores",
        implementation="compiled transform of gpu4d in threads",
    )


def product(dtype: str) -> Callable[[Place, Size, int], Prepared]:
    """Return what makes the product of two square matrices of this type."""

    def make(place: Place, size: Size, seed: int) -> Prepared:
        n = size["rows"]
        a, b = (
            ((data.hashed(place.xp, seed + k, 0, n * n) / 2.0**32) - 0.5).reshape(n, n).astype(dtype) for k in (0, 1)
        )  # centred: a product at reduced precision shows
        chosen = np.linspace(0, n - 1, 8).astype(int)
        tolerance = 1e-5 if dtype == "float32" else 1e-12

        def check(found: dict[str, np.ndarray]) -> Check:
            want = place.host(a[chosen]).astype(float) @ place.host(b).astype(float)
            return Check(relative_error(found["rows"], want), tolerance, want.size, "NumPy's product in float64 of 8 rows")

        return Prepared(
            lambda: a @ b,
            lambda found: {"rows": place.host(found[chosen])},
            check,
            2 * n**3,
            data.digest(place.xp, a, b),
            bytes=3.0 * a.nbytes,
            flops=2.0 * n**3,
            rate="gemm",
            implementation="cuBLAS" if place.on_gpu else "the BLAS of NumPy, with its own threads",
        )

    return make


def _sizes(name: str, values: dict[str, int]) -> dict[str, Size]:
    return {tier: {name: value} for tier, value in values.items()}


FLOORS = [
    Workload("copy", "copy within memory, read plus written", FLOOR, "B/s", ARRAYS, copy),
    Workload("read", "memory read once, by all threads", FLOOR, "B/s", ARRAYS, read),
    Workload("fft", "Fourier transforms of real planes of 128 × 128, float32", FLOOR, "flop/s", _sizes("transforms", TRANSFORMS), fft),
    Workload("gemm", "product of matrices, float32", FLOOR, "flop/s", _sizes("rows", ROWS), product("float32")),
    Workload("gemm64", "product of matrices, float64", FLOOR, "flop/s", _sizes("rows", ROWS64), product("float64")),
]
HOST_READ = Workload(
    "host_to_device",
    "memory read once (the CPU computes where patterns are: no link)",
    FLOOR,
    "B/s",
    ARRAYS,
    read,
)
