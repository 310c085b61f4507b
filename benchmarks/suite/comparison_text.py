"""Show a comparison of results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from gpu4d.benchmarks.suite.compare import Cell, Comparison, Row, rate_text


def text(found: Comparison) -> str:
    """Return the results, and for each but the first what is faster and what is slower."""
    blocks = [_about(found)]
    for number in range(1, len(found.names)):
        blocks += [_groups(found, number), _workloads(found, number), _floors(found, number)]
    blocks.append(
        "× is how many times as fast as A, with an interval of 95 % from samples drawn again. It holds what varied within each run; what\n"
        "differs from one run to the next is not in it. Answers of all results were right within the tolerance of their oracles."
    )
    return "\n\n".join(blocks)


def _about(found: Comparison) -> str:
    rows = [("", "machine", "division", "score", "file")]
    remarks = []
    for name, path, one in zip(found.names, found.paths, found.results, strict=True):
        score = one["score"]
        shown = "none" if score["total"] is None else f"{score['total']:.0f} ({score['low']:.0f}–{score['high']:.0f})"
        rows.append((name, one["machine"]["label"], one["suite"]["division"], shown, path))
        remarks += [f"{name} has no score: {reason}" for reason in score["why_not"][:3]]
        if len(score["why_not"]) > 3:
            remarks.append(f"{name} has no score: {len(score['why_not']) - 3} more reasons")
        remarks += [f"{name} is of the open division: {reason}" for reason in one["suite"]["why_open"]]
        if (heat := one["sustained"]) is not None:
            remarks.append(
                f"{name} runs {heat['workload']} at {100 * heat['ratio']:.0f} % of its first speed after {heat['seconds']:.0f} s"
            )
    return "\n".join([f"tier {found.results[0]['suite']['tier']}", lined_up(rows), *remarks])


def _groups(found: Comparison, number: int) -> str:
    name = found.names[number]
    rows = [(f"{name} against A", "times as fast", "")]
    rows += [(row.title, *_ratio(row.cells[number])) for row in found.groups]
    scores = [one["score"]["parts"].get("Precision") for one in (found.results[0], found.results[number])]
    if all(scores):
        rows.append(("Precision", f"A {scores[0]['score']:.0f}, {name} {scores[1]['score']:.0f}", ""))
    return lined_up(rows)


def _workloads(found: Comparison, number: int) -> str:
    name = found.names[number]
    rows: list[tuple[str, ...]] = [("workload", "A", name, "times as fast", "", f"floor A, {name}", f"memory A, {name}", "answer")]
    energy = any(cell.energy_j is not None for row in found.workloads for cell in (row.cells[0], row.cells[number]))
    if energy:
        rows[0] = (*rows[0], f"energy A, {name}")
    for row in found.workloads:
        base, cell = row.cells[0], row.cells[number]
        pairs = [f"{base.floor}, {cell.floor}", f"{base.memory}, {cell.memory}", cell.answer]
        rows.append((row.key, base.seconds, cell.seconds, *_ratio(cell), *pairs, *([f"{base.energy}, {cell.energy}"] if energy else [])))
    missing = [
        f"{row.key} in {found.names[i]}: {row.cells[i].missing}" for row in found.workloads for i in (0, number) if row.cells[i].missing
    ]
    return "\n".join([lined_up(rows), *missing])


def _floors(found: Comparison, number: int) -> str:
    name = found.names[number]
    rows = [("measured at best", "A", name, "times as fast", "")]
    rows += [(row.title, _rate(row, 0), _rate(row, number), *_ratio(row.cells[number])) for row in found.floors]
    return lined_up(rows)


def _rate(row: Row, number: int) -> str:
    value = row.cells[number].median
    return "–" if value is None else rate_text(value, row.part)


def _ratio(cell: Cell) -> tuple[str, str]:
    return ("–", "") if cell.ratio is None else (cell.ratio.text(), cell.ratio.verdict)


def lined_up(rows: Sequence[Sequence[str]]) -> str:
    """Return rows whose cells stand below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
