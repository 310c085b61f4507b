"""Verify a result: its own hash, its form, and everything that follows from its raw samples, computed again.

What is checked is what a file can show. A hash that anybody can compute finds accidents and careless changes; it does not say who made
the file. Somebody who invents samples that fit each other is found only by running again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite import data as inputs
from gpu4d.benchmarks.suite import provenance, score, workloads
from gpu4d.benchmarks.suite.result import Result, own_hash, read
from gpu4d.benchmarks.suite.schema import problems
from gpu4d.benchmarks.suite.statistics import summarise
from gpu4d.benchmarks.suite.workload import QUICK

import gpu4d

SAME = 1e-9  # relative: numbers that are computed again from the same samples may differ in their last digits, on another processor
FASTER = 1.1  # floor over time above which a time is not plausible, with the floor at the fastest sample of each rate
FOLLOWS = ("median", "minimum", "low", "high", "outliers", "floor", "bound_by", "fraction", "reference", "ratio")


@dataclass(frozen=True)
class Verification:
    """What came of verifying a result.

    Attributes
    ----------
    path : Path
    findings : tuple of str
        What does not fit, each with the line of the file it is about. A result with a finding has no score.
    notes : tuple of str
        What was not checked, and why.
    score : float or None
        The total, where everything fits and the result has one.
    why_not : tuple of str
        Why a result that fits has no score.
    """

    path: Path
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    score: float | None
    why_not: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    def text(self) -> str:
        """Return what was found, for people."""
        notes = [f"  not checked: {note}" for note in self.notes]
        if self.findings:
            return "\n".join([f"{self.path} does not fit, and has no score:", *(f"  {finding}" for finding in self.findings), *notes])
        head = f"{self.path} fits: its hash, its form, and all that follows from its samples"
        scored = [f"  score {self.score:.0f}"] if self.score is not None else [f"  no score: {reason}" for reason in self.why_not]
        return "\n".join([head, *scored, *notes])


def verify(path: str | Path, *, data: bool = False) -> Verification:
    """Verify the result in a file.

    Parameters
    ----------
    path : path
    data : bool
        Make the inputs of all workloads again for the seed of the result, and compare their digests. It takes as long as making them.

    Raises
    ------
    InputError
        The file is no result, is cut off, or has a newer version.
    """
    path = Path(path)
    found = read(path)
    findings, notes = verify_result(found, data=data)
    if findings:
        return Verification(path, tuple(findings), tuple(notes), None)
    return Verification(path, (), tuple(notes), found["score"]["total"], tuple(found["score"]["why_not"]))


def verify_result(result: Result, *, data: bool = False) -> tuple[list[str], list[str]]:
    """Return what does not fit in a result that was read, and what was not checked."""
    findings = []
    if result.get("hash") != (own := own_hash(result)):
        findings.append(
            f"hash: is {str(result.get('hash'))[:12]} …, the rest of the file gives {own[:12]} …: it was altered after it was written"
        )
    if wrong := problems(result):
        return [*findings, *wrong], ["all that follows from the samples, because the form of the file is wrong"]
    findings += [*_floors(result), *_workloads(result), *_score(result), *_division(result), *_passes(result), *_plausible(result)]
    code, notes = _code(result)
    findings += code
    if why := _loose(result):
        notes = [*notes, f"speeds against floors, because {why}"]
    if data:
        wrong, more = _data(result)
        return [*findings, *wrong], [*notes, *more]
    return findings, [*notes, "digests of the inputs (--data makes all inputs again)"]


# ---------------------------------------------------------------- what follows from the samples


def _floors(result: Result) -> Iterator[str]:
    for key, entry in result["attainable"].items():
        at = f"attainable.{key}"
        if "failed" in entry or "skipped" in entry:
            continue
        if missing := [name for name in ("value", "low", "high", "amount", "samples") if name not in entry]:
            yield f"{at}: {', '.join(missing)} missing"
            continue
        s = summarise(_all(entry["samples"]))
        yield from _differences(at, entry, {n: entry["amount"] / t for n, t in (("value", s.median), ("low", s.high), ("high", s.low))})


def _workloads(result: Result) -> Iterator[str]:
    tier, known = result["suite"]["tier"], workloads.all_workloads()
    reference = score.reference_of(tier)
    measured = {key: entry for key, entry in result["attainable"].items() if "value" in entry}
    wanted = set(result["suite"].get("only") or known)
    for key in [key for key in known if key in wanted and key not in result["workloads"]]:
        yield f"workloads.{key}: missing; tier {tier} has it"
    for key, entry in result["workloads"].items():
        at = f"workloads.{key}"
        if key not in known:
            yield f"{at}: the suite has no such workload"
        elif "samples" in entry:
            one = known[key]
            yield from _differences(at, entry, {"title": one.title, "part": one.part, "unit": one.unit, "size": dict(one.sizes[tier])})
            if (its := reference.get(key)) and entry["amount"] != its["amount"]:
                yield f"{at}.amount: is {entry['amount']}, this size has {its['amount']}"
            again = score.complete(entry, measured, its)
            yield from _differences(at, entry, {name: again[name] for name in FOLLOWS})


def _score(result: Result) -> Iterator[str]:
    try:
        expected = {key: one.part for key, one in workloads.all_workloads().items()}
        again = score.score(result, expected)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        yield f"score: cannot be computed again ({type(error).__name__}: {error})"
        return
    # Reasons are sentences, which may be put better in another version of the suite: only whether there are some is compared.
    yield from _differences("score", result["score"], {name: value for name, value in again.items() if name != "why_not"})
    if bool(again["why_not"]) != bool(given := result["score"]["why_not"]):
        yield f"score.why_not: is {_shown(given)}, computed again it is {_shown(again['why_not'])}"


def _differences(at: str, given: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Yield what in `again` is not the same in `given`."""
    for name, value in again.items():
        if not _same(given.get(name), value):
            yield f"{at}.{name}: is {_shown(given.get(name))}, computed again it is {_shown(value)}"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return isclose(a, b, rel_tol=SAME, abs_tol=0.0)
    return bool(a == b)


# ---------------------------------------------------------------- what must fit each other


def _division(result: Result) -> Iterator[str]:
    suite = result["suite"]
    if (suite["seed"] == inputs.SEED) != (suite["seed_is"] == "announced"):
        yield f"suite.seed_is: is {suite['seed_is']!r}, the seed is {suite['seed']}, announced is {inputs.SEED}"
    if (suite["division"] == "closed") != (not suite["why_open"]):
        yield f"suite.division: is {suite['division']!r} with {len(suite['why_open'])} reasons in why_open"
    # Twins that were replaced are known only to the process that ran. What the file itself says is looked at again.
    _, reasons = provenance.division(result["code"], suite["plugins"], "announced", operations=())
    if reasons and suite["division"] == "closed":
        yield f"suite.division: is 'closed', but {'; '.join(reasons)}"


def _passes(result: Result) -> Iterator[str]:
    suite, seen = result["suite"], len(result["conditions"]["passes"])
    if seen < suite["passes"]:
        yield f"conditions.passes: has {seen} passes, suite says {suite['passes']}"
    ran = Counter((str(key), number) for key, number in suite["order"])
    for at, entries, least in (
        ("attainable", result["attainable"], suite["floors"]),
        ("workloads", result["workloads"], suite["passes"]),
    ):
        for key, entry in entries.items():
            passes = [number for name, number in ran if name == key]
            if "samples" not in entry:
                continue
            if len(entry["samples"]) < least:
                yield f"{at}.{key}.samples: {len(entry['samples'])} passes, suite says {least}"
            if sorted(passes) != list(range(len(entry["samples"]))) or any(ran[key, number] != 1 for number in passes):
                yield f"suite.order: has the passes {sorted(passes)} of {key}, which has samples of {len(entry['samples'])}"


def _loose(result: Result) -> str:
    """Say why floors of this result are no limit: few samples, or others who took the processors meanwhile. Empty if they are one."""
    if result["suite"]["tier"] == QUICK:
        return "the tier quick measures floors twice"
    return "the machine was busy, so that floors are no limit" if score.busy(result["conditions"]["passes"]) else ""


def _plausible(result: Result) -> Iterator[str]:
    loose = _loose(result)
    # Rates of a busy machine vary: a workload may have met a quieter moment than the median of its floor did.
    measured = {key: one for key, one in result["attainable"].items() if "value" in one}
    fastest = {key: {**one, "value": one["amount"] / min(_all(one["samples"]))} for key, one in measured.items()}
    for key, entry in result["workloads"].items():
        if "samples" not in entry:
            continue
        check = entry["check"]
        if not check["error"] <= check["tolerance"]:
            yield f"workloads.{key}.check: error {check['error']:.1e} is larger than the tolerance {check['tolerance']:.1e}"
        bound_by, floor = score.floor_of(entry, fastest)
        if floor is not None and not loose and floor > FASTER * entry["median"]:
            speed = f"{floor / entry['median']:.2f} times as fast as the fastest sample of its floor permits, {floor:.3g} s ({bound_by})"
            yield f"workloads.{key}: takes {entry['median']:.3g} s, {speed}"
    entries = [*result["attainable"].values(), *result["workloads"].values()]
    spent = sum(sum(_all(entry["samples"])) for entry in entries if "samples" in entry)
    if result["suite"]["resumed"] == 0 and spent > result["seconds"]:
        yield f"seconds: is {result['seconds']:.3g}, the samples alone take {spent:.3g}"
    if (heat := result["sustained"]) is not None and not isclose(heat["ratio"], heat["burst"] / heat["sustained"], rel_tol=1e-6):
        yield f"sustained.ratio: is {heat['ratio']:.6g}, burst / sustained is {heat['burst'] / heat['sustained']:.6g}"


# ---------------------------------------------------------------- code and inputs


def _code(result: Result) -> tuple[list[str], list[str]]:
    """Compare the hash of the code with that of the same commit or of the same wheel, where it is here."""
    code = result["code"]
    if code["changed"]:
        return [], ["the hash of the code, because the code was changed (open division)"]
    if code["origin"] == "checkout":
        own = provenance.hash_of_commit(code["commit"] or "")
        where = f"commit {str(code['commit'])[:12]}"
    else:
        here = provenance.code() if code["gpu4d"] == gpu4d.__version__ else None
        own = here["sha256"] if here and here["origin"] == code["origin"] == "wheel" and not here["changed"] else None
        where = f"the wheel {code['gpu4d']}"
    if own is None:
        return [], [f"the hash of the code, because {where} is not here"]
    if own != code["sha256"]:
        return [f"code.sha256: is {code['sha256'][:12]} …, {where} has {own[:12]} …"], []
    return [], []


def _data(result: Result) -> tuple[list[str], list[str]]:
    """Make the inputs of each workload again, on the fastest device that is here, and compare their digests."""
    import tempfile

    from gpu4d.benchmarks.kernels import array_library
    from gpu4d.benchmarks.suite.workload import Place, Unavailable

    from gpu4d.device import choose

    device = choose("auto")
    xp, on_gpu = array_library(device)
    findings, notes = [], []
    known = workloads.all_workloads()
    with tempfile.TemporaryDirectory(prefix="gpu4d-bench-") as folder:
        place = Place(xp, on_gpu, str(device), Path(folder))
        for key, entry in result["workloads"].items():
            if "samples" not in entry or key not in known:
                continue
            try:
                prepared = known[key].make(place, entry["size"], result["suite"]["seed"])
            except (MemoryError, Unavailable) as lacking:
                notes.append(f"the inputs of {key}, which cannot be made here: {lacking}")
                continue
            if prepared.data != entry["data"]:
                findings.append(f"workloads.{key}.data: is {entry['data']}, made again from the seed it is {prepared.data}")
            if prepared.close is not None:
                prepared.close()
    return findings, notes


def _all(samples: list[list[float]]) -> list[float]:
    return [s for some in samples for s in some]


def _shown(value: Any) -> str:
    text = f"{value:.10g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]} …"
