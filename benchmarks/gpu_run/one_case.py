"""One case of the benchmark, called twice with few patterns: what a profiler or a checker is put around."""

from __future__ import annotations

from gpu4d.benchmarks import kernels
from gpu4d.benchmarks.gpu_run.settings import Settings

from gpu4d.device import choose


def main(_settings: Settings, key: str, patterns: str) -> bool:
    xp, _ = kernels.array_library(choose("cuda:0"))
    case = next(case for case in kernels.CASES if case.key == key)
    _, call, _, _, _, given, options = kernels.prepare(case, xp, on_gpu=True, patterns=int(patterns))
    for _ in range(2):  # the first compiles, and CuPy's own small kernels come with it
        call(*given, **options)
    xp.cuda.runtime.deviceSynchronize()
    return True
