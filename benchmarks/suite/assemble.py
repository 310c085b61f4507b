"""Put the parts of a run together: the result file's content, with its score."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpu4d.benchmarks.suite import conditions, provenance, score
from gpu4d.benchmarks.suite.parts import Parts, merged
from gpu4d.benchmarks.suite.statistics import summarise
from gpu4d.benchmarks.suite.workload import Place
from gpu4d.benchmarks.suite.workloads import all_workloads

FORMAT, VERSION = "gpu4d-bench", 1
OF_A_FLOOR = ("title", "unit", "amount", "samples", "skipped", "failed", "cache", "implementation")


def entries(parts: Parts, kind: str) -> dict[str, dict[str, Any]]:
    """Return the entries of a kind by key, from the parts of all passes."""
    order = {key: number for number, key in enumerate(all_workloads())}
    keys = sorted({part["key"] for part in parts.of(kind)}, key=lambda key: (order.get(key, -1), key))
    return {key: merged([part for part in parts.of(kind) if part["key"] == key]) for key in keys}


def result(parts: Parts, about: dict[str, Any], code: dict[str, Any], place: Place, seconds: float, preparing: float) -> dict[str, Any]:
    """Return the whole result but its hash.

    Parameters
    ----------
    parts : Parts
    about : dict
        The machine.
    code : dict
        The origin and the hash of the code.
    place : Place
    seconds, preparing : float
        Of this run, and of making ready in it. Those of earlier runs that it went on with are not in them.
    """
    header = parts.header
    attainable = {key: _floor(entry) for key, entry in entries(parts, "floor").items()}
    measured = {key: one for key, one in attainable.items() if one.get("value")}
    known = score.reference_of(header["tier"])
    workloads = {key: _workload(entry, measured, known.get(key)) for key, entry in entries(parts, "workload").items()}
    division, why_open = provenance.division(code, header["plugins"], header["seed_is"])
    whole: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "suite": {
            **{name: header[name] for name in ("tier", "seed", "seed_is", "passes", "floors", "plugins", "only")},
            "division": division,
            "why_open": why_open,
            "pause_s": header["pause_s"],
            "order": [[part["key"], part["pass"]] for part in parts.found if part["kind"] in ("floor", "workload")],
            "resumed": parts.resumed,
        },
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": seconds,
        "preparing_s": preparing,
        "code": code,
        "machine": about,
        "conditions": {
            "before": header["before"],
            "after": conditions.state(place),
            "passes": [part["between"] for part in parts.of("pass")],
        },
        "attainable": attainable,
        "workloads": workloads,
        "scaling": {part["key"]: part["found"] for part in parts.of("scaling")},
        "sustained": next((part["found"] for part in parts.of("sustained")), None),
        "peers": {part["key"]: part["found"] for part in parts.of("peer")},
    }
    whole["score"] = score.score(whole, {key: one.part for key, one in all_workloads().items()})
    return whole


def _floor(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a floor with its value, the amount over the median of the seconds, in amounts per second."""
    kept = {name: entry[name] for name in OF_A_FLOOR if name in entry}
    if "samples" not in entry:
        return kept
    summary = summarise([s for some in entry["samples"] for s in some])
    rates = {"value": summary.median, "low": summary.high, "high": summary.low}
    return {**kept, "unit": entry["unit"], **{name: entry["amount"] / seconds for name, seconds in rates.items()}}


def _workload(entry: dict[str, Any], attainable: dict[str, Any], known: dict[str, Any] | None) -> dict[str, Any]:
    if "samples" not in entry:
        return entry
    return score.complete(entry, attainable, known)
