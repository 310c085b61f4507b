"""Turn measured entries of `scaling` into the cost of any other scan: per pattern, per byte and per scan position."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.scaling import AWKWARD, COLD, DISKS, FEW_DISKS, QUARTER, SIZES, USUAL
from gpu4d.benchmarks.suite.scaling_inputs import RADIUS

from gpu4d.errors import InputError

SIDE, DTYPE = USUAL
LEAST_SHARE = 0.1  # of a measured time is left when a fixed cost is taken off, so that noise does not make work free
STEEPNESS = 0.9, 1.3  # slopes beyond the measured sizes, of time over pixels or positions in logarithms: n to n log n and a little more
LONGEST_PRIME = 7  # lengths made of primes up to this are transformed fast
ENTRY_OF_DTYPE = {("u", 1): "uint8", ("u", 2): "uint16", ("u", 4): "uint32", ("f", 4): "float32"}
LOOKED_AT, LOOKED_BYTES = 64, 32 << 20  # of a scan, to choose fit parameters: patterns, and bytes (`BraggDisks.choose`)
FIT_MARGIN = 7.0  # px: disks nearer than two radii and this are fitted together (`find_bragg_disks`)
EXPOSED = 0.4  # of the shorter one of disk and work is not hidden, where one kind of file only was read from the disk
EXPOSURES = np.linspace(0.0, 1.0, 101)
STATES = {"median": np.median, "low": np.min, "high": np.max}


class NotMeasured(InputError):
    """A result lacks an entry that a prediction needs."""


class Costs:
    """Costs on one machine. All are seconds.

    Parameters
    ----------
    scaling : mapping
        The key "scaling" of a result.
    state : {"median", "low", "high"}
        Which of the samples of each entry counts.
    """

    def __init__(self, scaling: Mapping[str, Mapping[str, Any]], state: str = "median"):
        if not scaling:
            raise NotMeasured("the result has no measurements of scaling, which predictions are made of: run `gpu4d bench run` once more")
        self.scaling = scaling
        self._of: Any = STATES[state]

    def seconds(self, key: str) -> float:
        """Return the time of one call of an entry."""
        entry = self.scaling.get(key)
        if entry is None or not entry.get("samples"):
            why = "it was not reached" if entry is None else entry.get("skipped", "it has no samples")
            raise NotMeasured(f"{key!r} was not measured in this result: {why}")
        return float(self._of(entry["samples"]))

    def _net(self, key: str, fixed: float) -> float:
        """Return the time of an entry for each of its patterns: the slope to a quarter of them, else without a fixed cost."""
        whole, n = self.seconds(key), self.scaling[key]["patterns"]
        if self._has(key + QUARTER) and (few := self.scaling[key + QUARTER]["patterns"]) < n:
            slope = (whole - self.seconds(key + QUARTER)) / (n - few)
            return min(max(slope, LEAST_SHARE * whole / n), whole / n)
        return max(whole - fixed, LEAST_SHARE * whole) / n

    def _fixed(self, key: str, otherwise: float) -> float:
        """Return what an entry takes beside its patterns, if it was measured with a quarter of them too."""
        if not self._has(key + QUARTER):
            return otherwise
        return max(0.0, self.seconds(key) - self.scaling[key]["patterns"] * self._net(key, 0.0))

    @property
    def call(self) -> float:
        """The fixed cost of a sweep over an array."""
        return self.seconds("call")

    def _least(self, key: str) -> float:
        """Return the shortest time of an entry for each of its patterns: in differences and ratios of entries, noise counts twice."""
        self.seconds(key)  # says so, if it was not measured
        whole = float(np.min(self.scaling[key]["samples"]))
        return max(whole - self.call_of_search, LEAST_SHARE * whole) / self.scaling[key]["patterns"]

    @property
    def call_of_search(self) -> float:
        """The fixed cost of a search for Bragg disks."""
        return self._fixed(f"bragg {SIDE}", self.call)

    @property
    def call_of_file(self) -> float:
        """The fixed cost of opening a file and sweeping over it."""
        return self.seconds("call-file")

    # ---------------------------------------------------------------- a pattern

    def swept(self, technique: str, detector: tuple[int, int], dtype: str) -> float:
        """Return the cost of a pattern in a sweep that looks at each of its pixels once: "one-pass", "read", "radial"."""
        pixels = math.prod(detector)
        points = [
            (s * s, self._net(f"{technique} {s} {DTYPE}", self.call)) for s in (64, SIDE, 256) if self._has(f"{technique} {s} {DTYPE}")
        ]
        known, factor = entry_of(dtype)
        one = self._net(f"{technique} {SIDE} {DTYPE}", self.call)
        return along(pixels, points) * factor * self._net(f"{technique} {SIDE} {known}", self.call) / one

    def search(self, detector: tuple[int, int], disks: float, dtype: str = DTYPE) -> float:
        """Return the cost of finding the disks of a pattern by correlation."""
        pixels = math.prod(detector)
        sides = sorted({s for of in SIZES.values() for s in of.sides if self._has(f"bragg {s}")})
        points = [(s * s, self._net(f"bragg {s}", self.call_of_search)) for s in sides]
        if not points:
            raise NotMeasured("the search for Bragg disks was not measured in this result")
        per_disk = self._least(f"bragg {SIDE}") - self._least(f"bragg {SIDE} few")
        per_disk *= pixels / SIDE**2 / (DISKS - FEW_DISKS)  # also negative: between few disks, noise has more maxima that must be tested
        at_usual = along(pixels, points) * self._awkward(detector, points)
        return max(at_usual + (disks - DISKS) * per_disk, LEAST_SHARE * at_usual) * self._converted(dtype)

    def _converted(self, dtype: str) -> float:
        """Return how much longer the search takes in patterns of a dtype, at the usual side."""
        known, _ = entry_of(dtype)
        key = f"bragg {SIDE} {known}"
        return self._least(key) / self._least(f"bragg {SIDE}") if self._has(key) else 1.0

    def _awkward(self, detector: tuple[int, int], points: Sequence[tuple[float, float]]) -> float:
        """Return how much longer transforms take along sides with long prime factors."""
        if not self._has(f"bragg {AWKWARD}"):
            return 1.0
        longer = max(1.0, self._net(f"bragg {AWKWARD}", self.call_of_search) / along(AWKWARD**2, points))
        return longer ** (sum(longest_prime(n) > LONGEST_PRIME for n in detector) / 2)

    def fit(self, detector: tuple[int, int], disks: float, radius: float, spacing: float) -> float:
        """Return the cost of fitting the disks of a pattern to its counts, beside finding them."""
        found = {s: self._net(f"bragg {s}", self.call_of_search) for s in (SIDE, 256)}
        fitted = {s: self._net(f"bragg-likelihood {s}", self.call_of_search) for s in (SIDE, 256)}
        points = [((RADIUS * s) ** 2, max(fitted[s] - found[s], LEAST_SHARE * fitted[s]) / DISKS) for s in (SIDE, 256)]
        each = along(radius**2, points)
        if spacing < 2 * radius + FIT_MARGIN:
            joint = max(self._net(f"bragg-joint {SIDE}", self.call_of_search) - found[SIDE], LEAST_SHARE * fitted[SIDE]) / DISKS
            each *= max(1.0, joint / along((RADIUS * SIDE) ** 2, points))
        return disks * each

    def prepare_fit(self) -> float:
        """Return the fixed cost of a fit: its tables of the disk's profile."""
        return max(0.0, self._fixed(f"bragg-likelihood {SIDE}", 0.0) - self.call_of_search)

    def choose(self, detector: tuple[int, int], itemsize: int, patterns: int) -> float:
        """Return the time to choose the number of fit parameters of a scan."""
        pixels = math.prod(detector)
        looked = max(16, min(LOOKED_AT, patterns // 4, LOOKED_BYTES // (pixels * itemsize)))
        return self.seconds(f"bragg-choose {SIDE}") * looked / LOOKED_AT * pixels / SIDE**2

    def counted(self, detector: tuple[int, int]) -> float:
        """Return the cost of counting the electrons of a raw frame."""
        return self._net("counting", self.call) * math.prod(detector) / 256**2

    def counting_setup(self, detector: tuple[int, int]) -> float:
        return self.seconds(f"counting-setup {SIDE}") * math.prod(detector) / SIDE**2

    def event(self) -> float:
        """Return the cost of an event in a sweep of one reduction of each kind."""
        whole = self.seconds("events")
        return max(whole - self.call, LEAST_SHARE * whole) / self.scaling["events"]["events"]

    # ---------------------------------------------------------------- a scan

    def line(self, key: str, patterns: int) -> float:
        """Return the time of work on lists: "strain" or "match", a fixed cost and one for each pattern."""
        n, few = (self.scaling[k]["patterns"] if self._has(k) else 0 for k in (key, f"{key} few"))
        whole, part = self.seconds(key), self.seconds(f"{key} few")
        slope = max((whole - part) / (n - few), LEAST_SHARE * whole / n) if n > few else whole / n
        return max(0.0, part - few * slope) + patterns * slope

    def direct(self, technique: str, positions: int, pixels: int) -> float:
        """Return the time of direct ptychography, of "ssb" or "wdd", of so many bright-field pixels: without reading."""
        points = []
        for n in (64, 128, 256):
            if self._has(key := f"{technique} {n}"):
                per_pattern = self._net(key, min(self.call, self.seconds(key) / 2))
                points.append((n * n, per_pattern / self.scaling[key]["pixels"]))
        if not points:
            raise NotMeasured(f"{technique} was not measured in this result")
        return along(positions, points, (0.0, 0.3)) * positions * pixels

    def measure_disk(self, detector: tuple[int, int]) -> float:
        """Return the time to measure the bright-field disk in the mean pattern."""
        return self.seconds(f"measure-disk {SIDE}") * math.prod(detector) / SIDE**2

    def dpc(self, positions: int, detector: tuple[int, int], dtype: str) -> tuple[float, float]:
        """Return the time of DPC on the patterns, and that on the maps.

        Three entries have the unknown costs of a fixed part, a pattern, and a position times its logarithm.
        """
        scale = self.swept("one-pass", detector, dtype) / self.swept("one-pass", (SIDE, SIDE), DTYPE)
        keys = "dpc few", "dpc", "dpc wide"
        fixed, whole, of_maps = (self.seconds(key) for key in keys)  # says what was not measured
        few, many, wide = (self.scaling[key]["patterns"] for key in keys)
        pattern = max(whole - fixed, LEAST_SHARE * whole) / (many - few)
        position = max(of_maps - self.call, 0.0) / (wide * math.log2(wide))
        return positions * pattern * scale, fixed * math.prod(detector) / SIDE**2 + position * positions * math.log2(max(positions, 2))

    # ---------------------------------------------------------------- a byte

    def opening(self, layout: str, dtype: str) -> float:
        """Return the fixed cost of opening a file of a layout and sweeping over it."""
        return self._fixed(self._file_entry(layout, dtype)[0], self.call_of_file)

    def from_file(self, layout: str, dtype: str) -> float:
        """Return the cost of a byte of patterns that a sweep with one cheap reduction reads from cached pages of a file."""
        key, share = self._file_entry(layout, dtype)
        return share * self._net(key, self.call_of_file) / _pattern_bytes(self.scaling[key])

    def reading(self, layout: str, dtype: str) -> float:
        """Return what `from_file` costs beside the same reduction of patterns in memory: mapping, copying, decoding."""
        key, share = self._file_entry(layout, dtype)
        measured = self.scaling[key]["dtype"]
        inside = self._net(f"one-pass {SIDE} {measured}", self.call) / (SIDE**2 * np.dtype(measured).itemsize)
        return share * max(0.0, self._net(key, self.call_of_file) / _pattern_bytes(self.scaling[key]) - inside)

    def disk(self) -> float:
        """Return the cost of a stored byte that comes from the disk, while the cores have nothing else to do."""
        return self._cold[0]

    def disk_start(self) -> float:
        """Return what the first bytes of a file that is not in memory take, beside those of one that is."""
        key = f"cold {COLD[0]}"
        return max(0.0, self._fixed(key, 0.0) - self.opening("contiguous", COLD[0])) if self._has(key + QUARTER) else 0.0

    def exposed(self) -> float:
        """Return the part of the shorter one of disk and work of the cores that is not hidden behind the longer one."""
        return self._cold[1]

    @functools.cached_property
    def _cold(self) -> tuple[float, float]:
        """Cost of a stored byte from the disk, and the exposed part of the work, from files that take little and much work.

        Each took max(disk, work) + exposed · min(disk, work): two equations. Noise can leave them without a solution, therefore the
        exposed part that fits best is taken.
        """
        measured = [(d, key) for d in COLD if self._has(key := f"cold {d}")]
        if not measured and self._has("cold"):  # results of December 1, 2026, and before
            measured = [(COLD[0], "cold")]
        if not measured:
            self.seconds(f"cold {COLD[0]}")  # says why there is none
        took, work = [], []
        for dtype, key in measured:
            stored = self.scaling[key]["stored"]
            fixed = self.opening("contiguous", dtype) + self.disk_start()
            took.append(max(self.seconds(key) - fixed, LEAST_SHARE * self.seconds(key)) / stored)
            work.append(self._net(f"file contiguous {dtype}", self.call_of_file) / _pattern_bytes(self.scaling[f"file contiguous {dtype}"]))
        if len(measured) == 1:
            return took[0], EXPOSED
        return min((_disk_with(exposed, took, work) for exposed in EXPOSURES), key=lambda found: found[2])[:2]

    def _file_entry(self, layout: str, dtype: str) -> tuple[str, float]:
        """Return the entry of a layout, and a factor for its cost of a byte.

        Decoding counts that are stored in wider values takes as long for a value, because their upper bytes are 0.
        """
        size = np.dtype(dtype).itemsize
        known, _ = entry_of(dtype)
        for name in (known, "uint32" if size >= 4 else DTYPE, DTYPE):
            if self._has(key := f"file {layout} {name}"):
                packed = layout in ("lz4", "gzip")
                return key, np.dtype(name).itemsize / size if packed else 1.0
        raise NotMeasured(f"files of the layout {layout} were not measured in this result")

    def _has(self, key: str) -> bool:
        return bool(self.scaling.get(key, {}).get("samples"))


def together(disk: float, work: float, exposed: float) -> float:
    """Return the time of a disk and of cores that wait for each other now and then.

    The disk works ahead of the cores, but a core that meets a page which is not there yet waits for it.

    Examples
    --------
    >>> together(3.0, 1.0, 0.5), together(1.0, 3.0, 0.0)
    (3.5, 3.0)
    """
    return max(disk, work) + exposed * min(disk, work)


def _disk_with(exposed: float, took: Sequence[float], work: Sequence[float]) -> tuple[float, float, float]:
    """Return the cost of the disk alone that explains the first time, the exposed part, and the misfit of the second time."""
    first, least = took[0], work[0]
    disk = first - exposed * least  # if the disk takes longer than the work
    if disk < least:
        disk = (first - least) / exposed if exposed > 0 else first
    disk = max(disk, LEAST_SHARE * first)
    return disk, exposed, abs(together(disk, work[1], exposed) - took[1])


def _pattern_bytes(entry: Mapping[str, Any]) -> int:
    return math.prod(entry["detector"]) * np.dtype(entry["dtype"]).itemsize


def entry_of(dtype: str) -> tuple[str, float]:
    """Return the measured dtype that is treated alike, and by how much more there is to read in this one.

    Examples
    --------
    >>> entry_of("int16"), entry_of("float64")
    (('uint16', 1.0), ('float32', 2.0))
    """
    kind = np.dtype(dtype)
    letter = "f" if kind.kind == "f" else "u"
    if (found := ENTRY_OF_DTYPE.get((letter, kind.itemsize))) is not None:
        return found, 1.0
    nearest = "float32" if letter == "f" else "uint32"
    return nearest, kind.itemsize / np.dtype(nearest).itemsize


def along(x: float, points: Sequence[tuple[float, float]], steepness: tuple[float, float] = STEEPNESS) -> float:
    """Interpolate between measured points in logarithms. Beyond them the last slope goes on, within `steepness`.

    Examples
    --------
    >>> round(along(4.0, [(1.0, 3.0), (16.0, 48.0)]), 6), round(along(32.0, [(1.0, 3.0), (16.0, 48.0)]), 6)
    (12.0, 96.0)
    """
    ordered = sorted(points)
    if len(ordered) == 1:
        at, value = ordered[0]
        return value * (x / at) ** max(steepness[0], min(1.0, steepness[1]))
    logs = [(math.log(at), math.log(value)) for at, value in ordered]
    place = math.log(x)
    pairs = list(itertools.pairwise(logs))
    (a, u), (b, v) = next((pair for pair in pairs if place <= pair[1][0]), pairs[-1])
    slope = (v - u) / (b - a)
    if not logs[0][0] <= place <= logs[-1][0]:
        slope = max(steepness[0], min(slope, steepness[1]))
        a, u = (a, u) if place < a else (b, v)
    return math.exp(u + slope * (place - a))


def longest_prime(n: int) -> int:
    """Return the largest prime factor.

    Examples
    --------
    >>> longest_prime(130), longest_prime(192), longest_prime(1)
    (13, 3, 1)
    """
    largest, factor = 1, 2
    while n > 1:
        if n % factor:
            factor += 1
        else:
            largest, n = factor, n // factor
    return largest
