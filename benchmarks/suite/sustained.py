"""Run one workload back to back for a minute and more: heat lowers clocks, and a machine is as fast as it stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.conditions import between, clock_mhz, cpu_temperature, mark, processors, reasons
from gpu4d.benchmarks.suite.energy import Meter
from gpu4d.benchmarks.suite.sensors import card_of
from gpu4d.benchmarks.suite.system_files import ROOT
from gpu4d.benchmarks.suite.workload import Place

LEAST = 60.0  # s: laptops and cards reach a steady temperature in about this time
BURST = 3.0  # s from the beginning, after a call to warm up
KEPT = 200  # samples in the result: medians of as many stretches
LOOK = 2.0  # s between looks at clocks and temperatures, between calls


def sustain(
    call: Callable[[], Any],
    place: Place,
    seconds: float = LEAST,
    *,
    workload: str = "bragg-disks",
    before: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Run a prepared workload back to back, and return "sustained" of the result file.

    Parameters
    ----------
    call : callable
        Of `Prepared`, checked before.
    place : Place
    seconds : float
        At least; the last call is finished.
    workload : str
        Its key.
    before : callable, optional
        Of `Prepared`.
    clock : callable
        For tests.

    Returns
    -------
    dict
        "burst": median seconds of the calls that began in the first three seconds; "sustained": of those in the last third; "ratio":
        burst / sustained, 1 for a machine that heat does not slow down; "samples": [seconds from the beginning, seconds of a call], at
        most 200, medians of neighbours; "over_time": clocks, temperature, power; "energy" of all calls, and "energy_j" of one;
        "conditions": `conditions.between`; "notes": why it became slower, where that is seen.
    """
    call()
    place.wait()
    meter, earlier = Meter(place), mark(place)
    times: list[tuple[float, float]] = []
    seen: list[dict[str, Any]] = []
    start = clock()
    looked = -LOOK
    while (now := clock() - start) < seconds or not times:
        if now - looked >= LOOK:
            seen.append({"at": now, **look(place)})
            looked = now
        if before is not None:
            before()
        began = clock()
        call()
        place.wait()
        times.append((began - start, clock() - began))
    found = between(earlier, mark(place))
    used = meter.stop()
    burst, steady = burst_and_sustained(times)
    slower = burst / steady < 0.97
    return {
        "seconds": clock() - start,
        "workload": workload,
        "calls": len(times),
        "burst": burst,
        "sustained": steady,
        "ratio": burst / steady,
        "samples": thinned(times),
        "over_time": seen,
        "energy": used.as_dict(),
        "energy_j": None if used.joules is None else used.joules / len(times),
        "conditions": found,
        "notes": reasons([found]) if slower else [],
    }


def burst_and_sustained(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the median seconds of calls in the first three seconds, and in the last third of the time.

    Examples
    --------
    >>> burst_and_sustained([(0.0, 1.0), (1.0, 1.2), (2.2, 1.1), (3.3, 1.5), (4.8, 1.6), (6.4, 2.0), (8.4, 2.0)])
    (1.1, 2.0)
    """
    end = times[-1][0] + times[-1][1]
    first = [took for at, took in times if at < BURST]
    last = [took for at, took in times if at >= 2 / 3 * end] or [times[-1][1]]
    return float(np.median(first)), float(np.median(last))


def thinned(times: Sequence[tuple[float, float]], kept: int = KEPT) -> list[list[float]]:
    """Return at most so many samples: of each stretch of neighbours, when it began and the median."""
    stretches = np.array_split(np.asarray(times, float), min(kept, len(times)))
    return [[float(stretch[0, 0]), float(np.median(stretch[:, 1]))] for stretch in stretches]


def look(place: Place) -> dict[str, Any]:
    """Return clocks, temperatures and power at this moment."""
    card, _ = card_of(place)
    found: dict[str, Any] = {"mhz": clock_mhz(ROOT, processors()), "temperature": cpu_temperature()}
    if card is not None:
        now = card.sense()
        found["card"] = {"sm_mhz": now.sm_mhz, "temperature": now.temperature, "power": now.power, "reasons": list(now.reasons)}
    return found
