"""Map the magnetic induction from the deflection of the beam."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.deflection import CenterOfMassVariance, MagneticInduction
from gpu4d.errors import InputError
from gpu4d.workflow.inputs import region_mask, second_scan
from gpu4d.workflow.picture import PHASE, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes


@dataclass
class MagneticSettings:
    """Magnetic induction times thickness. Electric fields are taken off with a second scan."""

    induction: bool = setting(
        False,
        "switch",
        "Map the magnetic induction.",
        tune="Set it for Lorentz mode, with the objective lens off. `--technique magnetic` does the same.",
    )
    second: str | None = setting(
        None, "file", "FILE or FILE:/dataset: a second scan of the same places, after the change that `relation` names.",
        automatic="none: electric fields stay in the map",
        tune="Turn the magnetisation round, or the specimen over: the magnetic deflection changes its sign, the electric one does not.",
    )  # fmt: skip
    relation: str = setting(
        "reversed", "text", "What changed before the second scan: the magnetisation was reversed, or the specimen was turned over about "
        "the first scan axis.", choices=("reversed", "flipped"),
        tune="Say what you did. With the wrong one electric fields stay, and magnetic ones go.",
    )  # fmt: skip
    descan: str = setting(
        "auto", "text", "What is subtracted of the centre of mass: a plane, its mean, nothing, or a plane only where it is clear of the "
        "specimen.", choices=("auto", "plane", "mean", "none"),
        tune="plane takes off a steady field, too. Give field_free if the scan has vacuum, and mean if the descan was "
        "corrected.",
    )  # fmt: skip
    field_free: list[int] | None = setting(
        None, "region", "Region [rx0, rx1, ry0, ry1] without a field, such as vacuum. The descan is fitted there.", low=0,
        automatic="the descan is fitted to the whole scan, and the mean of B is lost",
        tune="Take vacuum beside the specimen, as far from its stray field as the scan has it.",
    )  # fmt: skip

    @property
    def asked(self) -> bool:
        """True if a map is asked for."""
        return self.induction or self.second is not None


class Magnetic(Stage):
    """Compute the projected induction from the centre of mass, and separate it from electric fields."""

    name = "magnetic"
    title = "magnetic induction"
    guide: ClassVar = ("T2",)
    settings = MagneticSettings
    section = "magnetic"
    needs: ClassVar = ("com", "unusable", "technique")
    uses: ClassVar = ("com_variance", "rotation", "shadow_rotation")
    makes: ClassVar = ("magnetic", "induction", "induction_error", "electric_momentum")
    rests_on: ClassVar = ("q_pixel", "r_pixel", "rotation")
    cites: ClassVar = ("chapman1990", "krajnak2016")
    place: ClassVar = 14

    def check(self, state: RunState) -> None:
        """Open the second scan before the work: one that does not fit should not cost a run."""
        path = self.given(state).second
        if path is None:
            return
        second = second_scan(path, state.cube, state.recipe)
        if second.scan_shape != state.cube.scan_shape:
            raise InputError(f"{path} has {second.scan_shape} positions, the scan {state.cube.scan_shape}: need the same")

    def wanted(self, state: RunState) -> Reason:
        asked = self.given(state).asked or state["technique"] == "magnetic"
        return yes("asked for (magnetic)") if asked else no("no magnetic map is asked for (magnetic.induction)")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        given, c, record = self.given(state), state.calibration, state.record
        region, scan = given.field_free, state.cube.scan_shape
        still = None if region is None else region_mask(region, scan, "magnetic.field_free")
        with record.stage(self.title):
            try:
                second, second_variance = _second(state, given.second)
                found = gpu4d.magnetic_induction(
                    state["com"],
                    second,
                    relation=given.relation,
                    q_pixel=c.q_pixel,
                    r_pixel=c.r_pixel,
                    rotation=c.rotation,
                    transpose=c.transpose,
                    descan=None if given.descan == "none" else given.descan,
                    descan_where=still,
                    variance=None if "com_variance" not in state else state["com_variance"].data,
                    second_variance=second_variance,
                )
            except InputError as error:
                record.warn(f"no magnetic induction: {error}")
                return
        state.keep("magnetic", found)
        for line in found.warnings:
            record.warn(f"magnetic_induction: {line}")
        record.decide("Magnetic induction from the deflection", "; ".join(found.decisions))
        state.save("induction", found.induction)
        if found.error is not None:
            state.save("induction_error", found.error)
        if found.electric is not None:
            state.save("electric_momentum", found.electric)
        _report(state, found)

    def methods(self, state: RunState) -> str:
        if "magnetic" not in state:
            return ""
        electric = "after electric fields were separated with a second scan" if state["magnetic"].electric is not None else ""
        electric = electric or "from which electric fields were not separated"
        return (
            f"The projected magnetic induction is that of the deflection of the bright-field disk [@chapman1990; @krajnak2016], {electric}."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if "induction" not in state:
            return
        found = state["magnetic"]
        caption = "Magnetic induction times thickness, without divergence: hue is the direction, lightness the length. "
        caption += "Electric fields are separated." if found.electric is not None else "Electric fields are not separated from it."
        made = plot.com(found.induction, "Projected induction B t", remove_mean=False, arrows=True)
        yield Picture("induction", PHASE, "Magnetic induction", caption), made
        if found.electric is not None:
            caption = "Mean momentum of the electric part, which both scans share."
            made = plot.com(found.electric, "Electric momentum", remove_mean=False)
            yield Picture("electric_momentum", PHASE, "Electric part", caption), made

    def headline(self, state: RunState) -> str | None:
        if state["technique"] != "magnetic" or "magnetic" not in state:
            return None
        parted = "apart from" if state["magnetic"].electric is not None else "together with"
        return f"A bright-field disk without separate Bragg disks: its deflection gave the magnetic induction, {parted} electric fields."


def _report(state: RunState, found: MagneticInduction) -> None:
    """Record key figures and the gate of the divergence."""
    length = np.hypot(*np.asarray(found.induction))
    top = np.nanpercentile(length, 99) if np.isfinite(length).any() else np.nan
    error = "" if np.isnan(found.sensitivity) else f"± {found.sensitivity:.2g} T nm a component and position, from the counts"
    state.record.figure("Magnetic induction B t", f"{top:.3g} T nm", error or "99th percentile")
    if np.isfinite(found.excess):
        state.record.measure("magnetic_divergence", found.excess, f"{found.excess:.2f} times what the counts explain, where div B = 0")


def _second(state: RunState, path: str | None) -> tuple[Any, Any]:
    """Sweep the second scan, in the axes and the box of the first: centre of mass and its variance."""
    import gpu4d

    if path is None:
        return None, None
    cube = second_scan(path, state.cube, state.recipe)
    asked: dict[str, Any] = {"com": gpu4d.CenterOfMass()}
    if "com_variance" in state:
        asked["variance"] = CenterOfMassVariance()
    found: Any = gpu4d.sweep(cube, asked, **state.sweep_options)
    return found["com"], found["variance"].data if "variance" in found else None
