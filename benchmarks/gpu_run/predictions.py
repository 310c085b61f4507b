"""The table of predictions in docs/contributing/performance-log.md, beside what was measured of the same operation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

HEADING = "predictions for the first run"
# What kernels and their parts are called there, and the operation whose case they are the most of.
PART_OF = {
    "frame_sums": "frame_reductions",
    "row_column": "find_disks",
    "row and column": "find_disks",
    "filter_columns": "find_disks",
    "fused_disks": "find_disks",
    "newton_peaks": "refine_disks",
    "ssb": "ssb_sum",
    "hot_pixels": "hot_pixel_median",
    "polar": "polar_transform",
    "bright_field_stack": "gather_pixels",
}


SIDE = re.compile(r"(\d+) ?[²×]")
WORDS = ("weights", "scan", "1 mask", "float32", "one chunk", "100 counts")  # in a label, too, where they are in a prediction


def table(page: Path) -> list[dict[str, str]]:
    """Rows of the table under the heading, by the names of its columns; none where there is no such table."""
    if not page.is_file():
        return []
    behind = re.split(rf"^#+ .*{HEADING}.*$", page.read_text(encoding="utf-8"), flags=re.IGNORECASE | re.MULTILINE)
    if len(behind) < 2:
        return []
    names: list[str] = []
    found = []
    for line in behind[1].split("\n"):
        if line.startswith("#"):
            break
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not names:
            names = [cell.lower() for cell in cells]
        elif not set(line) <= set("|-: "):
            found.append(dict(zip(names, cells)))
    return found


class Subject(NamedTuple):
    """What a prediction speaks of: operations, sides of patterns or scans, and words that tell cases of an operation apart."""

    operations: frozenset[str]
    sizes: frozenset[str]
    words: frozenset[str]


def subject(what: str, above: Subject, operations: set[str]) -> Subject:
    """Of a row's first cell; "the same" is what the row above speaks of, where this one does not say otherwise."""
    text = what.replace("`", "")
    named = frozenset(name for name in operations if re.search(rf"\b{name}\b", text))
    named = named or frozenset(whole for part, whole in PART_OF.items() if part in text)
    sizes, words = frozenset(SIDE.findall(text)), frozenset(word for word in WORDS if word in text)
    if text.startswith("the same"):
        return Subject(above.operations, sizes or above.sizes, words or above.words)
    return Subject(named, sizes, words)


def measured(about: Subject, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of the cases a prediction speaks of."""
    of_it = [row for row in rows if row["operation"] in about.operations]
    return [row for row in of_it if about.sizes <= set(SIDE.findall(row["label"])) and all(word in row["label"] for word in about.words)]


def plainest(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several cases the one whose label says least: what another says beside is its own."""
    return min(rows, key=lambda row: len(row["label"]))


def lines(page: Path, rows: list[dict[str, Any]], most: int) -> list[str]:
    """One line for every prediction that can be held against a figure, the others counted."""
    found, unmatched = [], 0
    about = Subject(frozenset(), frozenset(), frozenset())
    for entry in table(page):
        what = next(iter(entry.values()), "")
        about = subject(what, about, {row["operation"] for row in rows})
        figures = measured(about, rows)
        if not figures:
            unmatched += 1
            continue
        row = plainest(figures)
        figure = f"{row['fraction']:.2f} of the floor, {row['rate'] / 1e6:.3g} M/s, {row['seconds'] * 1e3:.3g} ms"
        found.append(f"  {what.replace('`', '')[:40]}: {entry.get('predicted', '?')[:46]}; now {row['label'].split(',')[0]}: {figure}")
    if len(found) > most:
        unmatched += len(found) - most
        found = found[:most]
    return [*found, f"  {unmatched} more, or without a case of that size"] if unmatched else found
