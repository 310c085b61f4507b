"""Choose the technique: the one the recipe names, or the one the data suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from gpu4d.crystal.technique import suggest_technique
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage


@dataclass
class AnalysisSettings:
    """Choice of the technique."""

    technique: str = setting(
        "auto", "text", "Technique beside the images: strain from Bragg disks, phase from the centre of mass, both, or none. "
        "auto decides from the data and says why.", choices=("auto", "bragg", "dpc", "both", "images"),
    )  # fmt: skip
    trial_positions: int = setting(36, "whole", "Positions at which Bragg disks are tried before deciding.", low=1, high=4096)


class Technique(Stage):
    """Choose the technique and write down why."""

    name = "technique"
    title = "choice of the technique"
    settings = AnalysisSettings
    section = "analysis"
    needs: ClassVar = ("mean_pattern",)
    uses: ClassVar = ("trial", "disk", "template", "template_origin")
    makes: ClassVar = ("technique",)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record, trial, template = state.record, state.get("trial"), state.get("template")
        technique = "images"
        asked = self.given(state).technique
        if asked != "auto":
            technique = asked
            record.decide(f"Technique: {asked}", f"asked for ({state.recipe.given.get('analysis.technique', 'recipe')})")
            if asked in ("bragg", "both") and template is None:
                technique = "dpc" if asked == "both" else "images"
                record.warn("no Bragg disks: without a bright-field disk or a given probe there is no template to search with")
        elif trial is not None and "disk" in state:
            technique, what, why = suggest_technique(trial.counts, trial.lattice, template.radius, state.cube.scan_shape)
            record.decide(what, why)
        else:
            record.decide("Images only", "the mean pattern has no whole bright-field disk")
        if technique in ("bragg", "both"):
            asked_for = state.given_probe is not None or state.recipe.probe.vacuum_region is not None
            known = "asked for" if asked_for else "no probe was given"
            record.decide(
                f"Probe: {state['template_origin']}", f"{known}; template of radius {template.radius:.2f} px, {template.kind} trench"
            )
        state.keep("technique", technique)
