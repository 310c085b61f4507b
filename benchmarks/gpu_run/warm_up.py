"""In the background: numba compiles what later stages compare with, so that they need not wait for it."""

from __future__ import annotations

import time

from gpu4d.benchmarks.gpu_run.compiling import benchmark_calls
from gpu4d.benchmarks.gpu_run.settings import Settings


def main(_settings: Settings) -> bool:
    start = time.perf_counter()
    for call, args, options in benchmark_calls():
        call(*args, **options)
    print(f"CPU twins are compiled after {time.perf_counter() - start:.0f} s", flush=True)
    return True
