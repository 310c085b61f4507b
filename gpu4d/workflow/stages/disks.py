"""Find the Bragg disks of every pattern."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.bragg.disk_search import SearchOptions
from gpu4d.crystal.fit_lattice import LEAST_DISKS
from gpu4d.workflow.picture import DIFFRACTION, DISKS, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

COUNTS = (5, 30)  # disks per pattern that the guide recommends
PHASE_CORRELATION = 0.5  # power below which amplitudes hardly count any more, and noise becomes disks
USUAL_POWER = 0.85  # with which such a search is compared
MEMORY_MARGIN = 1.25  # times the disks per pattern of the trial: memory is planned for so many


@dataclass
class BraggSettings:
    """Finding Bragg disks."""

    power: float = setting(
        0.85, "number", "Exponent of the hybrid correlation: 1 is cross, 0 is phase correlation. Lower is sharper, but amplifies noise.",
        low=0, high=1, guide=(0.80, 0.95), table="17.3",
        tune="0.85 is a good start. Go to 0.95, or 1 (cross correlation), where noise gives false disks; towards 0.80 where disks nearly "
        "touch. "
        "Stay away from 0 (phase correlation): there noise looks as sharp as a disk. Positions are refined with refine_power.",
    )  # fmt: skip
    refine: str = setting(
        "auto", "text", "Sub-pixel position: a Poisson fit, the correlation's maximum, samples, or a parabola. auto: the fit if possible.",
        choices=("auto", "correlation", "likelihood", "upsample", "parabola", "none"),
        tune="likelihood needs counts and disks that stand apart, and reaches what the counts allow. correlation suits all other data.",
    )  # fmt: skip
    refine_power: float = setting(
        1.0, "number", "Exponent of the map on which positions are refined. 1 is the most precise.", low=0, high=1,
        tune="Leave it at 1. Lower values are for comparisons with programs that refine on the map of `power`.",
    )  # fmt: skip
    upsample: int = setting(
        16, "whole", "Samples per pixel for refine = upsample. Other methods do not use it.", low=2, high=1024, guide=(4, 8),
        table="17.3", tune="4 resolves a quarter of a pixel. The other methods have no such limit, and take less time.",
    )  # fmt: skip
    min_significance: float = setting(
        5.0, "number", "Least Poisson significance of a disk, in standard deviations.", units="σ", low=0, high=1e6,
        tune="5 gives hardly any false disk at any dose. 3 to 4 finds weak disks for orientations, which bear a few false ones. It "
        "replaces "
        "thresholds relative to the strongest disk wherever values are counts.",
    )  # fmt: skip
    min_relative_intensity: float = setting(
        0.0, "number", "Least height relative to the strongest disk of the pattern.", low=0, high=1, guide=(0.01, 0.05),
        table="17.3", tune="0 leaves the decision to the significance. For values that are not counts, lower it until the Bragg vector "
        "map shows "
        "points between the reflections, then go back a step.",
    )  # fmt: skip
    min_absolute_intensity: float = setting(
        0.0,
        "number",
        "Least height of a disk in the map of the correlation, in its own units.",
        low=0,
        tune="Leave it at 0 unless the background has bumps of a known height. A power below 1 changes the scale of the map: "
        "`gpu4d.bragg.explain_disks` shows heights.",
    )
    min_spacing: float | None = setting(
        None, "number", "Least distance of two disks. The weaker one is dropped.", units="px", low=0, automatic="from the template's "
        "radius",
        tune="Set it below the distance of neighbouring reflections, and above a disk's radius, if one disk is found as two.",
    )  # fmt: skip
    edge: float | None = setting(
        None, "number", "Disks nearer to the detector's edge are dropped.", units="px", low=0, automatic="from the template's radius",
        tune="Disks that the edge cuts have wrong positions: keep at least a radius.",
    )  # fmt: skip
    max_peaks: int = setting(
        70, "whole", "Most disks of one pattern.", low=1, high=10000, guide=(20, 50), table="17.3",
        tune="It must exceed the disks of a pattern; more costs nothing. Of overlapping disks, few strong ones are the more reliable.",
    )  # fmt: skip


class Disks(Stage):
    """Find the Bragg disks of every pattern, with the template and the options of the trial."""

    name = "disks"
    title = "Bragg disks"
    guide: ClassVar = ("L", "M", "N")
    settings = BraggSettings
    section = "bragg"
    needs: ClassVar = ("trial", "template", "technique")
    makes: ClassVar = ("braggvectors", "disk_search")
    compiles: ClassVar = ("disks", "fits")
    cites: ClassVar = ("pekin2017", "savitzky2021", "zeltmann2020")
    place: ClassVar = 60

    def wanted(self, state: RunState) -> Reason:
        technique = state["technique"]
        return yes(f"the technique is {technique}") if technique in ("bragg", "both") else no(f"the technique is {technique}")

    def reductions(self, state: RunState) -> dict[str, Any]:
        import gpu4d

        trial = state["trial"]
        expected = MEMORY_MARGIN * float(trial.counts.mean()) + 1
        reduction = gpu4d.BraggDisks(state["template"], **trial.options, expected_peaks=expected)
        reduction.choose(state.cube, state.where)
        if reduction.refinement == "likelihood":
            state.record.decide(f"Fit of a disk: {reduction.parameters} free parameters", reduction.parameters_reason)
        state.keep("disk_search", reduction.prepare(state.cube.dtype, state.cube.detector_mask))  # the picture below takes it too
        return {"braggvectors": reduction}

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        disks = results["braggvectors"]
        state.save("braggvectors", disks)
        counts, record = np.asarray(disks.counts), state.record
        seen = counts[state.where] if state.where is not None else counts.ravel()
        middle = float(np.median(seen)) if seen.size else 0.0
        record.figure("Bragg disks per pattern", f"{middle:.0f}", f"median; {int(seen.sum()):,} in all")
        few = (
            f"median {middle:.0f}; {100 * np.mean(seen < LEAST_DISKS):.1f} % of patterns have fewer than {LEAST_DISKS}"
            if seen.size
            else "none"
        )
        record.measure("peak_count", middle, few)
        if state.recipe.bragg.power < PHASE_CORRELATION:
            _compare_powers(state)
        if middle < LEAST_DISKS:
            record.warn(f"few Bragg disks: {middle:.0f} per pattern (median); a lattice needs three that do not lie on a line")

    def methods(self, state: RunState) -> str:
        options, template, counts = state["trial"].options, state["template"], np.asarray(state["braggvectors"].counts)
        power = options["power"]
        kind = {1.0: "cross-correlation", 0.0: "phase correlation"}.get(power, f"hybrid correlation (exponent {power:g})")
        pattern = " of a patterned probe [@zeltmann2020]" if template.kind == "own" else ""
        least = f"a Poisson significance of at least {options['min_significance']:g} σ" if options["min_significance"] else ""
        if options["min_relative_intensity"]:
            share = f"at least {options['min_relative_intensity']:g} of the height of the strongest disk"
            least = f"{least} and {share}" if least else share
        where = {
            "likelihood": "a Poisson maximum-likelihood fit of the counts", "correlation": "the maximum of the correlation",
            "upsample": f"the correlation, upsampled {options['upsample']} times", "parabola": "a parabola through the correlation",
        }.get(str(state["disk_search"].refinement), "the pixel of the maximum")  # fmt: skip
        return (
            f"Bragg disks were found in every pattern by {kind} [@pekin2017; @savitzky2021] with a template of {template.radius:.2f} px "
            f"radius{pattern} ({state['template_origin']}). Disks {f'with {least} ' if least else ''}were kept, and their positions come "
            f"from {where}: {int(counts.sum()):,} disks in all, {np.median(counts):.0f} per pattern (median)."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot
        from gpu4d.bragg.explain import explain_search

        counts, trial, template = np.asarray(state["braggvectors"].counts), state["trial"], state["template"]
        tried = counts[trial.positions[:, 0], trial.positions[:, 1]]
        rx, ry = (int(i) for i in trial.positions[int(np.argmin(np.abs(tried - np.median(tried))))])
        pattern = state.cube[rx, ry]
        found = explain_search(np.asarray(pattern), state["disk_search"])
        title = f"Position ({rx}, {ry}): accepted and rejected"
        caption = "A pattern with a typical number of disks: every maximum of the correlation map, and why it was accepted or rejected."
        yield Picture("disks", DISKS, title, caption), plot.disks(pattern, found, title, radius=template.radius)
        few = int((counts < LEAST_DISKS).sum())
        caption = (
            f"Bragg disks of every pattern; the guide recommends {COUNTS[0]} to {COUNTS[1]}, {few} patterns have fewer than {LEAST_DISKS}."
        )
        made = plot.histogram(counts, "Disks per pattern", label="Bragg disks", recommended=COUNTS)
        yield Picture("disk_counts", DISKS, "Disks per pattern", caption), made
        caption = f"The probe from which the template is made (radius {template.radius:.2f} px)."
        yield Picture("probe", DIFFRACTION, "Probe", caption), plot.diffraction(state["probe"], "Probe", scale="linear")

    def headline(self, state: RunState) -> str | None:
        return "Bragg disks were searched, but strain could not be measured: the warnings say why."

    def has_result(self, state: RunState) -> bool:
        """Return False: disks are what strain and orientations are made from, and no answer by themselves."""
        return False


def _compare_powers(state: RunState) -> None:
    """Say what phase correlation does at the positions of the trial: sharper maxima, and noise among them."""
    import gpu4d

    trial, power = state["trial"], state.recipe.bragg.power
    usual: SearchOptions = {**trial.options, "power": USUAL_POWER, "refine": None, "refine_power": USUAL_POWER}
    found = gpu4d.BraggDisks(state["template"], **usual).at(state.cube, trial.positions)
    here = np.asarray(state["braggvectors"].counts)[trial.positions[:, 0], trial.positions[:, 1]]
    ours, theirs = float(np.mean(here)), len(found) / max(len(trial.positions), 1)
    state.record.warn(
        f"bragg.power = {power:g} is near phase correlation, which sets all amplitudes equal: noise looks as sharp as a disk. At "
        f"{len(trial.positions)} trial positions it finds {ours:.1f} disks per pattern, {USUAL_POWER:g} finds {theirs:.1f}. Use "
        f"{USUAL_POWER:g} unless the data are free of noise"
    )
