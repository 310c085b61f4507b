"""Choose the method for the phase beside DPC, and find the aberrations of the probe for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d import physics
from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.ptychography import AberrationFit, fit_aberrations, parallax
from gpu4d.ptychography.experiment import COARSE, Experiment, experiment
from gpu4d.workflow.record import Record, measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

METHODS = {
    "ssb": "single-side-band ptychography",
    "wdd": "Wigner-distribution deconvolution",
    "parallax": "parallax",
    "ptychography": "iterative ptychography",
}
BLURRED = math.pi / 2  # rad: the largest change of the side bands' phase over a detector pixel, halfway to the limit 2 k₀
LEAST_RADIUS = 4.0  # px: smaller disks have too few pixels for side bands
LEAST_SHIFT = 1.0  # scan steps at the edge of the disk: by less, the images of bright-field pixels are not moved
TOLD = 3.0  # standard errors: smaller coefficients are not told by the data, and would carry noise into the phase
FOR_SHIFTS = 500  # pixels that tell how far images are shifted


@dataclass
class PhaseSettings:
    """Phase by side bands (SSB, WDD) and by aligned bright-field images (parallax)."""

    aberrations: bool | str = setting(
        "auto", "decision", "Fit the aberrations of the probe to the scan before SSB or WDD. auto does so unless a defocus is given.",
        tune="Switch it off for a probe that is known to be in focus and corrected: the fit needs a thin object and steps that resolve it.",
    )  # fmt: skip
    defocus: float | None = setting(
        None, "number", "Defocus, if it is known. Positive is underfocus. Other aberrations then count as zero.",
        units="Å", low=-1e7, high=1e7, automatic="fitted, or zero",
        tune="The sign matters: with the wrong one the phase is noise. Leave it out if you are not sure, and look at the fitted one.",
    )  # fmt: skip
    mode: str = setting(
        "weighted", "text", "Sum of the side bands for SSB: the weighted mean of all pixels, or the published means over double overlaps.",
        choices=("weighted", "exact"),
        tune="weighted has less noise. exact is for comparisons with published results.",
    )  # fmt: skip
    epsilon: float = setting(
        0.003, "number", "Damps frequencies that few pixels measure. Larger values give a smoother, smaller phase.", low=0, high=1,
        guide=(1e-3, 1e-1), tune="Raise it for few counts until the noise of high frequencies is bearable.",
    )  # fmt: skip
    upsample: int | None = setting(
        None, "whole", "Samples of the parallax image along one scan step.", low=1, high=16,
        automatic="2 where the steps are coarser than λ / (4α), else 1",
        tune="More than the defocus moves the images apart gives no finer detail.",
    )  # fmt: skip


class Aberrations(Stage):
    """Choose a method, and fit the aberrations."""

    name = "aberrations"
    title = "aberrations and method for the phase"
    guide: ClassVar = ("T",)
    settings = PhaseSettings
    section = "phase"
    needs: ClassVar = ("technique", "total")
    uses: ClassVar = ("dpc", "rotation", "shadow_rotation", "disk", "mean_pattern", "positions")
    makes: ClassVar = ("phase_method", "aberration_fit", "probe_aberrations")
    cites: ClassVar = ("yang2016",)
    place: ClassVar = 19

    def check(self, state: RunState) -> None:
        """Refuse a method whose optics are not known."""
        asked = state.recipe.analysis.technique
        if asked in METHODS and (missing := _missing(state.calibration)):
            flags = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise InputError(
                f"technique {asked} needs {', '.join(missing)} of the scan: give {flags}, or the section [calibration] of a recipe"
            )

    def wanted(self, state: RunState) -> Reason:
        technique = state["technique"]
        if technique in METHODS:
            return yes(f"the technique is {technique}")
        if technique != "dpc" or state.recipe.analysis.technique != "auto":
            return no(f"the technique is {technique}")
        if missing := _missing(state.calibration):
            return no(f"side bands and parallax need {', '.join(missing)}")
        return yes("a bright-field disk without Bragg disks: side bands may give a better phase than its centre of mass")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record, technique = state.record, state["technique"]
        with record.stage(self.title):
            try:
                known = experiment(state.cube, **turn_of(state), sweep_options=options_of(state))
                method, why = self._choose(state, known) if technique == "dpc" else (technique, "asked for")
                if method in ("ssb", "wdd", "ptychography"):
                    state.keep("probe_aberrations", self._aberrations(state))
            except InputError as error:
                record.warn(f"no phase beside DPC: {error}")
                return
        if method != "dpc":
            record.decide(f"Phase by {METHODS[method]}", why)
        else:
            record.decide("Phase by the centre of mass alone", why)
        state.keep("phase_method", method)

    def _choose(self, state: RunState, known: Experiment) -> tuple[str, str]:
        """Return the method that suits the steps, the pixels and the defocus, and why."""
        limit = 1 / (4 * known.radius * known.q_pixel)
        if known.radius < LEAST_RADIUS:
            return "dpc", f"the bright-field disk has a radius of {known.radius:.1f} px: side bands need {LEAST_RADIUS:g} px"
        if known.r_pixel > COARSE * limit:
            return self._by_shifts(state, known, f"the step of {known.r_pixel:.3g} Å is coarser than λ/(4α) = {limit:.3g} Å")
        fine = f"the step of {known.r_pixel:.3g} Å is at most λ/(4α) = {limit:.3g} Å, so that disks overlap up to 2α"
        defocus = self._defocus(state)
        change = 2 * math.pi * known.radius * known.q_pixel**2 * abs(defocus) * physics.wavelength(known.energy)
        if change > BLURRED:
            why = f"a defocus of {defocus:.4g} Å turns the phase of a side band by {change:.2g} rad from pixel to pixel: too fast for SSB"
            return self._by_shifts(state, known, why)
        return "ssb", f"{fine}; the defocus of {defocus:.3g} Å changes the phase by {change:.2g} rad a pixel (at most {BLURRED:.2g})"

    def _by_shifts(self, state: RunState, known: Experiment, why: str) -> tuple[str, str]:
        """Return parallax if the images of bright-field pixels are moved against each other, else DPC."""
        with state.record.trial():  # if parallax is taken, its own stage warns
            found = parallax(state.cube, refine=False, pixels=FOR_SHIFTS, **turn_of(state), **options_of(state))
        if found.largest < LEAST_SHIFT or not found.clear:
            return "dpc", f"{why}; images of bright-field pixels are not clearly moved against each other"
        return (
            "parallax",
            f"{why}; bright-field images are moved by up to {found.largest:.2g} steps, scattered by {found.scatter:.2g}",
        )

    def _defocus(self, state: RunState) -> float:
        """Return the defocus that is given or fitted, Å."""
        given = self.given(state)
        if given.defocus is not None:
            return given.defocus
        return 0.0 if given.aberrations is False else -self._fit(state).aberrations["C10"]

    def _aberrations(self, state: RunState) -> dict[str, float]:
        """Return Krivanek coefficients of the probe: given, fitted, or none."""
        given = self.given(state)
        if given.defocus is not None:
            state.record.decide(f"Aberrations: defocus {given.defocus:.4g} Å", "given (phase.defocus)")
            return {"C10": -given.defocus}
        if given.aberrations is False:
            state.record.decide("Aberrations: none", "asked for (phase.aberrations)")
            return {}
        found = self._fit(state)
        said = ", ".join(f"{name} {measured(value, found.errors[name])}" for name, value in found.aberrations.items())
        state.record.decide(f"Aberrations: {said} (Å, rad)", "; ".join(found.decisions))
        state.record.figure("Defocus", f"{measured(-found.aberrations['C10'], found.errors['C10'])} Å", found.sign)
        if in_counts(state.cube.dtype, np.asarray(state["total"])):
            side_bands_gate(state.record, found)
        return found.aberrations

    def _fit(self, state: RunState) -> AberrationFit:
        """Fit the aberrations once, and keep the fit."""
        if "aberration_fit" not in state:
            options = {**turn_of(state), **options_of(state)}
            found = fit_aberrations(state.cube, **options)
            sizes = {name: value for name, value in found.aberrations.items() if name.startswith("C")}
            clear = [name for name, value in sizes.items() if name == "C10" or abs(value) > TOLD * found.errors[name]]
            if len(clear) < len(sizes):
                found = fit_aberrations(state.cube, coefficients=clear, **options)
                left = ", ".join(name for name in sizes if name not in clear)
                found.decisions.append(f"{left} count as zero: not larger than {TOLD:g} standard errors")
            state.keep("aberration_fit", found)
        return state["aberration_fit"]

    def methods(self, state: RunState) -> str:
        fit = state.get("aberration_fit")
        if fit is None:
            return ""
        said = ", ".join(f"{name} = {measured(value, fit.errors[name])}" for name, value in fit.aberrations.items() if name.startswith("C"))
        return f"Aberrations were fitted to the phases of the side bands [@yang2016]: {said} Å."


def _missing(c: Calibration) -> list[str]:
    """Name the values of the optics that are not known. One of semi-angle and detector pixel gives the other."""
    missing = [name for name in ("energy", "r_pixel") if getattr(c, name) is None]
    return missing + ["semiangle"] * (c.semiangle is None and c.q_pixel is None)


def side_bands_gate(record: Record, fit: AberrationFit) -> None:
    """Check that the fitted aberrations explain what the side bands of the scan show."""
    share = 100 * fit.explained
    said = f"{share:.0f} % explained (all power, with noise: {100 * fit.coherence:.0f} %; χ² of {fit.misfit:.3g} a pair)"
    record.measure("side_bands", share, said)


def reason_for(state: RunState, method: str) -> Reason:
    """Say whether a stage's method was chosen for the phase, and which was."""
    chosen = state["phase_method"]
    return (yes if chosen == method else no)(f"the phase is by {METHODS.get(chosen, 'DPC alone')}")


def turn_of(state: RunState) -> dict[str, Any]:
    """Return rotation and transpose of the detector: of the calibration, or as DPC found them.

    DPC writes a rotation into the calibration only if its sign is sure. Half a turn changes the sign of the phase and of the defocus.
    """
    if state.calibration.rotation is not None or "dpc" not in state:
        return {}
    return {"rotation": state["dpc"].rotation, "transpose": state["dpc"].transpose}


def options_of(state: RunState) -> dict[str, Any]:
    """Return options of `gpu4d.sweep`: the recipe's device and memory, and the positions to use.

    Methods with these options hold patterns, or images of single pixels, where they compute. So they read in this process.
    """
    return {**state.sweep_options, "where": state.where, "client": None}
