"""Choose the technique: the one the recipe names, or the one the data suggest."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.arrays import to_numpy
from gpu4d.crystal.technique import LEAST_DISKS, LEAST_SHARE, Suggestion, of_ring, suggest_technique
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.preprocess.kind import is_flat, raw_frames
from gpu4d.rings.find_ring import Ring, find_ring
from gpu4d.workflow.guide.scenarios import NAMES as SCENARIOS
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage

NEAR_BEAM = 4.0  # px around the brightest place in which no ring is looked for: the beam is there, also if it has no measurable disk
STEPS_OF_A_FRINGE = 2  # scan steps in the spacing of lattice planes, with which a scan resolves it
TRIED = 8  # patterns that are looked at where no disk was found
DEFLECTION = ("dpc", "both", "magnetic", "parallax", "ssb", "wdd", "ptychography")  # techniques that use the deflection of the beam
RINGS = ("amorphous", "images")  # techniques of scans whose mean pattern may have a ring


@dataclass
class AnalysisSettings:
    """Choice of the technique."""

    technique: str = setting(
        "auto", "text", "Technique beside the images: strain from Bragg disks; phase from the centre of mass (dpc), with ssb, wdd, "
        "parallax, ptychography or a magnetic map beside it; bragg and dpc both; amorphous: radial statistics, distances of atoms, "
        "fluctuations and strain from a diffuse ring; or none. auto decides from the data and says why.",
        choices=("auto", "bragg", *DEFLECTION, "amorphous", "images"),
        tune="Leave it at auto if you are not sure. `gpu4d recipe new --for` writes a recipe for one purpose.",
    )  # fmt: skip
    scenario: list[str] | None = setting(
        None, "words", "Scenarios of the guide. Their adjustments are made to settings that the recipe does not give.", choices=SCENARIOS,
        table="17.7", automatic="none", tune="The report says which settings a scenario changed, and what no setting can do.",
    )  # fmt: skip
    trial_positions: int = setting(
        36, "whole", "Positions at which Bragg disks are tried before deciding.", low=1, high=4096,
        tune="More finds a lattice that a small part of the scan has.",
    )  # fmt: skip


class Technique(Stage):
    """Choose between strain, phase and images alone, and record why."""

    name = "technique"
    title = "choice of the technique"
    guide: ClassVar = ("R", "S", "T")
    settings = AnalysisSettings
    section = "analysis"
    needs: ClassVar = ("mean_pattern",)
    uses: ClassVar = ("trial", "disk", "template", "template_origin", "vacuum_template", "unusable")
    makes: ClassVar = ("technique", "kind_of_data", "ring")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record, trial, template = state.record, state.get("trial"), state.get("template")
        technique, sentence, ring = "images", "", None
        asked = self.given(state).technique
        if asked != "auto":
            technique = asked
            record.decide(f"Technique: {asked}", f"asked for ({state.recipe.given.get('analysis.technique', 'recipe')})")
            if asked in ("bragg", "both") and template is None:
                technique = "dpc" if asked == "both" else "images"
                record.warn("no Bragg disks: without a bright-field disk or a given probe there is no template to search with")
            if technique in RINGS:
                ring = ring_of(state)
            if technique == "amorphous" and ring is None:
                technique = "images"
                record.warn("no amorphous methods: the mean pattern has no even ring")
        else:
            ring = ring_of(state)
            if trial is not None and "disk" in state:  # without one in the mean pattern, that of a given probe (stage "calibration")
                patterned, probe_known = template.kind == "own", "vacuum_template" in state and not _shows_fringes(state)
                seen = trial.counts, trial.lattice, template.radius, state.cube.scan_shape
                suggested = suggest_technique(*seen, ring, patterned, probe_known)
            else:
                suggested = _without_disk(state) if ring is None else of_ring(ring)
            technique, what, why, sentence = _for_orientations(state, suggested)
            record.decide(what, why)
        if technique in ("bragg", "both"):
            asked_for = state.given_probe is not None or state.recipe.probe.vacuum_region is not None
            known = "asked for" if asked_for else "no probe was given"
            record.decide(
                f"Probe: {state['template_origin']}", f"{known}; template of radius {template.radius:.2f} px, {template.kind} trench"
            )
        state.keep("technique", technique)
        state.keep("kind_of_data", sentence)
        if technique in RINGS and ring is not None:
            state.keep("ring", ring)


def _shows_fringes(state: RunState) -> bool:
    """Return True if steps are so fine that overlapping disks show the fringes of the lattice planes. Then they hold the phase."""
    c, lattice = state.calibration, state["trial"].lattice
    if lattice is None or not c.q_pixel or not c.r_pixel:
        return False
    spacing = 1 / (c.q_pixel * min(lattice.lengths))
    if fine := c.r_pixel <= spacing / STEPS_OF_A_FRINGE:
        planes = f"a step of {c.r_pixel:.3g} Å resolves lattice planes of {spacing:.3g} Å"
        state.record.note(f"{planes}: where disks overlap, patterns hold the phase, and strain is not chosen")
    return fine


def _for_orientations(state: RunState, suggested: Suggestion) -> Suggestion:
    """Return Bragg disks instead of images alone if structures are named and patterns have disks.

    Orientations of grains need no lattice that the whole scan shares.
    """
    trial = state.get("trial")
    if suggested.technique not in RINGS or not state.recipe.orientation.structures or trial is None or state.get("template") is None:
        return suggested
    if np.mean(trial.counts >= LEAST_DISKS) < LEAST_SHARE:
        return suggested
    return Suggestion("bragg", "Bragg disks, for orientations", f"structures are named; {suggested.why}")


def ring_of(state: RunState) -> Ring | None:
    """Find a ring in the mean pattern, about the bright-field disk or, without one, about the brightest place."""
    mean, disk = np.asarray(state["mean_pattern"], dtype=np.float64), state.get("disk")
    start = NEAR_BEAM if disk is None else max(1.5 * disk.radius, disk.radius + 3)
    return find_ring(mean, beam_of(state), start, state.cube.detector_mask)


def beam_of(state: RunState) -> tuple[float, float]:
    """Return the centre of the bright-field disk or, without one, the brightest place of the mean pattern, pixels."""
    if (disk := state.get("disk")) is not None:
        return disk.qx, disk.qy
    mean = np.asarray(state["mean_pattern"], dtype=np.float64)
    x, y = np.unravel_index(int(np.nanargmax(mean)), mean.shape)
    return float(x), float(y)


def _without_disk(state: RunState) -> Suggestion:
    """Return images alone, and what the scan seems to be, if its mean pattern has neither a whole bright-field disk nor a ring."""
    mean, none = np.asarray(state["mean_pattern"], dtype=np.float64), "the mean pattern has no whole bright-field disk"
    seen = np.ones(state.cube.scan_shape, bool) if state.where is None else state.where
    frames = to_numpy(patterns_at(state.cube, grid_positions(seen & ~state["unusable"], TRIED)))
    if raw_frames(frames, mean):
        return Suggestion(
            "images", "Images only: raw frames of a counting detector",
            f"{none}; single electrons stand out of a level of {np.nanmedian(mean):.3g} at other pixels in each pattern",
            "Raw frames of a counting detector, in which single electrons are not yet counted: count them first "
            "(gpu4d.preprocess.count_scan). Virtual images of the raw frames were made.",
        )  # fmt: skip
    if is_flat(mean, state.patterns):
        return Suggestion(
            "images", "Images only: an empty scan", f"{none}; its pixels differ by no more than noise",
            "An empty scan: the detector shows an even background, and no beam.",
        )  # fmt: skip
    return Suggestion("images", "Images only", none, "No bright-field disk was found in the mean pattern, so only images were made.")
