"""Compute the score of a result from its raw samples, and the reasons why there is none.

Score = 1000 × geometric mean of the reference's seconds over the seconds measured. The reference is frozen and comes with the suite
(`reference.json`). Twice the score is twice as fast. Seconds are medians.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import conditions
from gpu4d.benchmarks.suite.statistics import CONFIDENCE, WIDEST, bootstrap, summarise
from gpu4d.benchmarks.suite.workload import PARTS, WRONG

SCALE = 1000.0  # score of the reference
BUSY = 0.1  # of the processors, or of the time: what others may take in the median pass
TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))  # percentiles of medians drawn again
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
        `total`, `low`, `high` (None where `why_not` holds a reason), `parts` by name, `why_not`. A part whose workloads are all there, and
        whose interval is narrow, has its figures also where the total has none. There are no figures at all if an answer was wrong, the
        seed is not the announced one, or the machine was busy.
    """
    workloads = result["workloads"]
    nothing: dict[str, Any] = {"total": None, "low": None, "high": None, "parts": {}}
    why_not, missing = _void(result), _missing(result, expected)
    if why_not or not reference_of(result["suite"]["tier"]):
        return {**nothing, "why_not": why_not + missing}
    parts = {}
    for part in PARTS:
        found = _of_part(workloads, expected, part)
        if found is not None and _width(found) <= WIDEST:
            parts[part] = found
    if precise := _precision(workloads, result["suite"]["tier"]):
        parts[PRECISION] = precise
    if missing:
        return {**nothing, "parts": parts, "why_not": missing}
    total = _mean_score([workloads[key] for key in expected])
    if (width := _width(total)) > WIDEST:
        why = "; ".join(conditions.reasons(result["conditions"]["passes"], width))
        wide = f"the interval of the score is {100 * width:.1f} % wide, allowed are {100 * WIDEST:.0f} %: {why}"
        return {**nothing, "parts": parts, "why_not": [wide]}
    return {"total": total["score"], "low": total["low"], "high": total["high"], "parts": parts, "why_not": []}


def why_no_part(result: Mapping[str, Any], expected: Mapping[str, str], part: str) -> str:
    """Say in a few words why a part has no figure.

    Parameters
    ----------
    result : mapping
    expected : mapping
        Keys of the workloads of a score, and the part of each.
    part : str
    """
    if _void(result):
        return "none: the run has no score"
    found = _of_part(result["workloads"], expected, part)
    return "none: incomplete" if found is None else f"none: interval {100 * _width(found):.1f} %"


def _of_part(workloads: Mapping[str, Any], expected: Mapping[str, str], part: str) -> dict[str, float] | None:
    """Return the score of the workloads of a part, or None if one is missing."""
    entries = [workloads.get(key, {}) for key, its_part in expected.items() if its_part == part]
    return _mean_score(entries) if entries and all(entry.get("ratio") for entry in entries) else None


def spread(workloads: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the width of the interval of a score over it, from samples alone: no reference is needed. 0 without samples."""
    samples = [entry["samples"] for entry in workloads.values() if "samples" in entry]
    if not samples:
        return 0.0
    low, high = np.percentile(np.exp(np.log(bootstrap(samples)).mean(1)), TAILS)
    middle = np.exp(np.mean([np.log(summarise([s for some in one for s in some]).median) for one in samples]))
    return float((high - low) / middle)


def _void(result: Mapping[str, Any]) -> list[str]:
    """Say why not even a part may have a score; an empty list if one may."""
    suite, why = result["suite"], []
    if suite["seed_is"] == "drawn":
        why.append("the seed was drawn: such a run shows that answers and times do not depend on the announced seed")
    elif suite["seed_is"] != "announced":
        why.append(f"the seed {suite['seed']} is not the announced one")
    why += [f"{key}: {entry['failed']}" for key, entry in result["workloads"].items() if "failed" in entry]
    floors = [(key, entry.get("failed", "")) for key, entry in result.get("attainable", {}).items()]
    why += [f"{key}: {failed}" for key, failed in floors if failed.startswith(WRONG)]  # copies that differ: the machine is not sound
    return why + busy(result["conditions"]["passes"])


def busy(passes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what took the processors away in most passes. Times that are slow in all passes have narrow intervals, and are wrong."""
    why = []
    shares = [one["others_cores"] / one["processors"] for one in passes if one.get("others_cores") is not None and one.get("processors")]
    if shares and (share := float(np.median(shares))) > BUSY:
        why.append(f"other processes used {100 * share:.0f} % of the processors during the run: end them, or wait until they have ended")
    stolen = [one["steal"] for one in passes if one.get("steal") is not None]
    if stolen and (share := float(np.median(stolen))) > BUSY:
        why.append(f"the host took {100 * share:.0f} % of the time during the run: its other guests are busy; measure at another time")
    return why


def _missing(result: Mapping[str, Any], expected: Iterable[str]) -> list[str]:
    """Say what a total lacks; an empty list if it lacks nothing."""
    why = [] if reference_of(result["suite"]["tier"]) else [f"tier {result['suite']['tier']} has no reference"]
    entries = {key: result["workloads"].get(key) for key in expected}
    if absent := [key for key, entry in entries.items() if entry is None]:
        why.append(f"{', '.join(absent)} {'was' if len(absent) == 1 else 'were'} not run")
    return why + [f"{key} was skipped: {entry['skipped']}" for key, entry in entries.items() if entry and "skipped" in entry]


def _width(found: Mapping[str, float]) -> float:
    return (found["high"] - found["low"]) / found["score"]


def _mean_score(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the score of some workloads, and its interval of 95 % from passes drawn again."""
    drawn = bootstrap([entry["samples"] for entry in entries])
    wanted = np.array([entry["reference"] for entry in entries])
    low, high = np.percentile(SCALE * np.exp(np.log(wanted / drawn).mean(1)), TAILS)
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
