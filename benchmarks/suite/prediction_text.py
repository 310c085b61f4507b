"""Write a prediction for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpu4d.benchmarks.suite.techniques import TITLES

from gpu4d.planning.volume import duration
from gpu4d.sizes import format_bytes

if TYPE_CHECKING:
    from gpu4d.benchmarks.suite.detectors import Pace
    from gpu4d.benchmarks.suite.predict import Prediction, Range, Time

FASTEST_FRAMES = 1e6  # frames a second: what comes faster are events


def text(found: Prediction) -> str:
    """Return the tables of a prediction: times, what binds them, detectors, and what they rest on."""
    lines = [f"{found.scan}: {format_bytes(found.nbytes)} of patterns, {format_bytes(found.stored)} in the file", f"on {found.machine}", ""]
    lines += _table(
        ["technique", "from disk", "expected in", "in memory", "patterns/s", "bound by", "holds"], [_row(one) for one in found.times]
    )
    lines += [f"{name}: not predicted, {why}" for name, why in found.missing.items()]
    lines += ["", "seconds that each part would take alone:"]
    names = list(dict.fromkeys(name for one in found.times for name in one.candidates))
    lines += _table(["technique", *names], [[one.title, *(_short(one.candidates.get(name)) for name in names)] for one in found.times])
    if found.power or found.price:
        lines += ["", *_economy(found)]
    lines += ["", "detectors, with patterns that come into memory:"]
    lines += _table(
        ["detector", "delivers", "longest work that keeps up", "one pass (raw: counting) reaches", "figure"],
        [_pace(one) for one in found.paces],
    )
    return "\n".join([*lines, "", "This rests on:", *(f"  {one}" for one in found.assumed)])


def _row(one: Time) -> list[str]:
    again = f"{duration(one.again.value)} ({one.place})" if one.again else "streamed"
    return [one.title, duration(one.first.value), _interval(one.first), again, _short(one.rate), one.binds, format_bytes(one.peak_memory)]


def _interval(found: Range) -> str:
    return f"{duration(found.low)} – {duration(found.high)}"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _economy(found: Prediction) -> list[str]:
    header, lines = ["technique"], []
    if found.power:
        header.append(f"scans per kWh at {found.power:.0f} W")
        lines.append("scans per kWh = 3.6 MJ / (power × time from disk)")
    if found.price:
        header.append("scans an hour per 1 000 €")
        lines.append(f"scans an hour per 1 000 € = 3600 s / time from disk / ({found.price:g} € / 1 000 €)")
    rows = [[one.title, *(_short(v) for v in (one.scans_per_kwh, one.scans_per_hour_per_1000) if v is not None)] for one in found.times]
    return _table(header, rows) + lines


def _pace(one: Pace) -> list[str]:
    factor = one.factors.get("one-pass", one.factors.get("counting"))
    reached = "not measured" if factor is None else f"{factor:.2g} × its rate"
    delivers = f"{one.rate / 1e6:g} million events/s" if one.rate >= FASTEST_FRAMES else f"{one.rate:g} /s"
    longest = "nothing" if one.largest is None else TITLES[one.largest]
    return [one.detector, delivers, longest, reached, "" if one.confirmed else "unconfirmed"]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (header, *rows)]
