"""Second stage: every kernel the run will ask for, compiled by all processors into CuPy's cache on disk; what ptxas made of each.

Which kernels those are is not written down anywhere: every launcher is called, on the host, with a device that only notes what is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.gpu_run.settings import Settings
from gpu4d.benchmarks.gpu_run.stages import workers

from gpu4d.device.backend import CupyBackend, using_backend
from gpu4d.operation import using

# A kernel of these takes seconds: they are begun first, or the last of them would run alone.
SLOW_FIRST = ("fused_disks.cu", "separate_disks.cu", "joint_fit.cu", "poisson_fit.cu", "row_column_fft.cu", "refine_disks.cu")
FEW = 16  # patterns: enough for a launcher to say what it needs
Module = tuple[str, tuple[str, ...]]  # file, defines
Call = tuple[Callable[..., Any], tuple, dict]  # with its arguments and options


class Noting(CupyBackend):
    """The current device, of which nothing is used but its numbers: kernels are noted, arrays are NumPy's and stay zero."""

    def __init__(self) -> None:
        self.asked: dict[Module, list[str]] = {}

    def view(self, array: Any) -> Any:
        from gpu4d.arrays import host_view

        return host_view(array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.zeros(shape, dtype)

    def function(self, file: str, name: str, defines: tuple[str, ...]) -> Any:
        names = self.asked.setdefault((file, defines), [])
        if name not in names:
            names.append(name)
        return name

    def launch(self, function: Any, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared: int) -> None:
        pass


def wanted_by(calls: Iterable[Call], noting: Noting) -> list[str]:
    """Let every call note its kernels; what could not be asked to the end."""
    unknown = []
    for call, args, options in calls:
        try:
            with using_backend(noting), using("cuda"), np.errstate(all="ignore"):
                call(*args, **options)
        except Exception as error:  # zeros are no answer; what was asked before counts
            unknown.append(f"{getattr(call, 'name', call)}: {type(error).__name__}: {error}")
    return unknown


def benchmark_calls() -> Iterator[Call]:
    """Every case of the benchmark, with few patterns."""
    from gpu4d.benchmarks import kernels

    for case in kernels.CASES:
        args, options = case.inputs(FEW)
        yield case.call or kernels.operation(case.operation), args, options


def main(_settings: Settings) -> bool:
    start, noting = time.perf_counter(), Noting()
    unknown = wanted_by(benchmark_calls(), noting)
    asked = noting.asked
    print(
        f"compile: {len(asked)} modules with {sum(map(len, asked.values()))} kernels are asked for ({time.perf_counter() - start:.1f} s)",
        flush=True,
    )
    for one in unknown:
        print(f"compile: not asked to the end, {one}", flush=True)
    order = sorted(asked, key=lambda m: (SLOW_FIRST.index(m[0]) if m[0] in SLOW_FIRST else len(SLOW_FIRST), m))
    failed = 0
    many = min(len(order), workers())
    with ProcessPoolExecutor(many, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(compiled, *module, asked[module]): module for module in order}
        for done in as_completed(pending):
            try:
                lines = done.result()
            except BrokenProcessPool as error:
                print(f"compile: FAILED, {error}", flush=True)
                return False
            except Exception as error:  # what a compiler says
                failed += 1
                lines = [f"compile: FAILED {pending[done]}: {type(error).__name__}: {str(error)[:1500]}"]
            print("\n".join(lines), flush=True)
    print(f"compile: all through after {time.perf_counter() - start:.1f} s", flush=True)
    return not failed


def compiled(file: str, defines: tuple[str, ...], names: list[str]) -> list[str]:
    """Compile a module; a line for every kernel of it."""
    from gpu4d import device

    start, lines = time.perf_counter(), []
    for name in names:
        function = device.kernel(file, name, *defines)
        used = {k: getattr(function, k, "?") for k in ("num_regs", "local_size_bytes", "shared_size_bytes", "max_threads_per_block")}
        lines.append(
            f"kernel {Path(file).stem} {name} {' '.join(defines)}: {used['num_regs']} registers, {used['local_size_bytes']} bytes local, "
            f"{used['shared_size_bytes']} bytes shared, at most {used['max_threads_per_block']} threads"
        )
    return [*lines, f"module {file} {' '.join(defines)}: {time.perf_counter() - start:.1f} s"]
