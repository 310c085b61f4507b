"""Predict how long a scan takes on the machine of a result, technique by technique, and say what binds it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from gpu4d.benchmarks.suite.costs import Costs, NotMeasured, together
from gpu4d.benchmarks.suite.detectors import DETECTORS, EVENTS, Detector, Pace, keeps_up
from gpu4d.benchmarks.suite.scan import Scan
from gpu4d.benchmarks.suite.techniques import TITLES, WORK, Machine, Work

from gpu4d.errors import InputError

CACHED = 0.7  # of the memory may hold pages of a file that are read again
RESIDENT = 0.6  # of a card's memory may hold patterns, beside what work on them takes
MODEL = 0.07  # relative error of the model inside of what was measured
PER_DOUBLING = 0.05  # and for each doubling of pixels beyond it
MEASURED_PIXELS = 64**2, 256**2
BANDWIDTH = 0.7  # of the time: where reading memory at the measured rate takes so much, memory binds
BUFFERS, TILE_BYTES = 3, (4 << 20, 64 << 20)  # of a conveyor; of one on the CPU and on a card, at least a pattern (`gpu4d.streaming.plan`)
REST = "start, lists, maps"  # what is not in proportion to the patterns that are read


@dataclass(frozen=True)
class Range:
    """A time in seconds, and the interval it is expected in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Time:
    """The prediction for one technique.

    Attributes
    ----------
    technique, title : str
    first : Range
        Seconds, with the file on the disk.
    again : Range or None
        Seconds, with the patterns in memory: of the card if they fit there, else in the page cache. None if they fit nowhere.
    place : {"card", "page cache", "disk"}
        Where the patterns are in `again`; "disk" if they are streamed from there each time.
    binds : str
        What decides `first`.
    candidates : dict of str to float
        Seconds that each part would take alone.
    passes : int
        Over the scan.
    peak_memory : float
        Bytes that the call holds, about.
    rate : float
        Patterns a second, of `first`.
    scans_per_kwh, scans_per_hour_per_1000 : float or None
        Scans for a kWh, and scans an hour for each 1 000 € of the price.
    """

    technique: str
    title: str
    first: Range
    again: Range | None
    place: str
    binds: str
    candidates: dict[str, float]
    passes: int
    peak_memory: float
    rate: float
    scans_per_kwh: float | None = None
    scans_per_hour_per_1000: float | None = None


@dataclass(frozen=True)
class Prediction:
    """How long a scan takes on a machine.

    Attributes
    ----------
    scan, machine : str
    nbytes, stored : int
        Bytes of the patterns and of the file.
    times : tuple of Time
    missing : dict of str to str
        Techniques that cannot be predicted, and why.
    paces : tuple of Pace
        What keeps up with which detector.
    assumed : tuple of str
        What the times rest on.
    power, price : float or None
        W and €.
    """

    scan: str
    machine: str
    nbytes: int
    stored: int
    times: tuple[Time, ...]
    missing: dict[str, str]
    paces: tuple[Pace, ...]
    assumed: tuple[str, ...]
    power: float | None = None
    price: float | None = None
    format: str = field(default="gpu4d-bench-prediction", kw_only=True)
    version: int = field(default=1, kw_only=True)

    def __getitem__(self, technique: str) -> Time:
        return next(one for one in self.times if one.technique == technique)

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return tables for a terminal."""
        from gpu4d.benchmarks.suite.prediction_text import text

        return text(self)


def predict_from(
    result: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    scan: str | None = None,
    *,
    price: float | None = None,
    power: float | None = None,
) -> Prediction:
    """Predict from a file with a result, for a scan in a file or one that is written down.

    Raises
    ------
    InputError
        Neither or both are given, one of them cannot be read, or the result was altered.
    """
    from gpu4d.benchmarks.suite import result as results

    if (file is None) == (scan is None):
        raise InputError("give either the file of a scan, or its shape: --scan 512x512x256x256:uint16")
    asked = Scan.parse(scan) if scan is not None else Scan.of_file(file)  # type: ignore[arg-type]
    measured = results.read(result)
    if measured.get("hash") != results.own_hash(measured):
        raise InputError(f"{result} was altered after it was written: its hash does not fit; take the file that gpu4d bench run wrote")
    return predict(measured, asked, price=price, power=power)


def predict(result: Mapping[str, Any], scan: Scan, *, price: float | None = None, power: float | None = None) -> Prediction:
    """Predict how long a scan takes on the machine of a result.

    Parameters
    ----------
    result : mapping
        As `gpu4d bench run` writes it; of its keys scaling, machine, attainable and workloads (for the energy) are used.
    scan : Scan
    price : float, optional
        Of the machine, €.
    power : float, optional
        That it takes while it works, W. By default from the energies of the result.

    Raises
    ------
    InputError
        The result has no measurements of scaling, or does not say how large the memory is.
    """
    machine, scaling = Machine.of(result), result.get("scaling") or {}
    states = {state: Costs(scaling, state) for state in ("median", "low", "high")}
    power = mean_power(result) if power is None else power
    times, missing = [], dict[str, str]()
    for technique in TITLES:
        try:
            times.append(_time(technique, scan, machine, states, price=price, power=power))
        except NotMeasured as error:
            missing[technique] = str(error)
    label = (result.get("machine") or {}).get("label") or "a machine"
    paces = tuple(pace_with(detector, states["median"], machine) for detector in DETECTORS)
    return Prediction(str(scan), label, scan.nbytes, scan.on_disk, tuple(times), missing, paces, _assumed(scan), power, price)


def mean_power(result: Mapping[str, Any]) -> float | None:
    """Return the mean power of the workloads whose energy is known, W."""
    known = [one for one in (result.get("workloads") or {}).values() if one.get("energy_j") and one.get("median")]
    seconds = sum(one["median"] for one in known)
    return sum(one["energy_j"] for one in known) / seconds if seconds else None


# ---------------------------------------------------------------- where patterns come from


class Stages(NamedTuple):
    """Seconds of parts that go on at the same time, and of what comes before and after them."""

    disk: float
    read: float  # of the host, or through a link to the device
    compute: float
    fixed: float
    exposed: float = 0.0  # of the shorter one of disk and work of the cores is not hidden


def stages_of(work: Work, scan: Scan, costs: Costs, machine: Machine) -> Stages:
    """Return how long each part takes alone."""
    fits = scan.on_disk <= CACHED * machine.memory
    disk = (1 if fits else work.passes) * scan.on_disk * costs.disk() + costs.disk_start()
    fixed = work.fixed + costs.opening(scan.layout, scan.dtype)
    if machine.card:
        return Stages(disk, work.passes * scan.nbytes * costs.from_file(scan.layout, scan.dtype), work.compute, fixed)
    return Stages(disk, work.passes * scan.nbytes * costs.reading(scan.layout, scan.dtype), work.compute, fixed, costs.exposed())


def first_time(stages: Stages, machine: Machine) -> float:
    """Return the time with the file on the disk.

    In front of a card, disk, readers, link and card go on at the same time. On a CPU, cores both read and compute (`together`).
    """
    if machine.card:
        return max(stages.disk, stages.read, stages.compute) + stages.fixed
    return together(stages.disk, stages.read + stages.compute, stages.exposed) + stages.fixed


def next_time(stages: Stages, scan: Scan, machine: Machine) -> tuple[float | None, str]:
    """Return the time with the patterns in memory, and where they are."""
    if machine.card and scan.nbytes <= RESIDENT * machine.card:
        return stages.compute + stages.fixed, "card"
    if scan.on_disk <= CACHED * machine.memory:
        return first_time(stages._replace(disk=0.0), machine), "page cache"
    return None, "disk"


def _binds(stages: Stages, scan: Scan, machine: Machine, passes: int) -> tuple[str, dict[str, float]]:
    """Return what decides the time, and what every part would take alone."""
    candidates = {"disk": stages.disk, "reading and decoding": stages.read, "compute": stages.compute, REST: stages.fixed}
    if machine.link:
        candidates["link"] = passes * scan.nbytes / machine.link
    elif machine.read:
        candidates["memory"] = passes * scan.nbytes / machine.read
    host = max(stages.read, stages.compute) if machine.card else stages.read + stages.compute
    if stages.fixed > max(stages.disk, host):
        return REST, candidates
    if stages.disk > host:
        return "disk", candidates
    if stages.read > stages.compute:
        return ("link" if candidates.get("link", 0.0) > BANDWIDTH * stages.read else "reading and decoding"), candidates
    return ("memory" if candidates.get("memory", 0.0) > BANDWIDTH * host else "compute"), candidates


def _time(technique: str, scan: Scan, machine: Machine, states: Mapping[str, Costs], *, price: float | None, power: float | None) -> Time:
    parts = {state: stages_of(WORK[technique](scan, costs, machine), scan, costs, machine) for state, costs in states.items()}
    work, stages = WORK[technique](scan, states["median"], machine), parts["median"]
    margin = model_error(scan)

    def ranged(of: Callable[[Stages], float | None]) -> Range | None:
        value, low, high = (of(parts[state]) for state in ("median", "low", "high"))
        if value is None or low is None or high is None:
            return None
        return Range(value, min(low, value) * (1 - margin), max(high, value) * (1 + margin))

    first = ranged(lambda one: first_time(one, machine))
    assert first is not None
    binds, candidates = _binds(stages, scan, machine, work.passes)
    buffers = BUFFERS * max(TILE_BYTES[bool(machine.card)], scan.pattern_bytes) * (1 if machine.card else machine.threads)
    return Time(
        technique,
        TITLES[technique],
        first,
        ranged(lambda one: next_time(one, scan, machine)[0]),
        next_time(stages, scan, machine)[1],
        binds,
        candidates,
        work.passes,
        work.held + buffers,
        scan.positions / first.value,
        None if not power else 3.6e6 / (power * first.value),
        None if not price else 3600 / first.value / (price / 1000),
    )


def model_error(scan: Scan) -> float:
    """Return the relative error that is allowed for the model itself: more for detectors beyond those that were measured."""
    pixels, (least, most) = math.prod(scan.detector_shape), MEASURED_PIXELS
    beyond = max(0.0, math.log2(pixels / most), math.log2(least / pixels))
    return min(0.5, MODEL + PER_DOUBLING * beyond)


def pace_with(detector: Detector, costs: Costs, machine: Machine) -> Pace:
    """Say what keeps up with a detector whose patterns come into host memory."""
    scan, rates = Scan((256, 256), detector.shape, detector.dtype), dict[str, float]()
    for technique in TITLES:
        if (technique == "counting") != detector.raw and technique != "read":
            continue
        try:
            work = WORK[technique](scan, costs, machine)
        except NotMeasured:
            continue
        link = work.passes * scan.nbytes / machine.link if machine.link else 0.0
        lists = (
            costs.line("strain" if "strain" in technique else "match", scan.positions)
            if technique.startswith(("strain", "orient"))
            else 0.0
        )
        rates[technique] = scan.positions / max(work.compute + (lists or work.fixed * (technique in ("ssb", "wdd", "dpc"))), link)
    try:
        rates[EVENTS] = 1 / costs.event()
    except NotMeasured:
        pass
    return keeps_up(rates, detector)


def _assumed(scan: Scan) -> tuple[str, ...]:
    """Say in sentences what a prediction rests on."""
    size = (
        "the file says" if scan.stored is not None else "a usual compression gives" if scan.layout in ("lz4", "gzip") else "the shape gives"
    )
    floats = (f"values of {scan.dtype} may not be counts, so no likelihood is fitted",) if np.dtype(scan.dtype).kind == "f" else ()
    joint = scan.disk_spacing < 2 * scan.disk_radius + 7
    return (
        f"the file holds {scan.on_disk / 1e9:.3g} GB, as {size}",
        f"{scan.disks:g} Bragg disks in a pattern, of radius {scan.disk_radius:.3g} px, {scan.disk_spacing:.3g} px apart: "
        + ("neighbours are fitted together" if joint else "each is fitted alone"),
        f"{scan.bright_pixels} pixels in the bright-field disk of a focused probe",
        *floats,
        "nothing else runs on the machine, and its disk is as fast as when it was measured",
    )
