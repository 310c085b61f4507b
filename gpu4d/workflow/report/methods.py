"""Write the methods paragraph of a run, ready to paste into a paper, with its list of references."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpu4d._version import __version__
from gpu4d.data.calibration import Calibration
from gpu4d.workflow.record import measured
from gpu4d.workflow.report.citations import CITATIONS, as_bibtex, as_text
from gpu4d.workflow.report.output import FIRST_LINE, METHODS, REFERENCES
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

CITED = re.compile(r"\s*\[(@[\w-]+(?:;\s*@[\w-]+)*)\]")  # [@key; @key], with the space before it


@dataclass(frozen=True)
class Methods:
    """The methods paragraph.

    Attributes
    ----------
    text : str
        Sentences with numbers of references in brackets: "… hybrid correlation [2, 3]".
    keys : tuple of str
        Keys of the references, in the order of their numbers.
    """

    text: str
    keys: tuple[str, ...]

    @property
    def references(self) -> list[str]:
        """The list of references, a line each, in the order of their numbers."""
        return [as_text(key) for key in self.keys]

    @property
    def bibtex(self) -> str:
        return as_bibtex(self.keys)

    def write(self, folder: Path) -> None:
        """Write methods.txt and references.bib into a folder."""
        lines = [f"{FIRST_LINE} {__version__}", "", self.text, "", "References", ""]
        lines += [f"[{number}] {line}" for number, line in enumerate(self.references, 1)]
        (folder / METHODS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / REFERENCES).write_text(f"% {FIRST_LINE} {__version__}\n{self.bibtex}", encoding="utf-8")


def methods(state: RunState, stages: Sequence[Stage]) -> Methods:
    """Write the methods paragraph of a run.

    Parameters
    ----------
    state : RunState
        After all stages.
    stages : sequence of Stage
        Those that ran, in the order in which they belong into a text.

    Raises
    ------
    ValueError
        A stage names a publication that is not in its `cites`, or that is not in `gpu4d.workflow.report.citations`.
    """
    return numbered(" ".join([sentences(state, stages), *_of_gates(state)]))


def methods_of_parts(parts: Sequence[tuple[str, RunState, Sequence[Stage]]]) -> Methods:
    """Write one text for several scans of one report, a paragraph each, with one list of references.

    Parameters
    ----------
    parts : sequence of (str, RunState, sequence of Stage)
        The name of each scan, and as of `methods`. The record of the first holds the gates of all.
    """
    paragraphs = [f"{name}: {sentences(state, stages)}" for name, state, stages in parts]
    return numbered("\n\n".join([*paragraphs, *_of_gates(parts[0][1])]))


def sentences(state: RunState, stages: Sequence[Stage]) -> str:
    """Return what the methods paragraph says of a scan and of the stages that ran, with the keys of citations. As of `methods`."""
    found = [_of_scan(state), f"It was analysed with gpu4d {__version__} [@gpu4d]."]
    for stage in stages:
        said = stage.methods(state)
        wrong = [key for key in keys_in(said) if key not in stage.cites or key not in CITATIONS]
        if wrong:
            raise ValueError(f"the stage {stage.name} names {', '.join(wrong)}: a key must be in its `cites` and in the table of citations")
        found.append(said)
    found.append(_of_calibration(state.calibration))
    return " ".join(sentence for sentence in found if sentence)


def _of_gates(state: RunState) -> list[str]:
    gates = state.record.gates
    return [f"{sum(gate.status == 'pass' for gate in gates)} of {len(gates)} quality gates were passed."] if gates else []


def keys_in(text: str) -> list[str]:
    """Return the keys of a text's citations, each once, in their order.

    Examples
    --------
    >>> keys_in("Disks [@pekin2017; @savitzky2021] and strain [@pekin2017].")
    ['pekin2017', 'savitzky2021']
    """
    found = (key.strip().removeprefix("@") for group in CITED.findall(text) for key in group.split(";"))
    return list(dict.fromkeys(found))


def numbered(text: str) -> Methods:
    """Replace the keys of citations by the numbers of references.

    Examples
    --------
    >>> numbered("Disks [@pekin2017] and strain [@ozdol2015; @pekin2017].").text
    'Disks [1] and strain [1, 2].'
    """
    keys = keys_in(text)

    def numbers(found: re.Match[str]) -> str:
        own = sorted(keys.index(key.strip().removeprefix("@")) + 1 for key in found[1].split(";"))
        return f" [{', '.join(map(str, own))}]"

    return Methods(CITED.sub(numbers, text), tuple(keys))


def _of_scan(state: RunState) -> str:
    """Describe the scan and the beam, as far as they are known."""
    c, cube = state.calibration, state.cube
    (rx, ry), (qx, qy) = cube.scan_shape, cube.detector_shape
    step = f" in steps of {c.r_pixel:.4g} Å" if c.r_pixel else ""
    beam = [f"at {c.energy / 1e3:g} kV" if c.energy else "", f"a convergence semi-angle of {c.semiangle:g} mrad" if c.semiangle else ""]
    recorded = " with ".join(part for part in beam if part)
    looked = "" if state.where is None else f"; {state.patterns:,} of the positions were used"
    was = f" was recorded {recorded if c.energy else f'with {recorded}'}" if recorded else " was recorded"
    return f"A 4D-STEM scan of {rx} × {ry} positions{step}, with {qx} × {qy} detector pixels at each,{was}{looked}."


def _of_calibration(c: Calibration) -> str:
    """Describe the values that give results their units and directions, and how each was found."""
    how = {entry.field: entry.how for entry in c.history}
    parts = []
    if c.q_pixel is not None:
        parts.append(f"a detector pixel of {measured(c.q_pixel, c.q_pixel_error)} Å⁻¹ ({how.get('q_pixel', 'given')})")
    if c.rotation is not None:
        error = None if c.rotation_error is None else math.degrees(c.rotation_error)
        turn = f"a rotation of {measured(math.degrees(c.rotation), error)}° between detector and scan"
        parts.append(f"{turn}{', with exchanged detector axes' if c.transpose else ''} ({how.get('rotation', 'given')})")
    if c.ellipse is not None and np.isfinite(c.ellipse).all():
        ratio = measured(c.ellipse[0] / c.ellipse[1], None if c.ellipse_error is None else c.ellipse_error[0])
        parts.append(f"an elliptical distortion of a/b = {ratio} ({how.get('ellipse', 'given')})")
    if not parts:
        return "Neither the detector pixel nor its rotation against the scan is calibrated."
    *first, last = parts
    return f"The calibration has {', '.join(first)}{' and ' if first else ''}{last}."
