"""Compute the score of a result from its raw samples, and the reasons why there is none.

Score = 1000 × geometric mean of the reference's seconds over the seconds measured. The reference is frozen and comes with the suite
(`reference.json`). Twice the score is twice as fast. Seconds are medians.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.statistics import WIDEST, bootstrap, summarise
from gpu4d.benchmarks.suite.workload import PARTS

SCALE = 1000.0  # score of the reference
PRECISION = "Precision"
REFERENCE = Path(__file__).with_name("reference.json")


@cache
def reference() -> dict[str, Any]:
    """Return the frozen reference: its machine, and for each tier seconds, amounts and scatter of every workload."""
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


def reference_of(tier: str) -> dict[str, dict[str, Any]]:
    """Return the reference of a tier by workload; empty if there is none."""
    return reference()["tiers"].get(tier, {})


def complete(entry: Mapping[str, Any], attainable: Mapping[str, Mapping[str, Any]], known: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an entry of a workload with what follows from its samples: median, interval, outliers, floor, fraction, ratio.

    Parameters
    ----------
    entry : mapping
        Of `workloads` in the result file, with `samples`, `bytes`, `flops`, `moved`, `rate`, `more`, `amount`.
    attainable : mapping
        Floors of the same run.
    known : mapping or None
        The reference of this workload and tier: `seconds` and `amount`.
    """
    summary = summarise([s for some in entry["samples"] for s in some])
    bound_by, floor = floor_of(entry, attainable)
    expected = None if known is None else known["seconds"] * entry["amount"] / known["amount"]
    return {
        **entry,
        "median": summary.median,
        "minimum": summary.minimum,
        "low": summary.low,
        "high": summary.high,
        "outliers": list(summary.outliers),
        "floor": floor,
        "bound_by": bound_by,
        "fraction": None if floor is None else floor / summary.median,
        "reference": expected,
        "ratio": None if expected is None else expected / summary.median,
    }


def floor_of(entry: Mapping[str, Any], attainable: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, float | None]:
    """Return the name of the floor that binds a workload, and its seconds. None if no floor of it was measured."""
    wanted = {entry["moved"]: entry["bytes"], **entry["more"]}
    if entry["flops"]:
        wanted[entry["rate"]] = entry["flops"]
    seconds = {name: amount / attainable[name]["value"] for name, amount in wanted.items() if name in attainable}
    return max(seconds.items(), key=lambda one: one[1]) if seconds else (None, None)


def score(result: Mapping[str, Any], expected: Mapping[str, str]) -> dict[str, Any]:
    """Return the part `score` of a result.

    Parameters
    ----------
    result : mapping
        Whose workloads are complete.
    expected : mapping of str to str
        Keys of all workloads of the suite, and the part that each counts for.

    Returns
    -------
    dict
        `total`, `low`, `high` (None where `why_not` holds a reason), `parts` by name, `why_not`. A part with all its workloads has its
        figures also where the total has none, unless an answer was wrong, or the seed is not the announced one.
    """
    workloads = result["workloads"]
    why_not = reasons_against(result, expected)
    if not any(entry.get("ratio") for entry in workloads.values()) or _void(result):
        return {"total": None, "low": None, "high": None, "parts": {}, "why_not": why_not}
    parts = {}
    for part in PARTS:
        entries = [workloads.get(key, {}) for key, its_part in expected.items() if its_part == part]
        if entries and all(_good(entry) for entry in entries):
            parts[part] = _mean_score(entries)
    if precise := _precision(workloads, result["suite"]["tier"]):
        parts[PRECISION] = precise
    good = [entry for entry in workloads.values() if entry.get("ratio")]
    total = {"score": None, "low": None, "high": None} if why_not else _mean_score(good)
    return {"total": total["score"], "low": total["low"], "high": total["high"], "parts": parts, "why_not": why_not}


def reasons_against(result: Mapping[str, Any], expected: Iterable[str]) -> list[str]:
    """Say why a result has no total; an empty list if it has one."""
    suite, workloads, why = result["suite"], result["workloads"], []
    if suite["seed_is"] == "drawn":
        why.append("the seed was drawn: such a run shows that answers and times do not depend on the announced seed")
    elif suite["seed_is"] != "announced":
        why.append(f"the seed {suite['seed']} is not the announced one")
    if not reference_of(suite["tier"]):
        why.append(f"tier {suite['tier']} has no reference")
    for key in expected:
        entry = workloads.get(key)
        if entry is None:
            why.append(f"{key} was not run")
        elif "failed" in entry:
            why.append(f"{key}: {entry['failed']}")
        elif "skipped" in entry:
            why.append(f"{key} was skipped: {entry['skipped']}")
    return why + _unsteady(workloads)


def _unsteady(workloads: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the workloads whose intervals are too wide, and why, in one sentence. Reasons that differ in their numbers are said once."""
    wide = {key: entry for key, entry in workloads.items() if "median" in entry and _width(entry) > WIDEST}
    if not wide:
        return []
    names = ", ".join(f"{key} ({100 * _width(entry):.1f} %)" for key, entry in wide.items())
    reasons = {re.sub("[0-9.]+", "", said): said for entry in wide.values() for said in entry.get("unsteady", [])}
    why = "; ".join(reasons.values()) or "the reason is not known: close other programs, and run again"
    return [f"the interval of the median is wider than {100 * WIDEST:.0f} % of it for {names}: {why}"]


def _void(result: Mapping[str, Any]) -> bool:
    """Return True if not even a part may have a score."""
    return result["suite"]["seed_is"] != "announced" or any("failed" in entry for entry in result["workloads"].values())


def _good(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("ratio")) and _width(entry) <= WIDEST


def _width(entry: Mapping[str, Any]) -> float:
    return (entry["high"] - entry["low"]) / entry["median"]


def _mean_score(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the score of some workloads, and its interval of 95 % from samples drawn again."""
    drawn = bootstrap([[s for some in entry["samples"] for s in some] for entry in entries])
    wanted = np.array([entry["reference"] for entry in entries])
    scores = SCALE * np.exp(np.log(wanted / drawn).mean(1))
    low, high = np.percentile(scores, [2.5, 97.5])
    return {"score": float(SCALE * np.exp(np.mean([np.log(entry["ratio"]) for entry in entries]))), "low": float(low), "high": float(high)}


def _precision(workloads: Mapping[str, Mapping[str, Any]], tier: str) -> dict[str, float] | None:
    """Return 1000 × geometric mean of the reference's distance from the truth over that of this run. It has no interval: it repeats."""
    known = reference_of(tier)
    ratios = [
        known[key]["scatter"] / entry["check"]["scatter"]
        for key, entry in workloads.items()
        if entry.get("check", {}).get("scatter") and known.get(key, {}).get("scatter")
    ]
    if not ratios:
        return None
    found = float(SCALE * np.exp(np.mean(np.log(ratios))))
    return {"score": found, "low": found, "high": found}
