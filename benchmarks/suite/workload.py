"""What a workload is: inputs of a size and a seed, a call that is timed, a check of its answer, and what nothing can do without."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TIERS = ("S", "M", "L")  # sized for a laptop with two cores, a card with 8 GB, a card with 80 GB
QUICK = "quick"  # seconds of work, to see that everything runs; it has no reference and gets no score
COMPUTE, BANDWIDTH, TRANSFER, DISK, END_TO_END = PARTS = ("Compute", "Bandwidth", "Transfer", "Disk", "End-to-end")
WRONG = "wrong answer"  # how the reason of a failure begins that was found by comparing answers
FLOOR = "floor"  # the part of what is measured only as a limit for others

Size = Mapping[str, int]  # by name: patterns, detector pixels, …


class WrongAnswer(Exception):
    """An answer is not that of the float64 oracle. There is no score then."""


class Unavailable(Exception):
    """A workload cannot run on this machine; the message says why and what to do."""


@dataclass(frozen=True)
class Place:
    """Where a run computes and keeps its files.

    Attributes
    ----------
    xp : module
        NumPy or CuPy; the device is current already.
    on_gpu : bool
    device : str
        What `device=` of gpu4d's functions takes: "cpu", "cuda:0".
    folder : Path
        For files of the workloads. Emptied when the run ends.
    """

    xp: Any
    on_gpu: bool
    device: str
    folder: Path

    def wait(self) -> None:
        """Wait until the device has done everything it was given."""
        if self.on_gpu:
            self.xp.cuda.get_current_stream().synchronize()

    def host(self, array: Any) -> np.ndarray:
        """Return an array, a slice or a scalar as a NumPy array."""
        from gpu4d import arrays

        return np.asarray(arrays.to_numpy(array) if arrays.is_array(array) else array)


@dataclass(frozen=True)
class Check:
    """What came of comparing an answer with its oracle.

    Attributes
    ----------
    error : float
        Largest difference, in the terms of `tolerance`.
    tolerance : float
        The largest that counts as right.
    values : int
        How many values were compared with the oracle.
    oracle : str
        What they were compared with, in a few words: "integer sums of NumPy over all patterns".
    scatter, bound : float or None
        Root mean square distance from the truth of the simulation, and the least that counting noise permits (the Cramér–Rao bound),
        where both are known. The score's part Precision is made of their ratio.
    unit : str
        Of both.
    """

    error: float
    tolerance: float
    values: int
    oracle: str
    scatter: float | None = None
    bound: float | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if not self.error <= self.tolerance:  # NaN is wrong too
            raise WrongAnswer(f"error {self.error:.2e}, allowed {self.tolerance:.0e}, compared with {self.oracle}")


@dataclass(frozen=True)
class Prepared:
    """A workload with its inputs in place.

    Attributes
    ----------
    call : callable
        What is timed.
    arrays : callable
        Of the call's result: host arrays by name, which are checked and whose digest must be the same after every call.
    check : callable
        Of these arrays: a `Check`. Raises `WrongAnswer`.
    amount : int
        Of the workload's unit.
    data : str
        Digest of the inputs (`gpu4d.benchmarks.suite.data.digest`), the same on every machine for the same seed and size.
    bytes : float
        Least bytes that must be moved, read plus written.
    flops : float
        Least floating-point operations.
    rate : str
        Name of the floor that flops are held against: "fft" or "gemm". FFTs move data; what is arithmetic alone is held against products.
    moved : str
        Name of the floor that bytes are held against: "copy", "host_to_device", "disk_cold", "disk_warm", "read".
    more : mapping of str to float
        Other floors: name of a floor, and the amount that is held against it in its unit. The floor's seconds are the longest.
    cache : str
        Where the inputs are when the call begins: "device memory", "page cache", "disk: pages are dropped before each call".
    before : callable or None
        Called before every timed call, outside its time.
    close : callable or None
        Called when the workload is done: gives memory and files back.
    implementation : str
        What runs: "cpu", "cuda", "definition", or names of operations with theirs.
    inputs : callable or None
        Returns the inputs as host arrays by name, for other tools that do the same work: `gpu4d.benchmarks.suite.peers` says the names.
    """

    call: Callable[[], Any]
    arrays: Callable[[Any], dict[str, np.ndarray]]
    check: Callable[[dict[str, np.ndarray]], Check]
    amount: int
    data: str
    bytes: float
    flops: float = 0.0
    rate: str = "fft"
    moved: str = "copy"
    more: Mapping[str, float] = field(default_factory=dict)
    cache: str = "device memory"
    before: Callable[[], None] | None = None
    close: Callable[[], None] | None = None
    implementation: str = ""
    inputs: Callable[[], dict[str, np.ndarray]] | None = None


@dataclass(frozen=True)
class Workload:
    """One workload of the suite.

    Attributes
    ----------
    key : str
        Its name in files and options: "bragg-disks".
    title : str
        For readers: "hybrid correlation and peaks".
    part : str
        The sub-score it counts for: one of `PARTS`.
    unit : str
        What is counted: "patterns", "positions".
    sizes : mapping of str to Size
        For "quick", "S", "M" and "L".
    make : callable
        Of a place, a size and a seed: the workload with its inputs.
    explain : str
        A sentence or two on what it does and why a user waits for it. It is printed and goes into the docs.
    """

    key: str
    title: str
    part: str
    unit: str
    sizes: Mapping[str, Size]
    make: Callable[[Place, Size, int], Prepared]
    explain: str = ""


def pattern_sizes(**patterns: int) -> dict[str, Size]:
    """Return the sizes of a workload on patterns of 128² pixels, by their number in each tier."""
    return {tier: {"patterns": n, "detector": 128} for tier, n in patterns.items()}


def implementations(patterns: Any, *names: str) -> str:
    """Say which implementation each of these operations takes for such patterns: "cuda", or "find_disks: cuda, peak_errors: definition"."""
    from gpu4d.operation import all_operations

    known = all_operations()
    kinds = {name: known[name].kind_for(patterns.dtype, patterns, tuple(patterns.shape)) for name in names}
    return ", ".join(f"{name}: {kind}" for name, kind in kinds.items()) if len(set(kinds.values())) > 1 else next(iter(kinds.values()))


def answer_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of named arrays: names, dtypes, shapes and bytes."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {value.dtype.str} {value.shape}".encode())
        found.update(value.data if value.size else b"")
    return found.hexdigest()


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference over the largest value wanted. NaN at other places than wanted, or another shape, is infinite."""
    got, want = (np.asarray(v, complex if np.iscomplexobj(v) else float) for v in (got, want))
    if got.shape != want.shape or not np.array_equal(np.isnan(got), np.isnan(want)):
        return float("inf")
    scale = max(float(np.nanmax(np.abs(want), initial=0.0)), 1e-300)
    return float(np.nanmax(np.abs(got - want), initial=0.0)) / scale
