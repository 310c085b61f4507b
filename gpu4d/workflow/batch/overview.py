"""Show what became of a batch: a table for the terminal, batch.json for programs, and one page with pictures that link to the reports."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from gpu4d.workflow.batch.find import TABLE
from gpu4d.workflow.batch.one_run import DONE, FAILED, SKIPPED, UNCHANGED, WAITING, Outcome
from gpu4d.workflow.report.output import REPORT

PAGE = "index.html"
SIDE = 360  # pixels of the longer side of a small picture: sharp at 265 pixels of a page
LONGEST_NAME = 40  # characters of a file's name in a table: of a longer one the end is shown, in which names differ


def counted(outcomes: Sequence[Outcome], failed: str = "failed") -> str:
    """Say how many files there were of each kind."""
    number = {status: sum(one.status == status for one in outcomes) for status in (WAITING, DONE, UNCHANGED, FAILED, SKIPPED)}
    words = {WAITING: "to analyse", DONE: "analysed", UNCHANGED: "done before", FAILED: failed, SKIPPED: "skipped"}
    return ", ".join(f"{count} {words[status]}" for status, count in number.items() if count) or "no files"


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table for the terminal: file, technique, gates, seconds, and what was found or why not."""
    rows = [(one.name, one.technique or one.status, _gates(one), f"{one.seconds:.1f}", one.headline or one.error) for one in outcomes]
    return "\n".join([*_aligned(("file", "technique", "gates", "s", "result"), rows, right=(2, 3)), "", counted(outcomes)])


def plan_table(outcomes: Sequence[Outcome]) -> str:
    """Return the table of a plan for the terminal: what would be done with each file, and what it is or why not."""
    words = {WAITING: "analyse", UNCHANGED: "done before", FAILED: "cannot open", SKIPPED: "skip"}
    rows = [(one.name, words[one.status], one.error or one.headline) for one in outcomes]
    return "\n".join([*_aligned(("file", "plan", "what it is, or why"), rows), "", counted(outcomes, "cannot be opened")])


def _aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: Sequence[int] = ()) -> list[str]:
    """Return the lines of a table. The last column is wrapped to the width of the terminal; `right` names columns of numbers."""
    columns = shutil.get_terminal_size((120, 24)).columns
    wide = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head) - 1)]
    wide[0] = min(wide[0], LONGEST_NAME)
    left = sum(wide) + 2 * len(wide)
    lines = []
    for row in [head, *rows]:
        name = row[0] if len(row[0]) <= wide[0] else f"…{row[0][len(row[0]) - wide[0] + 1 :]}"
        cells = [name, *row[1:-1]]
        first = "".join(f"{cell:>{wide[i]}}  " if i in right else f"{cell:<{wide[i]}}  " for i, cell in enumerate(cells))
        text = textwrap.wrap(row[-1], max(columns - left, 30)) or [""]
        lines += [(first + text[0]).rstrip(), *(" " * left + more for more in text[1:])]
    return lines


def _gates(one: Outcome) -> str:
    return f"{one.gates[0]}/{one.gates[1]}" if one.gates[1] else ""


def read_table(out: Path) -> list[Outcome]:
    """Return the outcomes of an earlier batch in this folder. Empty if there is none."""
    try:
        return [Outcome(**entry) for entry in json.loads((out / TABLE).read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def write_overview(out: Path, outcomes: Sequence[Outcome], title: str) -> None:
    """Write batch.json and index.html, each beside its place and renamed."""
    from gpu4d.workflow.pipeline import versions

    text = json.dumps({"summary": counted(outcomes), "files": [one.as_dict() for one in outcomes]}, indent=1, ensure_ascii=False)
    _replace(out / TABLE, text)
    _replace(out / PAGE, page(out, outcomes, title, versions()))


def page(out: Path, outcomes: Sequence[Outcome], title: str, versions: str) -> str:
    """Return the page: failed files first, then the scans with pictures, then what is no scan."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((Path(__file__).with_name(PAGE)).read_text(encoding="utf-8"))
    done = [
        {**one.as_dict(), "link": quote(f"{one.folder}/{REPORT}"), "thumbnail": _thumbnail(out, one), "alt": f"main picture of {one.name}"}
        for one in outcomes
        if one.status in (DONE, UNCHANGED)
    ]
    return template.render(
        title=title,
        summary=counted(outcomes),
        failed=[one for one in outcomes if one.status == FAILED],
        done=done,
        skipped=[one for one in outcomes if one.status == SKIPPED],
        versions=versions,
    )


def _thumbnail(out: Path, one: Outcome) -> str:
    """Return the main picture of a result, made small, as base64. Empty if there is none."""
    from PIL import Image

    for name in one.pictures:
        try:
            with Image.open(out / one.folder / f"{name}.png") as picture:
                small = picture.convert("RGB")
                small.thumbnail((SIDE, SIDE))
        except OSError:
            continue
        made = io.BytesIO()
        small.quantize(128).save(made, "PNG", optimize=True)
        return base64.b64encode(made.getvalue()).decode("ascii")
    return ""


def _replace(path: Path, text: str) -> None:
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.chmod(new, 0o644)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
