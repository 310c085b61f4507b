"""Draw two results beside each other, with their differences."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.workflow.comparing.quantity import CONSTANT, LABEL, OBJECT, PHASE, ROTATION, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpu4d.workflow.compare import Comparison

MOST = 6  # quantities of one picture: more are too small to be read
NAMES = {"e_xx": "ε$_{xx}$", "e_yy": "ε$_{yy}$", "e_xy": "ε$_{xy}$", "theta": "θ"}
SIGNED = ("strain/", "amorphous_strain/", "dpc_phase", "dpc_com", "dpc_field", "induction", "electric_momentum")
ONLY_DIFFERENCE = {LABEL: "where they differ", ROTATION: "angle between", PHASE: "modulus of the difference"}  # shown without the maps
PERCENT, DEGREES = ("strain/e_", "amorphous_strain/e_"), ("strain/theta",)


def draw(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write the picture of a comparison: for each map the first, the second, and their difference on a scale of its own.

    Parameters
    ----------
    comparison : Comparison
    path : path
        Ends in .png, .svg or .pdf. An existing file is replaced.

    Raises
    ------
    InputError
        No map was compared, or the file cannot be written.
    """
    rows = maps_of(comparison)
    if not rows:
        raise InputError("no map was compared, so there is no picture: leave out --picture, or --only")
    return canvas.save(_drawn(comparison, rows), Path(path))


def maps_of(comparison: Comparison) -> list[Row]:
    """Return the rows that are drawn: maps over the scan, which most maps are."""
    maps = [row for row in comparison.rows if row.difference.ndim == 2 and row.count and min(row.difference.shape) > 1]
    if not maps:
        return []
    shape = Counter(row.difference.shape for row in maps).most_common(1)[0][0]
    return [row for row in maps if row.difference.shape == shape][:MOST]


@canvas.styled
def _drawn(comparison: Comparison, rows: list[Row]) -> Figure:
    made, axs = canvas.figure(rows[0].difference.shape, len(rows), 3)
    first, second = Path(comparison.first).name, Path(comparison.second).name
    made.suptitle(f"{first} against {second}", x=0.02, ha="left", fontsize=12, fontweight="bold")
    for row, panels in zip(rows, axs):
        scale, unit = _unit(row)
        name = NAMES.get(row.name.rpartition("/")[2], row.name)
        difference = scale * row.difference
        if row.kind in ONLY_DIFFERENCE:
            for ax in panels[:2]:
                ax.set_axis_off()
            title = f"{name}: {ONLY_DIFFERENCE[row.kind]}"
            canvas.show(panels[2], difference, title, unit, "viridis", canvas.robust_range(difference, 0.0, 100.0))
        else:
            values = scale * row.values
            other = values - difference
            both = np.stack([values, other])
            signed = row.name.startswith(SIGNED)
            half = canvas.symmetric_range(both)
            limits, cmap = ((-half, half), "RdBu_r") if signed else (canvas.robust_range(both), "gray")
            # without this a phase that is known up to a constant would be drawn white
            middle = float(np.nanmean(both)) if row.kind in (CONSTANT, OBJECT) else 0.0
            canvas.show(panels[0], values - middle, f"{name}, first", unit, cmap, limits)
            canvas.show(panels[1], other - middle, f"{name}, second", unit, cmap, limits)
            most = canvas.symmetric_range(difference)
            title = f"first − second, rms {scale * row.rms:.2g} {unit}".rstrip()
            canvas.show(panels[2], difference, title, unit, "PuOr_r", (-most, most))
        canvas.note_missing(panels[2], row.difference)
        for ax in panels:
            if ax.axison:
                canvas.scale_bar(ax, row.difference.shape, *comparison.pixel)
        canvas.axis_marks(panels[2])
    return made


def _unit(row: Row) -> tuple[float, str]:
    """Return by what values are multiplied for readers, and the unit then."""
    if row.name.startswith(PERCENT):
        return 100.0, "%"
    if row.name.startswith(DEGREES):
        return float(np.degrees(1.0)), "°"
    return 1.0, {"1": "", "": ""}.get(row.unit, row.unit)
