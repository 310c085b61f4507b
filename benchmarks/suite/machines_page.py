"""Show the machines that were measured as a page in HTML: scores, what binds each workload, usual scans, detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from gpu4d.benchmarks.suite.compare import percent, rate_text, seconds_text
from gpu4d.benchmarks.suite.score import why_no_part
from gpu4d.benchmarks.suite.workload import PARTS, TIERS

from gpu4d.errors import InputError
from gpu4d.sizes import format_bytes

if TYPE_CHECKING:
    from gpu4d.benchmarks.suite.results_page import Entry

SCANS = ("256x256x128x128:uint16", "512x512x256x256:uint16", "1024x1024x192x192:uint16", "1024x1024x576x576:uint8")
PLACES = {"card": "on the card", "page cache": "in memory", "disk": "streamed each time"}


def html(found: Sequence[Entry]) -> str:
    """Return the page. It is one file, which refers to no other but the results."""
    try:
        import jinja2
    except ImportError:
        raise InputError("the page needs jinja2: pip install 'gpu4d[app]'") from None
    source = files("gpu4d.benchmarks.suite").joinpath("machines.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    tiers = [(tier, [entry for entry in found if entry.result["suite"]["tier"] == tier]) for tier in TIERS]
    return environment.from_string(source).render(
        tiers=[{"name": tier, "bars": _bars(some), "machines": [_machine(entry) for entry in some]} for tier, some in tiers if some]
    )


def _bars(found: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return a group of bars for the score and for each part: a bar for each machine, as long as its share of the largest."""
    groups = []
    for part in ("Score", *PARTS):
        scores = [_score(entry.result, part) for entry in found]
        largest = max((score["score"] for score in scores if score), default=1.0)
        bars = [_bar(entry, part, score, largest) for entry, score in zip(found, scores, strict=True)]
        groups.append({"title": part, "bars": bars})
    return groups


def _bar(entry: Entry, part: str, score: Mapping[str, float] | None, largest: float) -> dict[str, Any]:
    about = {"label": entry.label, "division": entry.result["suite"]["division"]}
    if score is None:
        parts = {key: one["part"] for key, one in entry.result["workloads"].items() if "part" in one}
        return {**about, "width": 0.0, "text": "no score" if part == "Score" else why_no_part(entry.result, parts, part)}
    return {
        **about,
        "width": round(100 * score["score"] / largest, 1),
        "text": f"{score['score']:.0f} ({score['low']:.0f}–{score['high']:.0f})",
    }


def _score(result: Mapping[str, Any], part: str) -> dict[str, float] | None:
    score = result["score"]
    if part != "Score":
        return score["parts"].get(part)
    return None if score["total"] is None else {"score": score["total"], "low": score["low"], "high": score["high"]}


def _machine(entry: Entry) -> dict[str, Any]:
    result, machine, heat = entry.result, entry.result["machine"], entry.result["sustained"]
    cards = [
        f"{card['model']} with {format_bytes(card['memory'])}"
        for card in machine.get("gpus", ())
        if card.get("model") and card.get("memory")
    ]
    facts = [
        ("score", "none" if entry.total is None else f"{entry.total:.0f}"),
        ("division", result["suite"]["division"]),
        ("main memory", format_bytes(machine["memory"]) if machine.get("memory") else "not known"),
        *(("card", card) for card in cards),
        ("gpu4d", result["code"]["gpu4d"]),
        ("measured", result["made"][:10]),
    ]
    if heat is not None:
        facts.append(("under heat", f"{100 * heat['ratio']:.0f} % of its first speed after {heat['seconds']:.0f} s"))
    return {
        "label": entry.label,
        "file": entry.name,
        "facts": facts,
        "remarks": [*result["score"]["why_not"], *result["suite"]["why_open"]],
        "workloads": [_workload(key, one, result["attainable"]) for key, one in result["workloads"].items()],
        "floors": [(one["title"], rate_text(one["value"], one["unit"])) for one in result["attainable"].values() if "value" in one],
        **_predicted(result),
    }


def _workload(key: str, one: Mapping[str, Any], attainable: Mapping[str, Any]) -> dict[str, Any]:
    about = {
        "title": one["title"],
        "key": key,
        "missing": one.get("failed") or one.get("skipped") or "",
        "width": 0.0,
        "text": "",
        "more": "",
    }
    if "samples" not in one:
        return about
    about["text"] = f"{seconds_text(one['median'])} for {one['amount']} {one['unit']}"
    if one["fraction"] is not None:
        about["width"] = round(min(100 * one["fraction"], 100.0), 1)
        bound_by = attainable[one["bound_by"]]["title"]
        about["more"] = f"{percent(one['fraction'])} of its floor ({bound_by})"
    if one.get("energy_j"):
        about["more"] += f" · {one['energy_j']:.3g} J"
    return about


def _predicted(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return how long usual scans take, and what keeps up with which detector, as far as the result holds measurements of scaling."""
    if not result["scaling"]:
        return {"scans": [], "paces": []}
    from gpu4d.benchmarks.suite.predict import predict
    from gpu4d.benchmarks.suite.scan import Scan

    try:
        predictions = [predict(result, Scan.parse(scan)) for scan in SCANS]
    except InputError:  # the result does not say how much memory the machine has
        return {"scans": [], "paces": []}
    return {"scans": [_scan(one) for one in predictions], "paces": [_pace(pace) for pace in predictions[0].paces]}


def _scan(found: Any) -> dict[str, Any]:
    from gpu4d.planning.volume import duration

    rows = []
    for one in found.times:
        again = f"{duration(one.again.value)} {PLACES[one.place]}" if one.again else PLACES["disk"]
        energy = f" · {one.scans_per_kwh:.0f} scans per kWh" if one.scans_per_kwh else ""
        rows.append((one.title, duration(one.first.value), again, f"bound by {one.binds}{energy}"))
    return {"title": found.scan, "bytes": format_bytes(found.nbytes), "rows": rows}


def _pace(pace: Any) -> tuple[str, str, str]:
    from gpu4d.benchmarks.suite.predict import TITLES

    reached = max(pace.factors.values(), default=0.0)
    falls = f"falls behind: the fastest reaches {100 * reached:.0f} % of its rate" if pace.factors else "not measured"
    keeps = f"keeps up with: {TITLES[pace.largest]}" if pace.largest else falls
    return pace.detector, f"{pace.rate:,.0f} /s{'' if pace.confirmed else ', not confirmed'}", keeps
