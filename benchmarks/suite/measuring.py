"""Time a prepared workload: warm calls first, then rounds; and the memory that a call takes at most."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite.workload import Place, Prepared, WrongAnswer, answer_digest

LEAST = 0.02  # s: shorter calls are repeated within a round after a warm call, because clocks and interrupts count for more then


@dataclass(frozen=True)
class Rounds:
    """How often a workload is called in one pass."""

    rounds: int
    warm: int = 1
    least: float = LEAST
    digests: bool = True  # of the answer of every round; else of the last round alone


def timed(prepared: Prepared, place: Place, how: Rounds, answer: str | None = None) -> tuple[list[float], str]:
    """Return the seconds of one call for each round, and the digest of the answer, which is that of every round.

    Parameters
    ----------
    prepared : Prepared
    place : Place
    how : Rounds
    answer : str, optional
        Digest that answers had before, in an earlier pass.

    Raises
    ------
    WrongAnswer
        Two calls with the same inputs gave different bits.
    """
    once, digest = 0.0, answer
    for _ in range(how.warm):
        once, result = one_call(prepared, place)
    repeat = 1 if prepared.before is not None or not how.warm else max(1, round(how.least / max(once, 1e-9)))
    samples = []
    for number in range(how.rounds):
        if prepared.before is not None:
            prepared.before()
        start = time.perf_counter()
        for _ in range(repeat):
            result = prepared.call()
        place.wait()
        samples.append((time.perf_counter() - start) / repeat)
        if how.digests or number == how.rounds - 1:
            found = answer_digest(prepared.arrays(result))
            if digest not in (None, found):
                raise WrongAnswer("two calls with the same inputs gave different bits")
            digest = found
    assert digest is not None, "there is at least one round"
    return samples, digest


def one_call(prepared: Prepared, place: Place) -> tuple[float, Any]:
    """Return the seconds and the result of one call."""
    if prepared.before is not None:
        prepared.before()
    start = time.perf_counter()
    result = prepared.call()
    place.wait()
    return time.perf_counter() - start, result


def peak_memory(call: Callable[[], Any], place: Place) -> tuple[Any, int | None]:
    """Return the result of a call, and the bytes that it took at most beside what was held before. None where they are not known."""
    return _peak_on_gpu(call, place) if place.on_gpu else _peak_on_host(call)


def _peak_on_gpu(call: Callable[[], Any], place: Place) -> tuple[Any, int]:
    import cupy

    class Peak(cupy.cuda.MemoryHook):
        name = "peak memory of a workload"
        held = most = 0

        def malloc_postprocess(self, **about: Any) -> None:
            self.held += about["mem_size"]
            self.most = max(self.most, self.held)

        def free_postprocess(self, **about: Any) -> None:
            self.held -= about["mem_size"]

    with Peak() as hook:
        result = call()
        place.wait()
    return result, hook.most


def _peak_on_host(call: Callable[[], Any]) -> tuple[Any, int | None]:
    """Linux keeps the largest resident size of a process, and forgets it when a 5 is written to clear_refs.

    Memory that the allocator keeps for later is given back before, so that what a call takes of it is seen.
    """
    process = Path("/proc/self")
    with suppress(AttributeError, OSError):  # other systems have no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        (process / "clear_refs").write_text("5")
        before = _status(process, "VmRSS")
        result = call()
        return result, max(0, _status(process, "VmHWM") - before)
    return call(), None


def _status(process: Path, name: str) -> int:
    line = next(line for line in (process / "status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
