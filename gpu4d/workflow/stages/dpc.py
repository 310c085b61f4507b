"""Compute the phase from the centre of mass (DPC)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.deflection.boundary import boundary_misfit
from gpu4d.errors import InputError
from gpu4d.workflow.picture import PHASE, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

CURL = 0.25  # largest share of the curl in curl² + divergence²; noise alone has half
CLEAR_ROTATION = 2.0  # times smaller curl than for the other transpose: a rotation with less is no key figure
BOUNDARY = 2.0  # times the misfit inside: largest misfit at the boundary


@dataclass
class DpcSettings:
    """Phase from the centre of mass."""

    lambda1: float = setting(
        0.0,
        "number",
        "Damps low spatial frequencies of the phase (a high pass).",
        units="(cycles per position)²",
        low=0,
        high=10,
        guide=(1e-4, 1e-2),
    )
    lambda2: float = setting(
        0.0,
        "number",
        "Damps high spatial frequencies of the phase (a low pass).",
        units="1/(cycles per position)²",
        low=0,
        high=1e6,
        guide=(1e-8, 1e-4),
    )


class Dpc(Stage):
    """Integrate the centre of mass to the phase of a thin object. Find the detector's rotation if it is not known."""

    name = "dpc"
    title = "DPC: rotation, integration"
    settings = DpcSettings
    section = "dpc"
    needs: ClassVar = ("com", "total", "technique")
    uses: ClassVar = ("adf", "disk", "shadow_rotation")
    makes: ClassVar = ("dpc", "dpc_phase", "dpc_com", "dpc_potential", "rotation")
    place: ClassVar = 20

    def wanted(self, state: RunState) -> Reason:
        technique = state["technique"]
        return yes(f"the technique is {technique}") if technique in ("dpc", "both") else no(f"the technique is {technique}")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        c, given, record = state.calibration, self.given(state), state.record
        with record.stage(self.title):
            try:
                found = gpu4d.dpc(
                    state["com"],
                    energy=c.energy,
                    q_pixel=c.q_pixel,
                    r_pixel=c.r_pixel,
                    rotation=c.rotation,
                    transpose=c.transpose,
                    dark_field=_dark_field(state),
                    lambda1=given.lambda1,
                    lambda2=given.lambda2,
                )
            except InputError as error:
                record.warn(f"no phase: {error}")
                return
        state.keep("dpc", found)
        for line in found.warnings:
            record.warn(f"dpc: {line}")
        turn = self._rotation(state, found)
        state.save("dpc_phase", found.phase)
        state.save("dpc_com", found.com)
        if found.potential is not None:
            state.save("dpc_potential", found.potential)
        phase = np.asarray(found.phase)
        low, high = np.nanpercentile(phase, (0.5, 99.5)) if np.isfinite(phase).any() else (np.nan, np.nan)
        record.figure("Range of the phase", f"{high - low:.3g} {found.phase.units}", "0.5 to 99.5 percentile")
        if found.curl is None or not found.curl.margin < CLEAR_ROTATION:
            record.figure("Detector rotation", turn, "found by least curl" if found.curl is not None else "given")
        _gates(state, found)

    def _rotation(self, state: RunState, found: Any) -> str:
        """Record the rotation of the detector. It goes into the calibration only if its sign is decided: 180° off would be wrong."""
        turn = f"{math.degrees(found.rotation):.1f}°{', detector axes exchanged' if found.transpose else ''}"
        if found.curl is None:
            state.record.note("; ".join(found.decisions))
            return turn
        state.record.decide(f"Rotation of the detector against the scan: {turn}", "; ".join(found.decisions))
        if found.curl.decided and found.sign is not None and found.sign.decided:
            how = "least curl of the centre of mass; 180° by the sign of the phase"
            state.calibration.set(rotation=found.rotation, transpose=found.transpose, how=how)
            state.keep("rotation", found.rotation)
        return turn

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        caption = "Phase from the integrated centre of mass, up to a constant. For a thin specimen it is σ times the projected potential."
        yield Picture("dpc_phase", PHASE, "Phase", caption), plot.image(state["dpc_phase"], "DPC phase", cmap="inferno")
        caption = "Centre of mass in scan axes, with the descan subtracted: hue is the direction, lightness the length."
        made = plot.com(state["dpc"].com, "Mean momentum transfer", remove_mean=False)
        yield Picture("com", PHASE, "Centre of mass", caption), made

    def headline(self, state: RunState) -> str | None:
        if "dpc" not in state:
            return None
        return (
            state.get("kind_of_data")
            or "A bright-field disk without separate Bragg disks: the phase was integrated from its centre of mass."
        )


def _dark_field(state: RunState) -> np.ndarray | None:
    """Return the share of electrons outside the bright-field disk. It grows with the amount of matter."""
    if "adf" not in state:
        return None
    total = np.asarray(state["total"], dtype=np.float64)
    return np.asarray(state["adf"], dtype=np.float64) / np.where(total > 0, total, np.nan)


def _gates(state: RunState, found: Any) -> None:
    """Check that the field is a gradient, and that the boundary causes no copies of the object."""
    if found.curl is not None:
        share = found.curl.curl[found.transpose]
        state.record.gate(
            "Curl of the centre of mass",
            share < CURL,
            f"{100 * share:.1f} % of curl² + divergence² at the best rotation",
            f"below {100 * CURL:g} %: noise alone has 50 %",
            "check for noise, a descan that is not a plane, or a specimen too thick for DPC",
        )
    misfit = boundary_misfit(found.phase, found.com, state.calibration.r_pixel or 1.0)
    state.record.gate(
        "Boundary of the phase",
        misfit < BOUNDARY,
        f"the misfit of ∇φ to the measured field is {misfit:.2f} times as large at the boundary as inside",
        f"below {BOUNDARY:g} times",
        "the phase may have copies of the object from the opposite edge: increase the padding, or add iterations",
    )
