"""Measure one floor or workload in one pass: its inputs, its check the first time, its samples, and the state of the machine meanwhile."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpu4d.benchmarks.suite import conditions
from gpu4d.benchmarks.suite.energy import Meter
from gpu4d.benchmarks.suite.measuring import Rounds, peak_memory, timed
from gpu4d.benchmarks.suite.workload import WRONG, Place, Prepared, Size, Unavailable, Workload, WrongAnswer, answer_digest

from gpu4d.errors import MemoryBudgetError


@dataclass(frozen=True)
class Unit:
    """A floor or a workload with its size in this tier."""

    kind: str  # "floor" or "workload"
    workload: Workload
    size: Size

    @property
    def key(self) -> str:
        return self.workload.key


class Kept:
    """Inputs that stay from one pass to the next, as long as they take few bytes."""

    def __init__(self, most: int):
        self.most, self.held = most, 0
        self.prepared: dict[str, Prepared] = {}

    def get(self, unit: Unit, place: Place, seed: int) -> Prepared:
        """Return the inputs of a unit; make them if they are not kept."""
        if unit.key in self.prepared:
            return self.prepared[unit.key]
        prepared = unit.workload.make(place, unit.size, seed)
        self.prepared[unit.key] = prepared
        self.held += int(prepared.bytes)
        return prepared

    def release(self, unit: Unit, place: Place) -> None:
        """Give back what does not fit beside the others."""
        if self.held > self.most and unit.key in self.prepared:
            prepared = self.prepared.pop(unit.key)
            self.held -= int(prepared.bytes)
            _close(prepared)
            del prepared
            gc.collect()
            if place.on_gpu:
                place.xp.get_default_memory_pool().free_all_blocks()

    def close(self) -> None:
        """Give everything back."""
        for prepared in self.prepared.values():
            _close(prepared)
        self.prepared.clear()


def _close(prepared: Prepared) -> None:
    if prepared.close is not None:
        prepared.close()


def measure(unit: Unit, place: Place, seed: int, how: Rounds, kept: Kept, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what one pass finds of a unit. A wrong answer and what a machine lacks are told in place of samples.

    Parameters
    ----------
    unit : Unit
    place : Place
    seed : int
    how : Rounds
    kept : Kept
    earlier : sequence of mapping
        What earlier passes found of it. The first one checks the answer; later ones must give the same bits.
    """
    about = {"title": unit.workload.title, "part": unit.workload.part}
    try:
        return {**about, **_measured(unit, place, seed, how, kept, earlier)}
    except WrongAnswer as wrong:
        return {**about, "failed": f"{WRONG}: {_line(wrong, place)}"}
    except Unavailable as lacking:
        return {**about, "skipped": _line(lacking, place)}
    except (MemoryError, MemoryBudgetError) as error:  # CuPy's OutOfMemoryError is a MemoryError
        return {**about, "skipped": f"does not fit: {_line(error, place)}"}
    except Exception as error:  # a workload that breaks off must not take the others with it
        return {**about, "failed": f"{type(error).__name__}: {_line(error, place)}"}
    finally:
        kept.release(unit, place)


def _line(error: Exception, place: Place) -> str:
    """Return the message of an error as one line, without the path of the folder: results are published."""
    return " ".join(str(error).replace(f"{place.folder}/", "").replace(str(place.folder), "the folder").split())


def _measured(unit: Unit, place: Place, seed: int, how: Rounds, kept: Kept, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    prepared = kept.get(unit, place, seed)
    about: dict[str, Any] = {} if earlier else _checked(unit, prepared, place)
    answer = about.get("answer") or earlier[0]["answer"]
    before, meter = conditions.mark(place), Meter(place)
    samples, _ = timed(prepared, place, how, answer)
    used = meter.stop()
    between = conditions.between(before, conditions.mark(place))
    per_call = None if used.joules is None else used.joules / used.seconds * statistics.median(samples)
    return {**about, "samples": samples, "between": between, "energy_j": per_call}


def _checked(unit: Unit, prepared: Prepared, place: Place) -> dict[str, Any]:
    """Check the answer of a first call, and return what is said of a workload once."""
    prepared.call()  # what is made on first use is there now, and does not count as memory of a call
    if prepared.before is not None:
        prepared.before()
    result, peak = peak_memory(prepared.call, place)
    arrays = prepared.arrays(result)
    check = prepared.check(arrays)
    return {
        "unit": unit.workload.unit,
        "amount": prepared.amount,
        "size": dict(unit.size),
        "data": prepared.data,
        "answer": answer_digest(arrays),
        "implementation": prepared.implementation,
        "check": asdict(check),
        "bytes": prepared.bytes,
        "flops": prepared.flops,
        "moved": prepared.moved,
        "rate": prepared.rate,
        "more": dict(prepared.more),
        "cache": prepared.cache,
        "peak_memory": peak,
    }
