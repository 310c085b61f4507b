"""Say what each technique does with a scan: time on the patterns, work on lists and maps, passes, and memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gpu4d.benchmarks.suite.costs import Costs
from gpu4d.benchmarks.suite.scan import Scan

from gpu4d.deflection.momentum import DARK_FIELD_REGION
from gpu4d.errors import InputError

BUDGET, BUDGET_SHARE = 4e9, 0.5  # bytes that a call may hold on a host, and share of what is free (`gpu4d.device.memory.default_budget`)
FREE = 0.9  # of the memory, before a call begins
FREQUENCIES = 0.36  # of a scan's Fourier plane: the half in which disks of a focused probe overlap
TITLES = {
    "read": "read and decode all, mean pattern",
    "one-pass": "virtual images, centre of mass, mean",
    "radial": "radial profiles",
    "dpc": "DPC",
    "strain": "Bragg disks by correlation, strain",
    "strain-precise": "Bragg disks by likelihood, strain",
    "orientation": "Bragg disks, orientations",
    "ssb": "SSB",
    "wdd": "WDD",
    "counting": "counting of raw frames",
}


class Work(NamedTuple):
    """What a technique does with a scan, beside reading it."""

    compute: float  # s, on the device
    fixed: float = 0.0  # s, in which nothing is read
    passes: int = 1  # over the scan
    held: float = 0.0  # bytes


@dataclass(frozen=True)
class Machine:
    """Of a result, what decides where a scan lies."""

    memory: float
    card: float | None  # bytes of a GPU's memory; None on the CPU
    threads: int
    read: float | None  # bytes/s that memory is read at
    link: float | None  # bytes/s from host to device

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Machine:
        about = result.get("machine") or {}
        sizes = [about.get(name) for name in ("memory", "memory_limit")]
        memory = min((float(size) for size in sizes if size), default=0.0)
        if not memory:
            raise InputError("the result does not say how much memory its machine has: predictions need machine.memory")
        device, card = about.get("device") or "cpu", None
        if device != "cpu":
            cards = [one for one in about.get("gpus") or () if one.get("memory")]
            found = [one for one in cards if one.get("name") == device] or cards[:1]
            if not found:
                raise InputError(f"the result was measured on {device}, and does not say how much memory that has: need machine.gpus")
            card = float(found[0]["memory"])
        rates = {name: (result.get("attainable") or {}).get(name, {}).get("value") for name in ("read", "host_to_device")}
        return cls(memory, card, int(about.get("threads") or 1), rates["read"], rates["host_to_device"] if card else None)

    @property
    def budget(self) -> float:
        """Bytes that a call may hold."""
        free = FREE * (self.card or self.memory)
        return BUDGET_SHARE * free if self.card else min(BUDGET, BUDGET_SHARE * free)


def _swept(name: str, outputs: float) -> Callable[[Scan, Costs, Machine], Work]:
    """Return the work of one sweep that leaves so many float64 at each position, and a mean pattern."""

    def work(scan: Scan, costs: Costs, machine: Machine) -> Work:
        return Work(
            scan.positions * costs.swept(name, scan.detector_shape, scan.dtype),
            held=8 * (outputs * scan.positions + math.prod(scan.detector_shape)),
        )

    return work


def _strain(scan: Scan, costs: Costs, machine: Machine) -> Work:
    found = _disks(scan, costs)
    return found._replace(fixed=found.fixed + costs.line("strain", scan.positions))


def _strain_precise(scan: Scan, costs: Costs, machine: Machine) -> Work:
    found = _strain(scan, costs, machine)
    if np.dtype(scan.dtype).kind == "f":  # no counts: nothing is fitted
        return found
    fit = costs.fit(scan.detector_shape, scan.disks, scan.disk_radius, scan.disk_spacing)
    chosen = costs.choose(scan.detector_shape, np.dtype(scan.dtype).itemsize, scan.positions)
    return found._replace(compute=found.compute + scan.positions * fit, fixed=found.fixed + chosen + costs.prepare_fit())


def _orientation(scan: Scan, costs: Costs, machine: Machine) -> Work:
    found = _disks(scan, costs)
    return found._replace(fixed=found.fixed + costs.line("match", scan.positions))


def _disks(scan: Scan, costs: Costs) -> Work:
    listed = 2 * 5 * 8 * scan.positions * scan.disks  # lists of five float64 a disk, in tiles and in scan order
    search = scan.positions * costs.search(scan.detector_shape, scan.disks, scan.dtype)
    return Work(search, max(0.0, costs.call_of_search - costs.call), held=listed)


def _dpc(scan: Scan, costs: Costs, machine: Machine) -> Work:
    patterns, maps = costs.dpc(scan.positions, scan.detector_shape, scan.dtype)
    twice = min(1.0, math.prod(min(n, DARK_FIELD_REGION) for n in scan.scan_shape) / scan.positions)  # seen again, for the dark field
    again = min(costs.swept("read", scan.detector_shape, scan.dtype) * scan.positions, patterns / 2)
    return Work(patterns - (1 - twice) * again, maps, held=8 * 16 * scan.positions)


def _direct(name: str) -> Callable[[Scan, Costs, Machine], Work]:
    """Return the work of direct ptychography: a pass for the disk in the mean pattern, and passes for images of its pixels."""

    def work(scan: Scan, costs: Costs, machine: Machine) -> Work:
        copies = 4 if machine.card else 2
        spectra = 8 * FREQUENCIES * scan.positions * (2 if machine.card else 1) if name == "wdd" else 0.0
        stack = scan.bright_pixels * (copies * np.dtype(scan.dtype).itemsize * scan.positions + spectra)
        passes = max(1, math.ceil(stack / machine.budget))
        looked = scan.positions * costs.swept("read", scan.detector_shape, scan.dtype)
        summed = costs.direct(name, scan.positions, scan.bright_pixels)
        return Work(looked, summed + costs.measure_disk(scan.detector_shape), 1 + passes, min(stack, machine.budget))

    return work


def _counting(scan: Scan, costs: Costs, machine: Machine) -> Work:
    events = 0.01 * scan.positions * math.prod(scan.detector_shape)
    return Work(scan.positions * costs.counted(scan.detector_shape), costs.counting_setup(scan.detector_shape), held=8 * events)


WORK: dict[str, Callable[[Scan, Costs, Machine], Work]] = {
    "read": _swept("read", 0.0),
    "one-pass": _swept("one-pass", 7.0),
    "radial": _swept("radial", 64.0),
    "dpc": _dpc,
    "strain": _strain,
    "strain-precise": _strain_precise,
    "orientation": _orientation,
    "ssb": _direct("ssb"),
    "wdd": _direct("wdd"),
    "counting": _counting,
}
