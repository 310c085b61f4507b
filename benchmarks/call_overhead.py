"""What one call on one small pattern costs beside its compiled code: `python -m gpu4d.benchmarks.call_overhead`.

Every answer is checked first. Then each function is called on one pattern of 16 × 16 pixels (32 × 32 for Bragg disks), with compiled
code in place and templates prepared. The time of a call is divided by clocks around its parts:

* compiled: functions that numba compiled, with the conversion of their arguments; the definition, where an operation has no CPU twin;
* twin: NumPy around them in `cpu_fallback`: shapes, results;
* choice: `Operation.__call__`: checks of the arguments, and which implementation runs;
* rest: the public function around its operations, with their results.

Overhead is the whole call without its compiled part. Clocks are read for each call, and the longest of the fastest tenth of the calls
counts: on a shared machine many of the others were interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import gpu4d
from gpu4d.compiled import ENTRIES
from gpu4d.imaging.first_moments import first_moments
from gpu4d.imaging.frame_reductions import frame_reductions
from gpu4d.imaging.masked_sums import annular_sums, masked_sums
from gpu4d.imaging.pattern_sums import pattern_maximum, pattern_sums
from gpu4d.imaging.second_moments import second_moments
from gpu4d.operation import Operation
from gpu4d.rings.polar_transform import radial_sums

CALLS = 400
PARTS = ("compiled", "twin", "choice", "rest")
AIM = 50.0  # µs


class Case(NamedTuple):
    """A call, and how its answer is compared with that of the definition."""

    name: str
    call: Callable[[], Any]
    arrays: Callable[[Any], Any] = lambda result: result  # the arrays of a result


class Spent(NamedTuple):
    """Microseconds of a call, by part."""

    compiled: float
    twin: float
    choice: float
    rest: float

    @property
    def overhead(self) -> float:
        return self.twin + self.choice + self.rest


def cases() -> list[Case]:
    """Return one call for each function."""
    rng = np.random.default_rng(1)
    one, masks = rng.poisson(20.0, (1, 16, 16)).astype(np.uint16), np.ones((1, 16, 16), bool)
    image = one[0].astype(np.float32)
    centre, radii = np.array([[7.5, 7.5]]), np.array([[-1.0, 4.0]])
    small = gpu4d.probe.template(gpu4d.probe.synthetic((16, 16), 2.5))
    probe = gpu4d.probe.synthetic((32, 32), 3.5)
    large, disk = gpu4d.probe.template(probe), rng.poisson(4000 * probe + 0.05).astype(np.uint16)
    gradient = rng.normal(size=(16, 16, 2))

    def disks(**options: Any) -> Callable[[], Any]:
        return lambda: gpu4d.find_bragg_disks(disk, large, **options)

    def of_lists(found: Any) -> Any:
        return tuple(found.flat(name) for name in found.fields)

    return [
        Case("center_of_mass", lambda: gpu4d.center_of_mass(image)),
        Case("first_moments", lambda: first_moments(one)),
        Case("second_moments", lambda: second_moments(one)),
        Case("masked_sums (virtual images)", lambda: masked_sums(one, masks)),
        Case("annular_sums (virtual images)", lambda: annular_sums(one, centre, radii)),
        Case("pattern_sums", lambda: pattern_sums(one)),
        Case("pattern_maximum", lambda: pattern_maximum(one)),
        Case("frame_reductions", lambda: frame_reductions(one, masks)),
        Case("radial_sums", lambda: radial_sums(one, centre)),
        Case("radial_profile", lambda: gpu4d.radial_profile(one, (7.5, 7.5))),
        Case("polar_transform", lambda: gpu4d.polar_transform(one, (7.5, 7.5), n_theta=16)),
        Case("ring_moments", lambda: gpu4d.rings.ring_moments(one, centre[0])),
        Case("hot_pixel_median", lambda: gpu4d.preprocess.hot_pixel_median(one)),
        Case("integrate_gradient", lambda: gpu4d.deflection.integrate_gradient(gradient)),
        Case("hybrid_correlation", lambda: gpu4d.hybrid_correlation(image, small)),
        Case("find_bragg_disks, whole pixels", disks(refine=None), of_lists),
        Case("find_bragg_disks, correlation", disks(refine="correlation"), of_lists),
        Case("find_bragg_disks, likelihood", disks(refine="likelihood", parameters=6), of_lists),
    ]


def check(case: Case) -> None:
    """Raise AssertionError if the answer is not that of the definition. Positions of disks may differ by what a twin's steps leave."""
    found, few = case.arrays(case.call()), 2e-3 if case.name.startswith("find_bragg") else 1e-5
    with gpu4d.using("definition"):
        right = case.arrays(case.call())
    for a, b in zip(_flat(found), _flat(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=few, atol=few * float(np.nanmax(np.abs(b), initial=0)), err_msg=case.name)


def _flat(result: Any) -> list[np.ndarray]:
    return [part for one in result for part in _flat(one)] if isinstance(result, tuple) else [np.asarray(result)]


class _Clocks:
    """Time spent inside operations, twins and compiled functions; inside each other they count for the outermost of their kind."""

    def __init__(self) -> None:
        self.spent = {"operation": 0.0, "implementation": 0.0, "compiled": 0.0}
        self.inside = dict.fromkeys(self.spent, 0)

    def around(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            if self.inside[kind]:
                return function(*args, **options)
            self.inside[kind] = 1
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.spent[kind] += time.perf_counter() - start
                self.inside[kind] = 0

        return timed


@contextlib.contextmanager
def clocks() -> Iterator[_Clocks]:
    """Put clocks around operations, twins and compiled functions inside the block."""
    made, before = _Clocks(), []

    def put(owner: Any, name: str, new: Any) -> None:
        before.append((owner, name, vars(owner)[name]))
        setattr(owner, name, new)

    compiled = {id(entry) for entry in ENTRIES.values()}
    for module in [m for name, m in sys.modules.items() if name.startswith("gpu4d.cpu_fallback.")]:
        for name, value in list(vars(module).items()):
            if id(value) in compiled:
                put(module, name, made.around("compiled", value))
    call, choose = Operation.__call__, Operation.implementation

    def implementation(self: Operation, kind: str) -> Callable[..., Any]:
        function = choose(self, kind)
        return made.around("implementation", function if kind != "definition" else made.around("compiled", function))

    put(Operation, "__call__", lambda self, *args, **options: made.around("operation", call)(self, *args, **options))
    put(Operation, "implementation", implementation)
    try:
        yield made
    finally:
        for owner, name, old in reversed(before):
            setattr(owner, name, old)


def measure(case: Case, calls: int = CALLS) -> Spent:
    """Return the time of a call: the whole without clocks inside, divided as clocks inside say."""
    case.call()
    whole = _tenth([_once(case.call) for _ in range(calls)])
    rows = []
    with clocks() as seen:
        for _ in range(calls):
            seen.spent = dict.fromkeys(seen.spent, 0.0)
            total = _once(case.call)
            rows.append((total, *seen.spent.values()))
    rows.sort()
    total, operation, implementation, compiled = (1e6 * value for value in rows[len(rows) // 10])
    share = 1e6 * whole / total  # the clocks themselves take time
    return Spent(*(share * value for value in (compiled, implementation - compiled, operation - implementation, total - operation)))


def _once(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _tenth(times: list[float]) -> float:
    return sorted(times)[len(times) // 10]


def table(found: dict[str, Spent]) -> str:
    """Return the figures as a table of Markdown, in µs."""
    rows = ["| function | call | overhead | compiled | twin | choice | rest |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, spent in found.items():
        figures = (sum(spent), spent.overhead, *spent)
        rows.append(f"| {name} | {' | '.join(f'{value:.0f}' for value in figures)} |")
    return "\n".join(rows)


def main(arguments: list[str] | None = None) -> None:
    """Check and measure every function, and print the table."""
    parser = argparse.ArgumentParser(description="Time one call on one small pattern, by its parts, in µs.")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--calls", type=int, default=CALLS, metavar="N", help=f"calls of each function [default: {CALLS}]")
    given = parser.parse_args(arguments)
    found = {}
    for case in cases():
        check(case)
        found[case.name] = measure(case, given.calls)
    print(table(found))
    above = [name for name, spent in found.items() if spent.overhead > AIM]
    print(f"overhead above {AIM:g} µs: {', '.join(above) or 'none'}")
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump({name: spent._asdict() for name, spent in found.items()}, file, indent=1)


if __name__ == "__main__":
    main()
