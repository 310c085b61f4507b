"""Show an analysis in a notebook: key figures, gates, warnings, and the picture of its main result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gpu4d.data.storable import Storable
from gpu4d.notebook.card import summary
from gpu4d.notebook.pieces import Fact

if TYPE_CHECKING:
    from gpu4d.workflow.run_state import RunState

FIRST = ("strain", "glass_strain", "dpc", "magnetic", "ptychography", "ssb", "wdd", "parallax", "orientations", "bf", "adf")  # to show
MOST = 8  # lines of figures, of gates and of warnings
SHORT = 60  # letters: longer remarks are in the report


def shown(state: RunState, title: str, folder: Path | None = None) -> str | None:
    """Return an analysis as HTML; None, after which a notebook shows the text, if that fails.

    Parameters
    ----------
    state : RunState
    title : str
    folder : Path, optional
        With the report, if there is one.
    """
    record, cube = state.record, state.cube
    lines = [Fact("scan", f"{cube.name}, {' × '.join(map(str, cube.shape))} {cube.dtype}")]
    lines += [Fact(what, value, remark if len(remark) <= SHORT else "") for what, value, remark in record.figures[:MOST]]
    missed = [gate for gate in record.gates if not gate.passed]
    if record.gates:
        lines.append(Fact("quality gates", f"{len(record.gates) - len(missed)} of {len(record.gates)} passed"))
    lines += [Fact("look at", f"{gate.name}: {gate.measured}, expected {gate.expected}", gate.advice) for gate in missed[:MOST]]
    lines += [Fact("warning", line) for line in record.warnings[:MOST]]
    lines.append(Fact("results", ", ".join(sorted(state.products or state.results)) or "none"))
    if folder is not None:
        lines.append(Fact("report", str(folder / "report.html")))
    results = [state.get(name) for name in (*FIRST, *sorted(state.results))]
    return summary(title, lines, [one if isinstance(one, Storable) else None for one in results])
