"""Timing: warm up, then medians; device events on a GPU, the host's clock on the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """Seconds of one call."""

    median: float
    spread: float  # (largest - smallest) / median of the rounds
    rounds: int


def clock(call: Callable[[], Any], *, on_gpu: bool, rounds: int = 9, least: float = 0.02) -> Timing:
    """Median time of a call after two warm-ups; short calls are repeated within a round until it lasts `least` seconds."""
    call()
    once = _round(call, 1, on_gpu)
    repeat = max(1, round(least / max(once, 1e-9)))
    times = [_round(call, repeat, on_gpu) / repeat for _ in range(rounds)]
    middle = statistics.median(times)
    return Timing(middle, (max(times) - min(times)) / middle, rounds)


def _round(call: Callable[[], Any], repeat: int, on_gpu: bool) -> float:
    if not on_gpu:
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        return time.perf_counter() - start
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for _ in range(repeat):
        call()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) * 1e-3


class Floors(NamedTuple):
    """What the machine can do, measured in the same run."""

    copy: float  # bytes/s, read plus written
    fft: float  # flop/s of single-precision batched 2-D real transforms, 2.5 N log2 N a transform
    gemm: float  # flop/s, single precision


def floors(xp: Any, *, on_gpu: bool, quick: bool = False) -> Floors:
    """Copy bandwidth, FFT rate and multiply-add rate of the device arrays of `xp` live on."""
    from math import log2

    from gpu4d import fft

    size = (1 << 24) if quick or not on_gpu else (1 << 28)
    a = xp.ones(size, dtype=xp.float32)
    b = xp.empty_like(a)

    def copy() -> None:
        b[...] = a

    copied = clock(copy, on_gpu=on_gpu)
    planes = xp.ones((64 if quick or not on_gpu else 2048, 128, 128), dtype=xp.float32)
    transformed = clock(lambda: fft.rfft2(planes), on_gpu=on_gpu)
    work = planes.shape[0] * 2.5 * 128 * 128 * log2(128 * 128)
    n = 512 if quick or not on_gpu else 8192
    m = xp.ones((n, n), dtype=xp.float32)
    multiplied = clock(lambda: m @ m, on_gpu=on_gpu)
    return Floors(2 * a.nbytes / copied.median, work / transformed.median, 2 * n**3 / multiplied.median)
