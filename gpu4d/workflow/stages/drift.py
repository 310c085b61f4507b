"""Measure the drift of the specimen, from a second scan whose rows cross, or the jitter of rows."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import gpu4d
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.workflow.inputs import second_scan
from gpu4d.workflow.picture import IMAGES, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes


@dataclass
class DriftSettings:
    """Positions on a drifting specimen. Raw patterns stay where they are."""

    second: str | None = setting(
        None, "file", "FILE or FILE:/dataset: a second scan of the same place whose rows cross those of this one.",
        automatic="drift is not measured",
        tune="Record it at once after the first, turned by 90°: that is what tells drift from the specimen.",
    )  # fmt: skip
    angle: float = setting(
        90.0,
        "number",
        "By what the second scan was turned.",
        units="°",
        low=-360,
        high=360,
        tune="Give the angle of the scan generator. With 90° both scans disagree most about a drift, which is best.",
    )
    fast_axes: list[int] | None = setting(
        None, "wholes", "The axis of each array along which the beam runs, 0 or 1. With drift.angle = 0 and [1, 0], the second array is "
        "stored in the axes of the first.", low=0, high=1, length=2, automatic="[1, 1]: rows are fast",
        tune="Leave it out for scans as they were recorded. Give it if a program has turned the second array already.",
    )  # fmt: skip
    jitter: bool = setting(
        False,
        "switch",
        "Without a second scan, measure how neighbouring rows are displaced against each other.",
        tune="Use it if vertical edges look frayed. It cannot see a steady drift.",
    )
    max_drift: float | None = setting(
        None, "number", "Largest steady drift that is searched for, from the start of a scan to its end.", units="Å", low=0, high=1e7,
        automatic="a quarter of the longer side of the scan",
        tune="Raise it if the result lies at its limit. A smaller one is quicker, and takes no far-off match by mistake.",
    )  # fmt: skip


class Drift(Stage):
    """Find where the positions lie on the specimen, and put them into the calibration."""

    name = "drift"
    title = "drift of the specimen"
    guide: ClassVar = ("E",)
    settings = DriftSettings
    section = "drift"
    needs: ClassVar = ("bf",)
    uses: ClassVar = ("adf", "disk")
    makes: ClassVar = ("scan_drift", "positions", "drift_corrected")
    cites: ClassVar = ("ophus2016", "sang2014")
    place: ClassVar = 34

    def check(self, state: RunState) -> None:
        """Open the second scan before the work: a file that is not there should not cost a run."""
        given = self.given(state)
        if given.second is None:
            return
        if state.recipe.input.crop_scan is not None:
            raise InputError("drift.second and input.crop_scan: the box would be another place of a turned scan; compare whole scans")
        second_scan(given.second, state.cube, state.recipe)

    def wanted(self, state: RunState) -> Reason:
        given = self.given(state)
        if given.second is not None:
            return yes(f"a second scan is given ({given.second})")
        return yes("asked for (drift.jitter)") if given.jitter else no("no second scan is given (drift.second)")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        given, record = self.given(state), state.record
        other = [] if given.second is None else [second_scan(given.second, state.cube, state.recipe)]
        with record.stage(self.title):
            try:
                found = gpu4d.scan_drift(
                    state.cube,
                    *other,
                    angle=math.radians(given.angle),
                    fast_axes=tuple(given.fast_axes or (1, 1)),
                    max_drift=given.max_drift,
                    **state.sweep_options,
                )
            except InputError as error:
                record.warn(f"no drift: {error}")
                return
        state.keep("scan_drift", found)
        for line in found.warnings:
            record.warn(f"scan_drift: {line}")
        record.decide(self._said(found), "; ".join(found.decisions))
        what = "both scans" if other else "even and odd rows"
        said = f"{what} agree by {found.agreement:.2f}, {found.significance:.1f} standard deviations of chance"
        good = record.measure("drift_agreement", found.significance, said).passed
        state.save("drift_corrected", found.corrected(np.asarray(self._picture(state))))
        own = found.positions_in_own_axes(0)
        state.save("positions", RealSlice.calibrated(np.moveaxis(own, -1, 0), "positions", found.units, found.r_pixel, ("x", "y")))
        if good and found.units == "Å":
            state.calibration.set(positions=own, how="drift of the specimen, by " + ("a second scan" if other else "its rows"))

    def _said(self, found: Any) -> str:
        """Return the result in a line."""
        if len(found.positions) < 2:
            return f"Jitter of rows: {found.jitter:.2g} {found.units}"
        (x, y), (dx, dy) = found.drift[0], found.drift_error[0]
        return f"Drift during the scan: ({x:.3g} ± {dx:.2g}, {y:.3g} ± {dy:.2g}) {found.units}"

    def _picture(self, state: RunState) -> Any:
        return state["adf"] if "adf" in state else state["bf"]

    def methods(self, state: RunState) -> str:
        if "scan_drift" not in state:
            return ""
        way = "with a second scan [@ophus2016]" if self.given(state).second is not None else "from the rows of the scan [@sang2014]"
        return f"Drift of the specimen was measured {way}. {self._said(state['scan_drift'])}."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        if "scan_drift" not in state:
            return
        found = state["scan_drift"]
        caption = "How far each row lies from its nominal place, with standard errors."
        if len(found.positions) == 2:
            yield Picture("drift", IMAGES, "Drift", caption, wide=True), plot.drift(found)
            caption = "The picture of this scan, drawn at the measured positions."
            yield Picture("drift_corrected", IMAGES, "Without drift", caption), plot.image(state["drift_corrected"], "Without drift")
        else:
            drawn = plot.drift(found, [np.asarray(self._picture(state))], "Jitter removed")
            yield Picture("drift", IMAGES, "Jitter", caption, wide=True), drawn
