"""`gpu4d bench kernels`: every operation with a twin, timed after its answer was checked, against what the machine can do.

A case says how many bytes must be moved and how many flops made at the least; the floor is the larger of both over the rates
measured in the same run, and the fraction reached is floor / time.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from gpu4d.benchmarks.clock import Floors, clock, floors

import gpu4d
from gpu4d import arrays
from gpu4d.operation import OPERATIONS


@dataclass(frozen=True)
class Case:
    """One timed call of an operation.

    Attributes
    ----------
    operation : str
    label : str
        Sizes, for people.
    make : callable
        Of a number of patterns: host arguments and options of the call.
    patterns : (int, int)
        On the CPU and on a GPU.
    bytes, flops : callable
        Of the host arguments: least bytes moved and flops made.
    check : int
        Patterns whose answer is compared with the definition in float64.
    sliced : tuple of int
        Arguments whose first axis is patterns.
    tolerance : float
        Largest error over the largest value of each part of the answer.
    """

    operation: str
    label: str
    make: Callable[[int], tuple[tuple, dict]]
    patterns: tuple[int, int]
    bytes: Callable[..., float]
    flops: Callable[..., float] = field(default=lambda *_a, **_o: 0.0)
    check: int = 8
    sliced: tuple[int, ...] = (0,)
    tolerance: float = 1e-4


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


def frames(n: int, size: int = 128, dtype: str = "uint16") -> np.ndarray:
    """Counting noise with a disk: n patterns of which 64 are different."""
    rng = np.random.default_rng(0)
    mean = 0.5 + 60 * gpu4d.probe.synthetic((size, size), size / 20)
    few = rng.poisson(mean, (min(n, 64), size, size)).astype(dtype)
    return np.resize(few, (n, size, size))


def bragg(n: int) -> tuple[tuple, dict]:
    from gpu4d.bragg.disks import disk_arguments

    scan = gpu4d.simulate.bragg_scan((4, 4), (128, 128), seed=1)
    patterns = np.resize(np.asarray(scan.cube.source.array).reshape(-1, 128, 128), (n, 128, 128))
    a = disk_arguments(gpu4d.probe.template(scan.probe), 6, None)
    return (patterns, a["spectrum"], a["moments"], a["allowed"]), {"min_spacing": 9.0, "max_peaks": 32}


def masks(m: int, size: int = 128) -> np.ndarray:
    return np.stack([gpu4d.detectors.annulus(4 * i, 4 * i + 10).mask((size, size)) for i in range(m)])


CASES = [
    Case("first_moments", "128², uint16", lambda n: ((frames(n),), {}), (2048, 65536), lambda p: p.nbytes + 24 * len(p)),
    Case("masked_sums", "128², uint16, 4 masks", lambda n: ((frames(n), masks(4)), {}), (2048, 65536), lambda p, m: p.nbytes + 32 * len(p)),
    Case("pattern_sums", "128², uint16", lambda n: ((frames(n),), {}), (2048, 65536), lambda p: p.nbytes),
    Case("pattern_maximum", "128², uint16", lambda n: ((frames(n),), {}), (2048, 65536), lambda p: p.nbytes),
    Case(
        "find_disks",
        "128², uint16, 21 disks",
        bragg,
        (512, 65536),
        lambda p, *_a, **_o: p.nbytes + len(p) * 32 * 5 * 8,
        lambda p, *_a, **_o: len(p) * (3 * 2.5 * 128 * 128 * 14 + 2 * 10 * 128 * 65 + 21 * 2 * 6 * 128 * 128),
        tolerance=5e-3,  # standard errors; positions are 1e-5
    ),
]


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

    where = choose(device)
    on_gpu = where.kind == "cuda"
    if on_gpu:
        import cupy as xp

        xp.cuda.Device(where.index).use()
    else:
        import numpy as xp  # type: ignore[no-redef]
    limits = floors(xp, on_gpu=on_gpu, quick=quick)
    wanted = set(only)
    rows = [_measure(case, xp, on_gpu, quick, limits) for case in CASES if not wanted or case.operation in wanted]
    return rows, limits, machine(on_gpu)


def _measure(case: Case, xp: Any, on_gpu: bool, quick: bool, limits: Floors) -> Row:
    op = OPERATIONS.get(case.operation) or _registered(case.operation)
    n = 16 if quick else case.patterns[on_gpu]
    args, options = case.make(n)
    given = [xp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    kind = op.choose(*given, **options)
    error = _check(op, args, options, given, case)
    timing = clock(lambda: op(*given, **options), on_gpu=on_gpu, rounds=3 if quick else 9)
    moved, made = float(case.bytes(*args, **options)), float(case.flops(*args, **options))
    floor = max(moved / limits.copy, made / limits.fft)
    return Row(case.operation, case.label, kind, n, error, timing.median, timing.spread, moved, made, floor)


def _registered(name: str) -> Any:
    """Operations register when their module is imported: import those of all techniques."""
    import gpu4d.bragg
    import gpu4d.phase.center_of_mass
    import gpu4d.virtual.image
    import gpu4d.virtual.patterns  # noqa: F401

    return OPERATIONS[name]


def _check(op: Any, args: tuple, options: dict, given: list, case: Case) -> float:
    """Largest relative error of the first patterns against the definition in float64."""
    few, part = ([a[: case.check] if i in case.sliced else a for i, a in enumerate(some)] for some in (args, given))
    worst = 0.0
    for got, want in zip(_leaves(op(*part, **options)), _leaves(op.definition(*few, **options)), strict=True):
        got, want = arrays.to_numpy(got).astype(float), arrays.to_numpy(want).astype(float)
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
        f"{'operation':18s} {'case':26s} {'runs on':10s} {'patterns':>9s} {'time':>10s} {'patterns/s':>11s} "
        f"{'GB/s':>7s} {'of floor':>8s} {'error':>8s}",
    ]
    for r in rows:
        lines.append(
            f"{r.operation:18s} {r.label:26s} {r.implementation:10s} {r.patterns:9d} {r.seconds * 1e3:7.2f} ms {r.rate:11.3g} "
            f"{r.bytes / r.seconds / 1e9:7.1f} {r.fraction:8.2f} {r.error:8.1e}"
        )
    return "\n".join(lines)


def as_json(rows: list[Row], limits: Floors, about: dict[str, str]) -> str:
    """The same for machines."""
    body = [{**asdict(r), "fraction": r.fraction, "patterns_per_second": r.rate} for r in rows]
    return json.dumps({"machine": about, "floors": limits._asdict(), "rows": body}, indent=1)
