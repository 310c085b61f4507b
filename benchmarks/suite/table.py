"""Show a result as text for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEAD = ("workload", "part", "time", "± %", "floor %", "bound by", "memory", "reference / time")


def text(result: Mapping[str, Any]) -> str:
    """Return the score, its parts, and a line for every workload and floor."""
    parts = [_about(result), _score(result), _workloads(result), _floors(result)]
    if result["peers"]:
        from gpu4d.benchmarks.suite import peers

        parts.append(peers.table(result["peers"]))
    return "\n\n".join(parts)


def _about(result: Mapping[str, Any]) -> str:
    suite = result["suite"]
    division = f"{suite['division']} division" + (f" ({'; '.join(suite['why_open'])})" if suite["why_open"] else "")
    return f"{result['machine']['label']}, tier {suite['tier']}, {division}, {result['seconds']:.0f} s"


def _score(result: Mapping[str, Any]) -> str:
    score = result["score"]
    lines = [f"no score: {reason}" for reason in score["why_not"]]
    if score["total"] is not None:
        lines.append(f"score {score['total']:.0f} ({score['low']:.0f}–{score['high']:.0f}), 1000 is the reference, twice is twice as fast")
    if score["parts"]:
        lines.append(", ".join(f"{name} {part['score']:.0f}" for name, part in score["parts"].items()))
    if (heat := result["sustained"]) is not None:
        lines.append(f"after {heat['seconds']:.0f} s of {heat['workload']} it runs at {100 * heat['ratio']:.0f} % of its first speed")
    return "\n".join(lines)


def _workloads(result: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [HEAD]
    for key, entry in result["workloads"].items():
        if "median" not in entry:
            rows.append((key, entry.get("part", ""), entry.get("failed") or f"skipped: {entry['skipped']}"))
            continue
        rows.append(
            (
                key,
                entry["part"],
                _seconds(entry["median"]),
                f"{50 * (entry['high'] - entry['low']) / entry['median']:.1f}",
                "–" if entry["fraction"] is None else f"{100 * entry['fraction']:.0f}",
                entry["bound_by"] or "–",
                "–" if entry["peak_memory"] is None else f"{entry['peak_memory'] / 1e6:.0f} MB",
                "–" if entry["ratio"] is None else f"{entry['ratio']:.3f}",
            )
        )
    return _lined_up(rows)


def _floors(result: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("measured at best", "", "± %")]
    for entry in result["attainable"].values():
        if "value" in entry:
            wide = 50 * (entry["high"] - entry["low"]) / entry["value"]
            rows.append((entry["title"], f"{entry['value'] / 1e9:.3g} G{entry['unit']}", f"{wide:.1f}"))
        else:
            rows.append((entry["title"], entry.get("failed") or f"skipped: {entry['skipped']}"))
    return _lined_up(rows)


def _lined_up(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns. The last cell of a shorter row is a sentence, and may be longer than its column."""
    whole = len(rows[0])
    widths = [max(len(row[i]) for row in rows if i + 1 < len(row) or len(row) == whole) for i in range(whole)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.2f} ms"
