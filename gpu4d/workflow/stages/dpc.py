"""Compute the phase from the centre of mass (DPC)."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d import physics
from gpu4d.deflection import CenterOfMassVariance, boundary_misfit, share_outside
from gpu4d.deflection.result import DPC
from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.workflow.inputs import region_mask
from gpu4d.workflow.picture import PHASE, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.stages.technique import DEFLECTION

CLEAR_ROTATION = 2.0  # times smaller curl than for the other transpose: a rotation with less is no key figure


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
        table="17.6",
        tune="Frequencies below √λ₁ are damped: raise it until clouds from noise and descan vanish. Everything larger than 1/√λ₁ "
        "positions goes "
        "with them.",
    )
    lambda2: float = setting(
        0.0,
        "number",
        "Damps high spatial frequencies of the phase (a low pass).",
        units="1/(cycles per position)²",
        low=0,
        high=1e6,
        guide=(1e-8, 1e-4),
        table="17.6",
        tune="Frequencies above 1/√λ₂ are damped, so that values below 1 change nothing that a scan resolves. Integration damps noise of "
        "high "
        "frequencies by itself.",
    )
    thickness: float | None = setting(
        None, "number", "Thickness of the specimen. Only if it is known and small is the phase called a potential. Fields are in V/Å then.",
        units="Å", low=0.1, high=1e7, automatic="not known: the result is called pseudo-DPC",
        tune="Give it only if it was measured. A specimen thicker than 1.7 λ/α² is no projection.",
    )  # fmt: skip
    bragg_angle: float | None = setting(
        None, "number", "Smallest Bragg angle of a crystal, λ / 2d: smaller than the semi-angle for a potential.",
        units="mrad", low=1e-3, high=200, automatic="from the lattice, where one is found",
        tune="It matters only if the phase shall show the lattice.",
    )  # fmt: skip
    descan: str = setting(
        "auto", "text", "What is subtracted of the centre of mass: a plane, its mean, nothing, or a plane only where it is clear of the "
        "specimen.", choices=("auto", "plane", "mean", "none"),
        tune="plane removes a field that grows across the whole scan, too: give field_free, or take mean, for a junction that fills it.",
    )  # fmt: skip
    field_free: list[int] | None = setting(
        None, "region", "Region [rx0, rx1, ry0, ry1] without a field, such as vacuum. The descan is fitted there.", low=0,
        automatic="the descan is fitted to the whole scan",
        tune="Take vacuum, or the ends of a device that carry no field, at two sides of the scan.",
    )  # fmt: skip
    boundary: str = setting(
        "mirror", "text", "Edges of the scan: mirror solves at once with free edges, padded iterates on a larger grid as the guide does.",
        choices=("mirror", "periodic", "padded"),
        tune="mirror is right for a scan that is a part of something larger, periodic for a whole number of cells. padded is for "
        "comparisons.",
    )  # fmt: skip
    padding_factor: float = setting(
        2.0, "number", "Size of the larger grid of padded over that of the scan.", low=1, high=8, guide=(2.0, 4.0),
        table="17.6", tune="More leaves smaller ghosts of the opposite edge, and takes more time. Only padded uses it.",
    )  # fmt: skip
    max_iterations: int = setting(
        25, "whole", "Most iterations of padded.", low=1, high=1000, guide=(10, 25), table="17.6",
        tune="Look at the picture “Convergence of the phase”: stop where the curve is flat. A slope over the whole scan needs more than "
        "ten.",
    )  # fmt: skip


class DpcErrors(Stage):
    """Measure the variance of the centre of mass from the counts, in the pass of the images."""

    name = "dpc_errors"
    title = "errors of the centre of mass"
    guide: ClassVar = ("T",)
    needs: ClassVar = ("com", "total", "mean_pattern", "unusable", "technique")
    makes: ClassVar = ("com_variance",)

    def wanted(self, state: RunState) -> Reason:
        if state["technique"] not in DEFLECTION and not state.recipe.magnetic.asked:
            return no(f"the technique is {state['technique']}")
        counted = in_counts(state.cube.dtype, np.asarray(state["total"]))
        return yes("the values are electrons") if counted else no("the values of the patterns are not electrons")

    def reductions(self, state: RunState) -> dict[str, Any]:
        return {"com_variance": CenterOfMassVariance()}

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        state.keep("com_variance", results["com_variance"])


class Dpc(Stage):
    """Integrate the centre of mass to the phase of a thin object. Find the detector's rotation if it is not known."""

    name = "dpc"
    title = "DPC: rotation, integration"
    guide: ClassVar = ("I", "T")
    settings = DpcSettings
    section = "dpc"
    needs: ClassVar = ("com", "total", "technique")
    uses: ClassVar = ("adf", "disk", "shadow_rotation", "mean_pattern", "com_variance", "trial")
    makes: ClassVar = ("dpc", "dpc_phase", "dpc_com", "dpc_potential", "dpc_field", "dpc_phase_error", "ddpc", "rotation")
    rests_on: ClassVar = ("q_pixel", "r_pixel", "rotation")
    cites: ClassVar = ("mullercaspary2017", "lazic2016", "savitzky2021")
    place: ClassVar = 20

    def wanted(self, state: RunState) -> Reason:
        technique = state["technique"]
        return yes(f"the technique is {technique}") if technique in DEFLECTION else no(f"the technique is {technique}")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        c, given, record = state.calibration, self.given(state), state.record
        region, scan = given.field_free, state.cube.scan_shape
        still = None if region is None else region_mask(region, scan, "dpc.field_free")
        with record.stage(self.title):
            try:
                found = gpu4d.dpc(
                    state["com"],
                    energy=c.energy,
                    semiangle=c.semiangle,
                    q_pixel=c.q_pixel,
                    r_pixel=c.r_pixel,
                    rotation=c.rotation,
                    transpose=c.transpose,
                    thickness=given.thickness,
                    bragg_angle=given.bragg_angle or _bragg_angle(state),
                    outside=_outside(state),
                    variance=None if "com_variance" not in state else state["com_variance"].data,
                    descan=None if given.descan == "none" else given.descan,
                    descan_where=still,
                    dark_field=_dark_field(state),
                    lambda1=given.lambda1,
                    lambda2=given.lambda2,
                    boundary=given.boundary,
                    padding_factor=given.padding_factor,
                    max_iterations=given.max_iterations,
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
        _save_fields(state, found)
        phase = np.asarray(found.phase)
        low, high = np.nanpercentile(phase, (0.5, 99.5)) if np.isfinite(phase).any() else (np.nan, np.nan)
        record.figure("Range of the phase", f"{high - low:.3g} {found.phase.units}", _remark(found))
        if found.curl is None or not found.curl.margin < CLEAR_ROTATION:
            record.figure("Detector rotation", turn, "found by least curl" if found.curl is not None else "given")
        _gates(state, found)

    def _rotation(self, state: RunState, found: Any) -> str:
        """Record the rotation of the detector. It goes into the calibration only if its sign is decided: 180° off would be wrong."""
        turn = f"{math.degrees(found.rotation):.1f}°{', detector axes exchanged' if found.transpose else ''}"
        if found.curl is None:
            state.record.decide(f"Rotation of the detector against the scan: {turn}", "; ".join(["given", *found.decisions]))
            return turn
        state.record.decide(f"Rotation of the detector against the scan: {turn}", "; ".join(found.decisions))
        if found.curl.decided and found.sign is not None and found.sign.decided:
            how = "least curl of the centre of mass; 180° by the sign of the phase"
            state.calibration.set(rotation=found.rotation, transpose=found.transpose, how=how)
            state.keep("rotation", found.rotation)
        return turn

    def methods(self, state: RunState) -> str:
        found, given = state.get("dpc"), self.given(state)
        if found is None:
            return ""
        way = "found by the least curl of the field" if found.curl is not None else "given"
        axes = ", with exchanged detector axes," if found.transpose else ""
        name = "" if found.validity is None or found.validity.valid else f" It is a {found.validity.name}, and no projected potential."
        return (
            "The phase was integrated from the centre of mass of every pattern [@mullercaspary2017; @lazic2016; @savitzky2021], turned "
            f"from detector to scan axes by {math.degrees(found.rotation):.2f}°{axes} which was {way}; λ₁ = {given.lambda1:g}, "
            f"λ₂ = {given.lambda2:g}, padding {given.padding_factor:g} times, {len(found.errors)} iterations of the boundary.{name}"
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        found = state["dpc"]
        name = found.phase.name[0].upper() + found.phase.name[1:]
        caption = "Phase from the integrated centre of mass, up to a constant. It is that of the specimen blurred by the intensity of the "
        caption += f"probe, whose Fourier transform is the transfer. {_sentence(str(found.validity))}"
        yield Picture("dpc_phase", PHASE, name, caption), plot.image(state["dpc_phase"], name, cmap="inferno")
        caption = "Centre of mass in scan axes, with the descan subtracted: hue is the direction, lightness the length."
        made = plot.com(found.com, "Mean momentum transfer", remove_mean=False)
        yield Picture("com", PHASE, "Centre of mass", caption), made
        if "dpc_field" in state:
            field = state["dpc_field"]
            caption = "Field from the part of the deflection that has no curl: hue is the direction, lightness the length. "
            caption += "Per thickness, as the thickness is given." if found.thickness else "Times the thickness, which is not given."
            title = _sentence(field.name, stop="")
            yield Picture("dpc_field", PHASE, title, caption), plot.com(field, title, remove_mean=False, arrows=True)
        if len(found.errors) > 1:
            caption = "Misfit of the gradient of the phase to the measured field, after each iteration on the padded grid."
            yield Picture("dpc_convergence", PHASE, "Convergence of the phase", caption), plot.convergence(found.errors, "Convergence")
        caption = "Divergence of the deflection (dDPC): the Laplacian of the phase. In a thin specimen it shows the charge density."
        yield Picture("ddpc", PHASE, "dDPC", caption), plot.image(state["ddpc"], "dDPC", cmap="gray")

    def headline(self, state: RunState) -> str | None:
        if "dpc" not in state:
            return None
        said = (
            state.get("kind_of_data")
            or "A bright-field disk without separate Bragg disks: the phase was integrated from its centre of mass."
        )
        validity = state["dpc"].validity
        return said if validity is None or validity.valid else f"{said} It is {validity}."


def _save_fields(state: RunState, found: DPC) -> None:
    """Save what follows from the phase and the centre of mass. Nothing is called a potential that is none."""
    if found.potential is not None and found.validity is not None and found.validity.valid:
        state.save("dpc_potential", found.potential)
    if found.validity is not None:
        about = {"name": found.phase.name, "may be called": found.validity.name, "why": str(found.validity), "descan": found.descan}
        state.products["dpc_about"] = about
    if found.energy is not None and found.com.units == "1/Å":
        state.save("dpc_field", found.electric_field())
        error = found.electric_field_error()
        if error is not None:
            values = np.asarray(error)
            remark = "rms over positions, from the counts; the field without curl"
            state.record.figure("Error of the field", f"{np.sqrt(np.nanmean(values**2)):.2g} {error.units}", remark)
    if found.phase_error is not None:
        state.save("dpc_phase_error", found.phase_error)
    state.save("ddpc", found.divergence())


def _remark(found: DPC) -> str:
    """Return what stands beside the range of the phase: whether it is a potential, and its error."""
    name = "0.5 to 99.5 percentile" + ("" if found.validity is None or found.validity.valid else f"; {found.validity.name}")
    if found.phase_error is None:
        return name
    values = np.asarray(found.phase_error)
    return f"{name}; ± {np.sqrt(np.nanmean(values**2)):.2g} {found.phase.units} from the counts" if np.isfinite(values).any() else name


def _sentence(text: str, stop: str = ".") -> str:
    return text[:1].upper() + text[1:] + stop


def _outside(state: RunState) -> float | None:
    """Return the share of the electrons outside of the bright-field disk, if there is one."""
    if "disk" not in state or "mean_pattern" not in state:
        return None
    share = share_outside(state["mean_pattern"], state["disk"], state.cube.detector_mask)
    return share if math.isfinite(share) else None


def _bragg_angle(state: RunState) -> float | None:
    """Return the smallest Bragg angle of the lattice that the trial found, mrad: λ g / 2."""
    trial, c = state.get("trial"), state.calibration
    if trial is None or trial.lattice is None or c.energy is None or c.q_pixel is None:
        return None
    return 1e3 * physics.wavelength(c.energy) * min(trial.lattice.lengths) * c.q_pixel / 2


def _dark_field(state: RunState) -> np.ndarray | None:
    """Return the share of electrons outside the bright-field disk. It grows with the amount of matter."""
    if "adf" not in state:
        return None
    total = np.asarray(state["total"], dtype=np.float64)
    return np.asarray(state["adf"], dtype=np.float64) / np.where(total > 0, total, np.nan)


def _gates(state: RunState, found: DPC) -> None:
    """Check that the field is a gradient, and that the boundary causes no copies of the object."""
    if found.curl is not None:
        share = 100 * found.curl.curl[found.transpose]
        said = f"{share:.1f} % of curl² + divergence² at the best rotation; noise alone has 50 %"
        state.record.measure("dpc_curl", share, said)
        if math.isfinite(found.curl.error):
            error = math.degrees(found.curl.error)
            said = f"{math.degrees(found.rotation):.1f} ± {error:.2g}°, from the agreement of parts of the scan"
            state.record.measure("dpc_rotation", error, said)
    if found.validity is not None and (found.validity.valid or any(c.met is False for c in found.validity.conditions)):
        state.record.measure("dpc_potential", found.validity.excess, str(found.validity))
    misfit = boundary_misfit(found.phase, found.com, state.calibration.r_pixel or 1.0)
    said = f"the misfit of ∇φ to the measured field is {misfit:.2f} times as large at the boundary as inside"
    state.record.measure("dpc_boundary", misfit, said)
