"""Analyse a scan in memory, without files."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from gpu4d.arrays import ArrayLike
from gpu4d.data.datacube import DataCube
from gpu4d.device.timeline import Timeline
from gpu4d.io.toml import literal
from gpu4d.workflow import inputs
from gpu4d.workflow.gates import policy_of
from gpu4d.workflow.guide.scenarios import BY_NAME, ORIGIN, TABLE, warnings_of
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.schedule import StageCalls, carry_out
from gpu4d.workflow.stages import known_gates, known_stages
from gpu4d.workflow.workers import workers_of

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
        The whole scan. Its calibration is completed in place, unless the recipe crops, bins or turns the scan.
    recipe : Recipe, optional
        All sections count as in `gpu4d run`: `calibration` replaces the values of the cube, `input` masks, crops, bins and turns it.
        Settings that say how a file is opened (`input.dataset`, `input.scan_shape`, …) are left out, with a warning.
    record : Record, optional
        Record for times, decisions, gates and warnings.
    probe : (Qx, Qy) array, optional
        Image of the vacuum probe, on the detector as the scan has it, before it is turned and binned. By default the recipe's, or one
        made from the scan.
    timeline : gpu4d.device.timeline.Timeline, optional
        Is filled with the times of reading, copying and computing.
    client : distributed.Client, optional
        Its workers share the passes over the scan, as of `gpu4d.sweep`. By default those that the recipe asks for.
    cleaned : bool
        The cube is as the recipe says already: `gpu4d.workflow.inputs.open_scan` has masked, corrected, cropped, binned and calibrated it.
    calls : StageCalls, optional
        Calls the stages. By default each is called; `gpu4d.workflow.keeping.calls_of` makes one that keeps what they made.

    Returns
    -------
    RunState
        Results by name: ``state["strain"]``. A result that cannot be measured (no disk, no lattice, no calibration) is missing, and
        a warning in `record` says why. `reasons` says for every stage whether it ran, and why.
    """
    recipe, record = recipe or Recipe(), record or Record()
    record.policy = policy_of(recipe.gates, known_gates())
    with record.listening():
        cube = cube if cleaned else _as_asked(cube, recipe, record)
        record.note(f"scan {cube!r}")
        for line in recipe.advice():
            record.warn(line)
        _say_scenarios(recipe, record)
        inputs.check_regions(recipe, cube.scan_shape)
        where = inputs.scan_mask(cube, recipe)
        given = inputs.given_probe(cube, recipe, probe)
        with workers_of(recipe) if client is None else nullcontext(client) as workers:
            state = RunState(cube, recipe, record, where, given, timeline, workers)
            for stage in known_stages():
                stage.check(state)
            calls = calls or StageCalls()
            with calls.watching(state):
                carry_out(known_stages(), state, calls)
    return state


def _as_asked(cube: DataCube, recipe: Recipe, record: Record) -> DataCube:
    """Return a scan in memory as the recipe says, as a run of its file would open it."""
    if left := inputs.opening_settings(recipe):
        record.warn(f"{', '.join(left)}: not used, because the scan is open already; gpu4d.open and cube.reshape take the same")
    cube = inputs.as_asked(cube, recipe, record)
    if recipe.input.preview:
        record.warn(inputs.preview_warning(cube))
    return cube


def _say_scenarios(recipe: Recipe, record: Record) -> None:
    """Record what the scenarios of a recipe changed, and warn of what no setting can do."""
    asked = recipe.given.get("analysis.scenario", "recipe")
    for name in recipe.analysis.scenario or ():
        changed = [setting for setting, origin in recipe.given.items() if origin == f"{ORIGIN} {name}"]
        shown = [f"{setting} = {literal(getattr(recipe[setting.split('.')[0]], setting.split('.')[1]))}" for setting in changed]
        what = ", ".join(shown) or "no setting changed, because the recipe gives them or it has none"
        record.decide(f"Scenario {name}: {what}", f"asked for ({asked}); {BY_NAME[name].title}, the guide's table {TABLE}")
    for line in warnings_of(recipe.analysis.scenario):
        record.warn(line)
