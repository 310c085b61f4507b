"""Run stages in the order that their needs and results give. Stages that are ready together share one pass over the scan."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from gpu4d.workflow.prepare import prepare
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage, no

SEPARATOR = "/"  # joins the name of a stage and of its reduction, if two stages of a pass use the same name


class StageCalls:
    """Call the stages of a run. `gpu4d.workflow.keeping` has another one, which need not call a stage whose results are kept."""

    def watching(self, state: RunState) -> AbstractContextManager[None]:
        """Return the block in which all stages are called."""
        return nullcontext()

    def ask(self, stage: Stage, state: RunState) -> dict[str, Any] | None:
        """Return the reductions that a stage asks for, or None if it does not run."""
        if not _wanted(stage, state):
            return None
        prepare(stage.compiles, state.cube, state.record, state.recipe.compute.device)
        return stage.reductions(state)

    def is_kept(self, stage: Stage, state: RunState) -> bool:
        """Return True if it is likely that `restore` will do. Then the stage is left out of the next pass."""
        return False

    def reading(self, asked: dict[str, dict[str, Any]]) -> AbstractContextManager[None]:
        """Return the block in which the scan is read for the reductions that some stages asked for, by their names."""
        return nullcontext()

    def restore(self, stage: Stage, state: RunState) -> bool:
        """Do what `finish` of the stage did in an earlier run. Return False if no run with these inputs is known."""
        return False

    def finish(self, stage: Stage, state: RunState, results: dict[str, Any]) -> None:
        """Let a stage work on the results of its reductions."""
        stage.finish(state, results)


def carry_out(stages: Sequence[Stage], state: RunState, calls: StageCalls | None = None) -> None:
    """Run all stages that are wanted and possible.

    A stage is ready when each result it needs or uses either exists or cannot be made any more. Ready stages that read nothing are
    finished at once, in the order of `stages`. When none of these is left, the other ready stages read the scan in one pass.

    Parameters
    ----------
    stages : sequence of Stage
    state : RunState
        Is filled with results, and with the reasons why stages ran or did not run. If its record stops at a gate, no further stage
        begins. Stages that share a pass with the one that has the gate are finished.
    calls : StageCalls, optional
        Calls the stages.

    Raises
    ------
    ValueError
        Two stages make the same result, or stages wait for each other.
    """
    check(stages)
    calls = calls or StageCalls()
    waiting, number = list(stages), 0
    reading: list[_WaitingStage] = []
    while waiting or reading:
        if state.record.stopped is not None:
            _leave_out([*(asked.stage for asked in reading), *waiting], state)
            return
        stage = next((s for s in waiting if _ready(s, [*waiting, *reading])), None)
        if stage is None:
            number = _one_pass(reading, state, number, calls)
            reading = []
            continue
        waiting.remove(stage)
        asked = calls.ask(stage, state)
        if asked:
            reading.append(_WaitingStage(stage, asked))
        elif asked is not None and not calls.restore(stage, state):
            calls.finish(stage, state, {})


class _WaitingStage:
    """A stage that waits for the next pass, and the reductions it asks for."""

    def __init__(self, stage: Stage, reductions: dict[str, Any]):
        self.stage, self.reductions = stage, reductions
        self.makes = stage.makes


def check(stages: Sequence[Stage]) -> None:
    """Refuse stages that make the same result or wait for each other in a circle."""
    makers: dict[str, str] = {}
    for stage in stages:
        for name in stage.makes:
            if name in makers:
                raise ValueError(f"the stages {makers[name]} and {stage.name} both make {name!r}: a result needs one maker")
            makers[name] = stage.name
    waiting = list(stages)
    while waiting:
        ready = [s for s in waiting if _ready(s, waiting)]
        if not ready:
            raise ValueError(f"the stages {', '.join(s.name for s in waiting)} wait for results of each other")
        waiting = [s for s in waiting if s not in ready]


def _leave_out(stages: Sequence[Stage], state: RunState) -> None:
    """Keep why stages did not run after a gate that stopped the run."""
    assert state.record.stopped is not None
    state.reasons.update((stage.name, no(f"the run stopped at the gate “{state.record.stopped.name}”")) for stage in stages)


def _ready(stage: Stage, unfinished: Sequence[Any]) -> bool:
    """Return True if no unfinished stage makes anything that this one needs or uses."""
    open_results = {name for other in unfinished if other is not stage for name in other.makes}
    return not open_results.intersection((*stage.needs, *stage.uses))


def _wanted(stage: Stage, state: RunState) -> bool:
    """Ask a stage whether it runs, and keep the answer. A stage is not asked if a result it needs is missing."""
    missing = [name for name in stage.needs if name not in state]
    reason = no(f"needs {' and '.join(missing)}, which this run could not make") if missing else stage.wanted(state)
    state.reasons[stage.name] = reason
    return reason.wanted


def _one_pass(reading: Sequence[_WaitingStage], state: RunState, number: int, calls: StageCalls) -> int:
    """Read the scan once for all stages that wait for it, then finish them in their order. Return the number of the last pass.

    Stages whose results are kept do not read. If one of them turns out to follow from something that a stage of this pass has
    changed, it has a pass of its own.
    """
    to_read = [asked for asked in reading if not calls.is_kept(asked.stage, state)]
    found, number = _read(to_read, state, number, calls)
    for asked in reading:
        name = asked.stage.name
        if name not in found:
            if calls.restore(asked.stage, state):
                continue
            results, number = _read([asked], state, number, calls)
            found |= results
        calls.finish(asked.stage, state, found[name])
    return number


def _read(reading: Sequence[_WaitingStage], state: RunState, number: int, calls: StageCalls) -> tuple[dict[str, dict[str, Any]], int]:
    """Read the scan once for some stages. Return the results of each, by its name, and the number of this pass."""
    if not reading:
        return {}, number
    number += 1
    reductions: dict[str, Any] = {}
    names: list[dict[str, str]] = []  # for each stage: its own name of a reduction -> the name in the shared pass
    for asked in reading:
        names.append({n: n if n not in reductions else f"{asked.stage.name}{SEPARATOR}{n}" for n in asked.reductions})
        reductions.update((names[-1][name], reduction) for name, reduction in asked.reductions.items())
        prepare(asked.stage.compiles, state.cube, state.record, state.recipe.compute.device)  # of a stage that was not asked in this run
    title = f"pass {number}: {', '.join(asked.stage.title for asked in reading)}"
    by_name = {asked.stage.name: asked.reductions for asked in reading}
    with state.record.stage(title, state.patterns, state.pass_bytes) as progress, calls.reading(by_name):
        found = state.sweep(reductions, progress)
    return {a.stage.name: {name: found[shared[name]] for name in a.reductions} for a, shared in zip(reading, names)}, number
