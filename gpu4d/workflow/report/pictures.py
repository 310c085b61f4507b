"""Draw the pictures of an analysis as PNG and SVG files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from gpu4d import plot
from gpu4d.plot.canvas import figure_of
from gpu4d.workflow.picture import Picture
from gpu4d.workflow.report.panels import panels_of
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage
from gpu4d.workflow.stages import known_stages


def stages_that_made_something(state: RunState) -> list[Stage]:
    """Return the stages that ran and left a result, in the order of the report. None in place of a result is no result."""
    ran = (s for s in known_stages() if s.name in state.reasons and state.reasons[s.name].wanted)
    made = [s for s in ran if any(state.get(name) is not None for name in s.makes)]
    return sorted(made, key=lambda stage: stage.place)


def draw(state: RunState, folder: Path, prefix: str = "") -> list[Picture]:
    """Draw all pictures of an analysis as PNG and SVG files in a folder.

    Parameters
    ----------
    state : RunState
    folder : Path
    prefix : str
        Beginning of the file names, and of the section titles ("phase_object_").

    Returns
    -------
    list of Picture
    """
    done = []
    for stage in stages_that_made_something(state):
        for picture, drawn in stage.pictures(state):
            if prefix:
                section = f"{prefix.replace('_', ' ').strip().capitalize()}: {picture.section.lower()}"
                picture = dataclasses.replace(picture, name=prefix + picture.name, section=section)
            done.append(keep(picture, drawn, folder))
    return done


def keep(picture: Picture, drawn: Any, folder: Path) -> Picture:
    """Write what a function of `gpu4d.plot` returned as PNG and as SVG, both with its scale.

    Returns the picture with the maps whose values the page shows.
    """
    figure = figure_of(drawn)
    png = folder / f"{picture.name}.png"
    plot.save(figure, png)
    panels = panels_of(figure, png, picture.errors)
    if panels:
        figure.set_layout_engine("none")  # everything has its place by now: to place it again takes half of the time
    plot.save(figure, folder / f"{picture.name}.svg")
    return dataclasses.replace(picture, panels=panels)
