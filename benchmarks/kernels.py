"""Run `gpu4d bench kernels`: check and time every operation with a twin, and compare with the limits of the machine.

A case says how many bytes must be moved and how many flops must be made at least. Divided by the rates measured in the same run, they
give two times. The floor is the larger of them, and the fraction reached is floor / time.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from gpu4d.benchmarks.case import Case
from gpu4d.benchmarks.cases import CASES
from gpu4d.benchmarks.clock import Floors, clock, floors

import gpu4d
from gpu4d import arrays
from gpu4d.operation import all_operations, using


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    operation: str
    label: str
    implementation: str
    patterns: int
    error: float
    seconds: float
    spread: float
    bytes: float
    flops: float
    floor: float

    @property
    def fraction(self) -> float:
        return self.floor / self.seconds

    @property
    def rate(self) -> float:
        return self.patterns / self.seconds


def run(device: str = "auto", *, quick: bool = False, only: Iterable[str] = ()) -> tuple[list[Row], Floors, dict[str, str]]:
    """Check and time every case; rows, floors and a description of the machine.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda:N"}
    quick : bool
        Small inputs and few rounds: to see that it runs.
    only : iterable of str
        Names of operations; all by default.
    """
    from gpu4d.device import choose

    xp, on_gpu = array_library(choose(device))
    limits = floors(xp, on_gpu=on_gpu, quick=quick)
    wanted = set(only)
    cases = [c for c in CASES if (not wanted or c.operation in wanted) and (on_gpu or not c.gpu_only)]
    patterns, rounds = (4, 3) if quick else (None, 9)
    rows = [measure(prepare(case, xp, on_gpu=on_gpu, patterns=patterns), limits, on_gpu=on_gpu, rounds=rounds) for case in cases]
    return rows, limits, machine(on_gpu)


def array_library(where: Any) -> tuple[Any, bool]:
    """CuPy with this device made current, or NumPy; and whether it is a GPU."""
    if where.kind != "cuda":
        return np, False
    import cupy

    cupy.cuda.Device(where.index).use()
    return cupy, True


class Prepared(NamedTuple):
    """A case with its inputs: few patterns on the host, as many as are timed where they are computed on."""

    case: Case
    call: Callable[..., Any]
    patterns: int
    args: tuple
    options: dict
    given: list
    keywords: dict


def prepare(case: Case, xp: Any, *, on_gpu: bool, patterns: int | None = None) -> Prepared:
    """Make the inputs of a case, of as many patterns as it asks for or as are given."""
    n = case.patterns[on_gpu] if patterns is None else max(patterns, case.least)
    args, options = case.inputs(n)
    keywords = options | {name: xp.asarray(options[name]) for name in case.moved}
    return Prepared(case, case.call or operation(case.operation), n, args, options, case.repeated(args, n, xp), keywords)


def measure(prepared: Prepared, limits: Floors, *, on_gpu: bool, rounds: int = 9) -> Row:
    """Check a case, then time it."""
    case, call, n, args, options, given, keywords = prepared
    kind = operation(case.operation).choose(*given, **keywords) if case.call is None else "cuda" if on_gpu else "cpu"
    error = _check(prepared)
    timing = clock(lambda: call(*given, **keywords), on_gpu=on_gpu, rounds=rounds)
    share = case.share(n)
    moved, made = share * float(case.bytes(*args, **options)), share * float(case.flops(*args, **options))
    floor = max(moved / limits.copy, made / getattr(limits, case.rate))
    return Row(case.operation, case.label, kind, n, error, timing.median, timing.spread, moved, made, floor)


def operation(name: str) -> Any:
    """Return the operation of this name."""
    return all_operations()[name]


def _check(prepared: Prepared) -> float:
    """Largest relative error of the first patterns against the definition in float64."""
    case, call, _, args, options, given, keywords = prepared
    few, part = ([a[: case.check] if i in case.sliced else a for i, a in enumerate(some)] for some in (args, given))
    with using("definition"):
        expected = _leaves(call(*few, **options))
    worst = 0.0
    for got, want in zip(_leaves(call(*part, **keywords)), expected, strict=True):
        got, want = (np.asarray(arrays.to_numpy(v), dtype=complex) for v in (got, want))
        if not np.array_equal(np.isnan(got), np.isnan(want)):
            raise AssertionError(f"{case.operation}: NaN at other places than in the definition")
        scale = max(np.nanmax(np.abs(want), initial=0.0), 1e-300)
        worst = max(worst, float(np.nanmax(np.abs(got - want), initial=0.0) / scale))
    if worst > case.tolerance:
        raise AssertionError(f"{case.operation}: error {worst:.1e} against the definition, allowed {case.tolerance:.0e}; not timed")
    return worst


def _leaves(result: Any) -> list:
    return [leaf for part in result for leaf in _leaves(part)] if isinstance(result, tuple) else [result]


def machine(on_gpu: bool) -> dict[str, str]:
    """What was measured on."""
    from gpu4d.device.choose import cpu_threads

    about = {"gpu4d": gpu4d.__version__, "python": platform.python_version(), "numpy": np.__version__, "threads": str(cpu_threads())}
    if on_gpu:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
        about |= {
            "device": properties["name"].decode(),
            "compute capability": cupy.cuda.Device().compute_capability,
            "driver": str(cupy.cuda.runtime.driverGetVersion()),
            "cupy": cupy.__version__,
        }
    return about


def table(rows: list[Row], limits: Floors, about: dict[str, str]) -> str:
    """For people."""
    lines = [
        ", ".join(f"{k} {v}" for k, v in about.items()),
        f"floors measured now: copy {limits.copy / 1e9:.0f} GB/s, FFT {limits.fft / 1e9:.0f} Gflop/s, GEMM {limits.gemm / 1e9:.0f} Gflop/s",
        f"{'operation':21s} {'case':28s} {'runs on':10s} {'patterns':>8s} {'bytes':>9s} {'flop':>9s} {'time':>10s} {'floor':>10s} "
        f"{'fraction':>8s} {'GB/s':>7s} {'patterns/s':>10s} {'error':>7s}",
    ]
    for r in rows:
        lines.append(
            f"{r.operation:21s} {r.label:28s} {r.implementation:10s} {r.patterns:8d} {r.bytes:9.2e} {r.flops:9.2e} "
            f"{r.seconds * 1e3:7.2f} ms "
            f"{r.floor * 1e3:7.3f} ms {r.fraction:8.2f} {r.bytes / r.seconds / 1e9:7.1f} {r.rate:10.3g} {r.error:7.0e}"
        )
    return "\n".join(lines)


def as_json(rows: list[Row], limits: Floors, about: dict[str, str]) -> str:
    """The same for machines."""
    body = [{**asdict(r), "fraction": r.fraction, "patterns_per_second": r.rate} for r in rows]
    return json.dumps({"machine": about, "floors": limits._asdict(), "rows": body}, indent=1)
