"""Analyse a scan in memory, without files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.device.timeline import Timeline
from gpu4d.workflow import inputs
from gpu4d.workflow.clean import clean
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.schedule import StageCalls, carry_out
from gpu4d.workflow.stages import known_stages

if TYPE_CHECKING:
    from distributed import Client


def analyse(
    cube: DataCube,
    recipe: Recipe | None = None,
    record: Record | None = None,
    probe: ArrayLike | None = None,
    timeline: Timeline | None = None,
    *,
    client: Client | None = None,
    cleaned: bool = False,
    calls: StageCalls | None = None,
) -> RunState:
    """Analyse a scan with every stage that makes sense for it.

    Parameters
    ----------
    cube : DataCube
        Its calibration is completed in place.
    recipe : Recipe, optional
    record : Record, optional
        Record for times, decisions, gates and warnings.
    probe : (Qx, Qy) array, optional
        Image of the vacuum probe. By default the recipe's, or one made from the scan.
    timeline : gpu4d.device.timeline.Timeline, optional
        Is filled with the times of reading, copying and computing.
    client : distributed.Client, optional
        Its workers share the passes over the scan, as of `gpu4d.sweep`.
    cleaned : bool
        The cube has the corrections of the recipe already, as `gpu4d.workflow.inputs.open_scan` makes them.
    calls : StageCalls, optional
        Calls the stages. By default each is called; `gpu4d.workflow.keeping.calls_of` makes one that keeps what they made.

    Returns
    -------
    RunState
        Results by name: ``state["strain"]``. A result that cannot be measured (no disk, no lattice, no calibration) is missing, and
        a warning in `record` says why. `reasons` says for every stage whether it ran, and why.
    """
    recipe, record = recipe or Recipe(), record or Record()
    with record.listening():
        cube = cube if cleaned else clean(cube, recipe, record)
        record.note(f"scan {cube!r}")
        for line in recipe.advice():
            record.warn(line)
        inputs.check_regions(recipe, cube.scan_shape)
        where = inputs.scan_mask(cube, recipe)
        given = inputs.given_probe(cube, recipe) if probe is None else np.asarray(probe, dtype=np.float64)
        state = RunState(cube, recipe, record, where, given, timeline, client)
        for stage in known_stages():
            stage.check(state)
        calls = calls or StageCalls()
        with calls.watching(state):
            carry_out(known_stages(), state, calls)
    return state
