"""The table of predictions in docs/performance-log.md, beside what was measured of the same operation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HEADING = "predictions for the first run"
# What kernels and their parts are called there, and the operation whose case they are the most of.
PART_OF = {
    "frame_sums": "frame_reductions",
    "row_column": "find_disks",
    "filter_columns": "find_disks",
    "fused_disks": "find_disks",
    "newton_peaks": "refine_peaks",
    "refine_disks": "refine_peaks",
    "ssb": "overlap_sums",
    "poisson_fit": "poisson_fit",
    "hot_pixels": "hot_pixel_median",
    "polar": "polar_transform",
    "bright_field_stack": "gather_pixels",
}


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


def measured(what: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of cases that a prediction's first cell speaks of: of its operation, and of the sizes and words it names."""
    text = what.replace("`", "")
    operations = {row["operation"] for row in rows}
    named = {name for name in operations if re.search(rf"\b{name}\b", text)}
    named = named or {whole for part, whole in PART_OF.items() if part in text}
    sizes = set(re.findall(r"\b(64|96|128|130|192|256)\b", text.replace("²", " ").replace("×", " ")))
    of_it = [row for row in rows if row["operation"] in named]
    exact = [row for row in of_it if sizes and sizes <= set(re.findall(r"\d+", row["label"].replace("²", " ").replace("×", " ")))]
    return exact or of_it


def lines(page: Path, rows: list[dict[str, Any]], most: int) -> list[str]:
    """One line for every prediction that can be held against a figure, the others counted."""
    found, unmatched = [], 0
    for entry in table(page):
        what = next(iter(entry.values()), "")
        figures = measured(what, rows)
        if not figures:
            unmatched += 1
            continue
        row = figures[0]
        predicted = entry.get("predicted", "?")
        figure = (
            f"{row['label'].split(',')[0]}: {row['fraction']:.2f} of the floor, {row['rate'] / 1e6:.3g} M/s, {row['seconds'] * 1e3:.3g} ms"
        )
        found.append(f"  {what.replace('`', '')[:44]}: predicted {predicted[:44]}; {figure}")
    if len(found) > most:
        found = [*found[: most - 1], f"  and {len(found) - most + 1} more"]
    return [*found, f"  {unmatched} without a case"] if unmatched else found
