"""Find orientation and phase of the crystal at every position, if the recipe names structures."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.structures import STANDARDS, Structure
from gpu4d.workflow.picture import ORIENTATION, Drawn, Picture
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.structure_names import structure_named

ANG = "orientation.ang"  # name of the file for programs of EBSD
EXPLAINED = 0.6  # of the disks' √intensity: an orientation whose reflections hold less is not counted as found
CLEAR = 5.0  # nats (differences of log likelihood): the next best orientation is then at least 150 times less likely
SAME_PIXEL = 0.01  # relative: orientations need the pixel size to 1 %
SEARCHED = 0.12  # relative: pixel sizes within this of the calibration's are tried, as `fit_peaks` does
SURE_PIXEL = 2.0  # standard errors of a pixel size within which the reflections may correct it
WEAK_DISKS = 4.0  # largest threshold of significance in the search of disks with which patterns may decide between look-alikes
MOST_MARGIN = 30.0  # nats: top of the colour scale; a larger margin makes the answer no surer
NEEDED = "pip install 'gpu4d[crystal]'"  # for gemmi


@dataclass
class OrientationSettings:
    """Orientations and phases of crystals. Nothing is done without structures: no material is guessed."""

    structures: list[str] | None = setting(
        None, "names", "Structures to compare: names of standards, or CIF files, as a list.", choices=tuple(STANDARDS),
        automatic="no orientations",
        tune="Name all phases that may be there, and no others: more look-alikes make every answer less sure.",
    )  # fmt: skip
    thickness: float | None = setting(
        None, "number", "Thickness of the crystal along the beam.", units="Å", low=5, high=5000,
        automatic="the one from 15 to 300 Å that explains a sample best",
        tune="Give it if it is known: it decides how far from the Ewald sphere reflections shine.",
    )  # fmt: skip
    intensity_error: float = setting(
        0.2, "number", "Relative error of kinematical intensities. Thick crystals need more, 0.5 or so.", low=0, high=2,
        tune="Too small a value lets dynamical intensities decide between look-alikes.",
    )  # fmt: skip
    step_degrees: float = setting(
        1.0, "number", "Distance of zone axes in the library. 2 is three times as fast. It misses some look-alikes, so that margins come "
        "out too large.", units="degrees", low=0.5, high=10,
        tune="Take 2 for a first look. A finer step finds more look-alikes and takes longer. Each orientation is refined in any case.",
    )  # fmt: skip
    min_disks: int = setting(
        4, "whole", "Patterns with fewer disks have no orientation.", low=2, high=1000,
        tune="With fewer than four disks several zone axes always fit.",
    )  # fmt: skip
    overlaps: bool = setting(
        True,
        "switch",
        "Look for a second grain at every position.",
        tune="Set it to false for large single grains, which saves time.",
    )
    patterns: str | bool = setting(
        "auto", "decision", "Compare look-alikes by the counts in the patterns. auto: if the values are counts, and disks were searched "
        "down to a significance of 4.",
        tune="Set it to true if look-alikes remain and patterns have enough counts. It reads the scan once more.",
    )  # fmt: skip
    ang: bool = setting(
        True,
        "switch",
        f"Write {ANG} into the result folder, for orix, MTEX and programs of EBSD.",
        tune="Set it to false if no other program reads orientations.",
    )


class Orientation(Stage):
    """Find which orientation of which named structure explains the disks of every pattern."""

    name = "orientation"
    title = "orientations and phases"
    guide: ClassVar = ("Q",)
    settings = OrientationSettings
    section = "orientation"
    needs: ClassVar = ("braggvectors", "origin", "template")
    uses: ClassVar = ("rotation", "shadow_rotation", "ellipse", "unusable", "total", "trial")
    makes: ClassVar = ("orientations", "orientation_misfit")
    compiles: ClassVar = ("orientations",)
    rests_on: ClassVar = ("q_pixel",)
    cites: ClassVar = ("ophus2022",)
    place: ClassVar = 8

    def check(self, state: RunState) -> None:
        """Read the structures before the work: a file that is not there should not cost a run."""
        if self.given(state).structures:
            if find_spec("gemmi") is None:
                raise InputError(f"orientation.structures needs gemmi for crystal structures: {NEEDED}")
            for name in self.given(state).structures:
                structure_named(name)

    def wanted(self, state: RunState) -> Reason:
        """Run if structures are named, and pixel size and energy are known."""
        names = self.given(state).structures
        if not names:
            return no("no structure is named: give --structure Au, or a CIF file; no material is guessed")
        lacking = [flag for field, flag in (("q_pixel", "--q-pixel"), ("energy", "--energy")) if not getattr(state.calibration, field)]
        if lacking:
            why = f"the orientation needs {' and '.join(lacking)}, or --calibration from a standard"
            state.record.warn(f"no orientations: {why}")
            return no(why)
        return yes(f"the recipe names {', '.join(Path(name).stem if os.path.isabs(name) else name for name in names)}")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        from gpu4d.orientation import match_orientations, orientation_misfit

        given, record = self.given(state), state.record
        structures = [structure_named(name) for name in given.structures]
        disks, origin = state["braggvectors"], state["origin"].fitted
        calibration = self._pixel(state, structures)
        seen = np.ones(state.cube.scan_shape, bool) if state.where is None else np.asarray(state.where)
        if (unusable := state.get("unusable")) is not None:
            seen = seen & ~np.asarray(unusable)
        with record.stage(self.title):
            start = time.perf_counter()
            try:
                found = match_orientations(
                    disks, structures, calibration=calibration, origin=origin, disk_radius=state["template"].radius,
                    thickness=given.thickness, step=math.radians(given.step_degrees), intensity_error=given.intensity_error,
                    min_peaks=given.min_disks, overlaps=given.overlaps, patterns=state.cube if self._by_counts(state) else None, where=seen,
                )  # fmt: skip
            except InputError as error:
                record.warn(f"no orientations: {error}")
                return
            seconds = time.perf_counter() - start
            misfit = orientation_misfit(disks, found, calibration=calibration, origin=origin)
        for line in found.warnings:
            record.warn(f"orientations: {line}")
        self._keep(state, found, misfit, calibration.require("q_pixel"))
        good = _explained(found, misfit)
        _figures(state, found, good, seconds)
        _gates(state, found, good, int((seen & (np.asarray(disks.counts) > 1)).sum()))

    def _by_counts(self, state: RunState) -> bool:
        """Return True if the patterns are to be read again, so that counts decide between orientations with nearly the same disks."""
        asked = self.given(state).patterns
        if asked != "auto":
            return bool(asked)
        weak = state["trial"].options["min_significance"] <= WEAK_DISKS if "trial" in state else False
        return weak and in_counts(state.cube.dtype, state["total"])

    def _pixel(self, state: RunState, structures: list[Structure]) -> Calibration:
        """Compare the pixel size with the distances of the disks, and return the calibration for the match.

        If one structure is named, a pixel size with a standard error is replaced by that of the reflections where they agree within it:
        from the radius of the disk it is known to several per cent, and orientations need 1 %. With several structures this would take
        the answer for granted.
        """
        c, record, known = state.calibration, state.record, state.calibration.require("q_pixel")
        fits = {s.name: fit for s in structures if (fit := _pixel_of(state, s)) is not None}
        error = c.q_pixel_error or 0.0
        if not fits:
            said = f"the distances of the disks are not those of {', '.join(s.name for s in structures)} within {100 * SEARCHED:g} %"
            advice = f"is the structure the right one, and the pixel size known to {100 * SEARCHED:g} %?"
            record.measure("pixel_structure", 100 * SEARCHED, said, advice=advice)
            return c
        name, fit = min(fits.items(), key=lambda one: abs(one[1].q_pixel / known - 1))
        for line in fit.warnings:
            record.warn(f"pixel size from {name}: {line}")
        possible = [fit.q_pixel] if fit.sure else [fit.q_pixel, *(rival.q_pixel for rival in fit.rivals)]
        off = min((q - known for q in possible), key=abs)
        sure = error > 0 and abs(off) < SURE_PIXEL * math.hypot(error, fit.q_pixel_error)
        said = f"{measured(known, error)} Å⁻¹ by the calibration; " + "; ".join(
            f"the reflections of {other} give {measured(one.q_pixel, one.q_pixel_error)} Å⁻¹, {100 * (one.q_pixel / known - 1):+.2f} %"
            for other, one in fits.items()
        )
        corrected = len(structures) == 1 and fit.sure and sure and abs(off) > SAME_PIXEL * known
        if corrected:
            record.decide(
                f"Detector pixel for the orientations: {measured(fit.q_pixel, fit.q_pixel_error)} Å⁻¹",
                f"that of the reflections of {name}; {measured(known, error)} Å⁻¹ agrees within its error, and is not known to "
                f"{100 * SAME_PIXEL:g} %, as orientations need it",
            )
            c = c.only(c.known())
            c.set(q_pixel=fit.q_pixel, q_pixel_error=fit.q_pixel_error, how=f"reflections of {name}")
        record.measure("pixel_structure", 0.0 if corrected else 100 * off / known, said)
        return c

    def _keep(self, state: RunState, found: Any, misfit: Any, q_pixel: float) -> None:
        """Store orientations, phases, margins and misfits, for other stages and in the result file."""
        state.keep("orientations", found)
        state.keep("orientation_misfit", misfit)
        state.products.update((f"orientation_{name}", part) for name, part in found.to_emd().items())
        step = found.r_pixel
        for name, values, units in (("distance", misfit.distance / q_pixel, "px"), ("explained", misfit.explained, "share")):
            state.products[f"orientation_{name}"] = RealSlice.calibrated(values, f"orientation {name}", units, step)
        about = {"structures": [s.name for s in found.structures], "thickness_A": list(found.thickness), "axes": found.axes}
        state.products["orientation_about"] = about

    def files(self, state: RunState, folder: Path) -> None:
        from gpu4d.orientation import save_ang

        if self.given(state).ang:
            save_ang(state["orientations"], folder / ANG)

    def methods(self, state: RunState) -> str:
        found = state.get("orientations")
        if found is None:
            return ""
        names = ", ".join(structure.name for structure in found.structures)
        return (
            f"Orientations of {names} were found by matching the disks of every pattern with kinematical patterns on a grid of "
            f"{self.given(state).step_degrees:g}° [@ophus2022], and then refined."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        found, misfit = state["orientations"], state["orientation_misfit"]
        several = len(found.structures) > 1
        if several:
            caption = "Which structure explains the disks of each position best. Grey: none, or too few disks."
            labels = RealSlice.calibrated(found.phase.astype(np.float64), "phase", "1", found.r_pixel)
            yield Picture("phase", ORIENTATION, "Phases", caption), plot.label_map(labels, [s.name for s in found.structures], "Phases")
        axes = "of the scan" if found.axes == "scan" else "of the detector, because its rotation against the scan is not calibrated"
        for number, structure in enumerate(found.structures):
            if not (found.phase == number).any():
                continue
            only = f", {structure.name}" if several else ""
            for direction, letter, where in (((0.0, 0.0, 1.0), "z", "beam (z)"), ((1.0, 0.0, 0.0), "x", "x")):
                caption = f"Crystal direction of {structure.name} along {where}, in the colours of the sector beside the map"
                caption += f" (inverse pole figure). x is the first axis {axes}. " if letter == "x" else " (inverse pole figure). "
                caption += "Dots: another orientation explains the pattern nearly as well. Grey: no orientation."
                if several:
                    caption += " Positions of other phases are grey too."
                made = plot.orientation_map(found, direction, f"Direction along {where}{only}", phase=number if several else None)
                name = f"ipf_{letter}" + (f"_{number}" if several else "")
                yield Picture(name, ORIENTATION, f"Orientation along {where}{only}", caption), made
        yield from _trust(state, found, misfit)

    def headline(self, state: RunState) -> str | None:
        found = state["orientations"]
        good = _explained(found, state["orientation_misfit"])
        seen, count = max(state.patterns, 1), int(good.sum())
        parts = [f"{s.name} at {_percent((good & (found.phase == k)).sum(), seen)}" for k, s in enumerate(found.structures)]
        text = f"Orientations of {', '.join(parts)} of the positions"
        if count:
            unsure = _percent((good & found.ambiguous).sum(), count)
            text += f"; at {unsure} of them another orientation explains the disks nearly as well"
        if poor := int((found.grain.found & ~good).sum()):
            text += f". At {_percent(poor, seen)} the best one leaves most disks unexplained: more grains than two, or another phase"
        return f"{text}."


def _pixel_of(state: RunState, structure: Structure) -> Any:
    """Return the fit of pixel size and ellipse to the reflections of one structure. None if the disks do not fit it."""
    import gpu4d

    c, disks, origin = state.calibration, state["braggvectors"], state["origin"].fitted
    try:
        return gpu4d.calibrate.fit_peaks(disks, structure, origin=origin, where=state.where, q_pixel=c.q_pixel, energy=c.energy)
    except InputError as error:
        state.record.note(f"pixel size from {structure.name}: {error}")
        return None


def _explained(found: Any, misfit: Any) -> np.ndarray:
    """Return where an orientation explains enough of the disks to count as found, (Rx, Ry) bool."""
    return np.asarray(found.grain.found & (np.nan_to_num(misfit.explained) > EXPLAINED))


def _percent(part: Any, whole: int) -> str:
    return f"{100 * int(part) / max(whole, 1):.0f} %"


def _figures(state: RunState, found: Any, good: np.ndarray, seconds: float) -> None:
    """Record how many positions have an orientation, of which structures, and how exact it is. `good`: where it counts as found."""
    grain, record = found.grain, state.record
    each = ", ".join(f"{s.name} {_percent((good & (grain.phase == k)).sum(), int(good.sum()))}" for k, s in enumerate(found.structures))
    thick = ", ".join(f"{t:.3g} Å" for t in found.thickness)
    two = int((good & found.second.found).sum())
    record.figure("Orientations", f"{int(good.sum()):,} positions", f"{each}; two grains at {two:,}; thickness {thick}")
    error = np.degrees(np.where(good, grain.error, np.nan))
    if np.isfinite(error).any():
        remark = "median standard error from positions and intensities of the disks; dynamical scattering adds to it"
        record.figure("Error of an orientation", f"± {np.nanmedian(error):.2g}°", remark)
    record.note(f"orientations: {grain.found.sum() / max(seconds, 1e-9):,.0f} positions/s with the library")


def _gates(state: RunState, found: Any, good: np.ndarray, crystal: int) -> None:
    """Check how many patterns have an orientation, how near the disks lie to its reflections, and how much better it is than the next.

    `good`: where an orientation counts as found. `crystal`: number of positions with a disk beside the unscattered one.
    """
    grain, record = found.grain, state.record
    share = int(good.sum()) / max(crystal, 1)
    said = f"{100 * min(share, 1.0):.1f} % of {crystal:,} positions with diffracted disks have an orientation that explains "
    record.measure("indexed_share", 100 * min(share, 1.0), f"{said}{100 * EXPLAINED:g} % of their √intensity")
    radius, distance = state["template"].radius, np.asarray(state.products["orientation_distance"])
    middle = float(np.median(distance[np.isfinite(distance)])) if np.isfinite(distance).any() else math.nan
    said, advice = f"{middle:.2f} px rms from the reflections (median)", "check the pixel size, the elliptical distortion and the structure"
    record.measure("sharpness", middle / radius, said, name="Disks on their reflections", advice=advice)
    margin = grain.margin[grain.found]
    unsure = float(grain.ambiguous.sum() / max(int(grain.found.sum()), 1))
    typical = float(np.median(margin)) if margin.size else math.nan
    said = f"{_nats(typical)} (median); {100 * unsure:.0f} % of the positions are ambiguous (below {CLEAR:g})"
    record.measure("orientation_margin", typical, said)


def _nats(margin: float) -> str:
    return "no other orientation explains the disks" if margin == math.inf else f"{margin:.1f} nats to the next orientation"


def _trust(state: RunState, found: Any, misfit: Any) -> Iterator[Drawn]:
    """Draw the margin to the next orientation, and how well each orientation explains its disks."""
    from gpu4d import plot

    step = found.r_pixel
    margin = np.where(found.grain.found, np.minimum(found.grain.margin, MOST_MARGIN), np.nan)
    caption = (
        f"How much better the orientation explains the pattern than the next one, as log likelihood ratio; {MOST_MARGIN:g} and more are "
    )
    caption += f"one colour. Below {CLEAR:g} the position is ambiguous: the two orientations look alike."
    made = plot.image(RealSlice.calibrated(margin, "margin", "nat", step), "Margin to the next orientation", cmap="viridis",
                      limits=(0.0, MOST_MARGIN))  # fmt: skip
    yield Picture("orientation_margin", ORIENTATION, "Margin to the next orientation", caption), made
    caption = "Share of the disks' √intensity that lies on reflections of the orientations found there. Low where another phase, a further "
    caption += "grain or a wrong pixel size leaves disks unexplained."
    made = plot.image(RealSlice.calibrated(misfit.explained, "explained", "share", step), "Explained share of the disks", cmap="viridis",
                      limits=(0.0, 1.0))  # fmt: skip
    yield Picture("orientation_explained", ORIENTATION, "Explained share of the disks", caption), made
    caption = (
        "How far disks lie from the reflections that explain them, rms. High where the crystal is strained or bent, or grains overlap."
    )
    distance: Any = state.products["orientation_distance"]
    made = plot.image(distance, "Distance of disks from their reflections", cmap="viridis")
    yield Picture("orientation_misfit", ORIENTATION, "Distance of disks from their reflections", caption), made
