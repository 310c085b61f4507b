"""Show a comparison of results as a page in HTML, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from math import ceil, exp, floor, log, log10
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite.compare import NEITHER, SLOWER, Cell, Comparison, Row, percent, rate_text

from gpu4d.errors import InputError
from gpu4d.sizes import format_bytes

# Okabe and Ito's colours, which people who do not tell red from green can tell apart. Marks differ too.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
MARKS = "osD^vP*X"
NEAR = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0)  # ticks where all ratios are near 1
SIGNS = {NEITHER: "≈", SLOWER: "▼"}  # and ▲ for faster: not by colour alone


class Axis:
    """An axis of ratios with equal steps for equal factors, which holds all intervals and 1.

    Examples
    --------
    >>> axis = Axis([0.5, 8.0])
    >>> axis.ticks, axis.at(1.0), axis.at(0.25)
    ([0.5, 1.0, 2.0, 4.0, 8.0], 25.0, 0.0)
    """

    def __init__(self, values: Sequence[float]):
        low, high = min([*values, 1.0]), max([*values, 1.0])
        near = [t for t in NEAR if t <= min(low, 0.95)][-1:] + [t for t in NEAR if t >= max(high, 1.05)][:1]
        if high / low < 2 and len(near) == 2:
            self.ticks = [t for t in NEAR if near[0] <= t <= near[1]]
        else:
            base = 2.0 if high / low <= 64 else 10.0
            first, last = floor(log(low * (1 + 1e-9)) / log(base)), ceil(log(high * (1 - 1e-9)) / log(base))
            self.ticks = [base**power for power in range(first, max(last, first + 1) + 1)]

    def at(self, value: float) -> float:
        """Return where a ratio lies, in percent of the width."""
        low, high = log10(self.ticks[0]), log10(self.ticks[-1])
        return round(min(max(100 * (log10(value) - low) / (high - low), 0.0), 100.0), 2)


def axis_of(rows: Sequence[Row]) -> Axis:
    """Return the axis that holds the intervals of these rows."""
    ratios = [cell.ratio for row in rows for cell in row.cells if cell.ratio is not None]
    return Axis([end for ratio in ratios for end in (ratio.low, ratio.high)])


def page(found: Comparison) -> str:
    """Return the page. It is one file, which refers to no other."""
    try:
        import jinja2
    except ImportError:
        raise InputError("--html needs jinja2: pip install 'gpu4d[app]'") from None
    source = files("gpu4d.benchmarks.suite").joinpath("comparison.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        names=found.names,
        tier=found.results[0]["suite"]["tier"],
        seed=found.results[0]["suite"]["seed"],
        cards=[_card(*given) for given in zip(found.names, found.paths, found.results, strict=True)],
        sections=_sections(found),
        interval=interval_style,
        percent=percent,
        sign=lambda ratio: SIGNS.get(ratio.verdict, "▲"),
        rate=lambda row, cell: "–" if cell.median is None else rate_text(cell.median, row.part),
    )


def _sections(found: Comparison) -> list[dict[str, Any]]:
    """Return the three lists of ratios, each with its axis. Workloads are sorted by part."""
    together = axis_of([*found.groups, *found.workloads])
    return [
        {"key": "groups", "title": "Score and its parts", "rows": found.groups, "axis": together},
        {"key": "workloads", "title": "Workloads", "rows": sorted(found.workloads, key=_part_order(found)), "axis": together},
        {"key": "floors", "title": "What each machine can do at best", "rows": found.floors, "axis": axis_of(found.floors)},
    ]


def _part_order(found: Comparison) -> Any:
    order = [row.part for row in found.groups]
    return lambda row: order.index(row.part) if row.part in order else len(order)


def _card(name: str, path: str, one: dict[str, Any]) -> dict[str, Any]:
    suite, machine, score, code, heat = one["suite"], one["machine"], one["score"], one["code"], one["sustained"]
    commit = f", commit {code['commit'][:10]}" if code["commit"] else ""
    facts = [
        (
            "device",
            machine["device"] + (f", {machine['threads']} threads" if machine.get("threads") and machine["device"] == "cpu" else ""),
        ),
        ("gpu4d", f"{code['gpu4d']} ({code['origin']}{commit})"),
        ("measured", f"{one['made'][:10]}, {one['seconds']:.0f} s"),
        ("file", path),
    ]
    if machine.get("memory"):
        facts.insert(1, ("main memory", format_bytes(machine["memory"])))
    if heat is not None:
        facts.append(("under heat", f"{100 * heat['ratio']:.0f} % of its first speed after {heat['seconds']:.0f} s of {heat['workload']}"))
    return {
        "name": name,
        "label": machine["label"],
        "division": suite["division"],
        "score": None if score["total"] is None else f"{score['total']:.0f}",
        "interval": None if score["total"] is None else f"{score['low']:.0f}–{score['high']:.0f}",
        "precision": f"{score['parts']['Precision']['score']:.0f}" if "Precision" in score["parts"] else None,
        "remarks": [f"no score: {reason}" for reason in score["why_not"]] + [f"open division: {reason}" for reason in suite["why_open"]],
        "facts": facts,
    }


def picture(found: Comparison, path: str | Path) -> None:
    """Write a picture of all ratios with their intervals."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("--png needs matplotlib: pip install 'gpu4d[app]'") from None
    rows = [*found.groups, *sorted(found.workloads, key=_part_order(found))]
    axis = axis_of(rows)
    figure = Figure(figsize=(9.0, 1.9 + 0.36 * len(rows) + 0.28 * len(found.names)), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    width = 0.6 / max(len(found.names) - 1, 1)
    for number in range(1, len(found.names)):
        one = found.results[number]
        label = f"{found.names[number]}  {_short(one['machine']['label'])}" + _score_of(one)
        shift = (number - (len(found.names) - 1) / 2 - 0.5) * width
        drawn = [(i + shift, row.cells[number].ratio) for i, row in enumerate(rows) if row.cells[number].ratio is not None]
        axes.errorbar(
            [ratio.value for _, ratio in drawn if ratio],
            [y for y, _ in drawn],
            xerr=[[r.value - r.low for _, r in drawn if r], [r.high - r.value for _, r in drawn if r]],
            fmt=MARKS[number], color=COLOURS[number], markersize=6, capsize=3, linewidth=1.3, label=label,
        )  # fmt: skip
        for i, row in enumerate(rows):
            if row.cells[number].missing:
                axes.annotate(
                    f"{found.names[number]}: no figure", (1.0, i + shift), (6, -3), textcoords="offset points", fontsize=8, color="0.4"
                )
    axes.axvline(1.0, color="black", linewidth=1.2, zorder=0)
    axes.axhline(len(found.groups) - 0.5, color="0.75", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlim(axis.ticks[0] * exp(-0.03), axis.ticks[-1] * exp(0.03))
    axes.set_xticks(axis.ticks, [f"{tick:g} ×" for tick in axis.ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("times as fast as A, with intervals of 95 %")
    base = found.results[0]
    axes.set_title(f"A  {_short(base['machine']['label'])}{_score_of(base)}, tier {base['suite']['tier']}", loc="left", fontsize=11)
    figure.legend(loc="outside lower left", frameon=False, fontsize=10)
    figure.savefig(path)


def _score_of(one: dict[str, Any]) -> str:
    total = one["score"]["total"]
    division = "" if one["suite"]["division"] == "closed" else ", open division"
    return (", no score" if total is None else f", score {total:.0f}") + division


def _short(label: str, most: int = 60) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def interval_style(axis: Axis, cell: Cell) -> str:
    """Return where the bar of an interval lies, for CSS."""
    assert cell.ratio is not None, "it has an interval"
    left, right = axis.at(cell.ratio.low), axis.at(cell.ratio.high)
    return f"left:{left}%;width:{max(right - left, 0.0):.2f}%"
