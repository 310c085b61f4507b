"""The whole analysis of a scan, in memory."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.device.timeline import Timeline
from gpu4d.workflow import inputs
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.schedule import carry_out
from gpu4d.workflow.stages import known_stages


def analyse(
    cube: DataCube,
    recipe: Recipe | None = None,
    record: Record | None = None,
    probe: ArrayLike | None = None,
    timeline: Timeline | None = None,
) -> RunState:
    """Analyse a scan with every stage that makes sense for it.

    Parameters
    ----------
    cube : DataCube
        Its calibration is completed in place.
    recipe : Recipe, optional
    record : Record, optional
        Where times, decisions, gates and warnings are written.
    probe : (Qx, Qy) array, optional
        Vacuum probe; the recipe's, or one made from the scan, otherwise.
    timeline : gpu4d.device.timeline.Timeline, optional
        Is filled with what was read, copied and computed when.

    Returns
    -------
    RunState
        What stages made, by name: ``state["strain"]``. What cannot be measured (no disk, no lattice, no calibration) is missing, with
        a warning in `record` that says why; `reasons` says of every stage whether it ran, and why.
    """
    recipe, record = recipe or Recipe(), record or Record()
    with record.listening():
        record.note(f"scan {cube!r}")
        for line in recipe.advice():
            record.warn(line)
        inputs.check_regions(recipe, cube.scan_shape)
        where = inputs.scan_mask(cube, recipe)
        given = inputs.given_probe(cube, recipe) if probe is None else np.asarray(probe, dtype=np.float64)
        state = RunState(cube, recipe, record, where, given, timeline)
        carry_out(known_stages(), state)
    return state
