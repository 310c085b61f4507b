"""Find the origin at every position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.errors import InputError
from gpu4d.workflow.picture import DISKS, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage

MAX_MISFIT = 0.5  # px rms: largest deviation of measured origins from the surface
MAX_MISFIT_SHARE = 0.1  # of the template's radius: the limit is this if it is larger


@dataclass
class OriginSettings:
    """The unscattered beam at every position."""

    fit: str = setting(
        "plane", "text", "Surface through the measured positions: plane for small scans, quadratic for large fields of view.",
        choices=("plane", "quadratic", "constant"),
    )  # fmt: skip


class BeamOrigin(Stage):
    """Fit a surface to the positions of the unscattered disks, and write it into the calibration."""

    name = "origin"
    title = "origin of every pattern"
    settings = OriginSettings
    section = "origin"
    needs: ClassVar = ("braggvectors", "template")
    uses: ClassVar = ("trial", "bf", "rotation")
    makes: ClassVar = ("origin",)
    place: ClassVar = 70

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        trial, record = state.get("trial"), state.record
        guess = trial.origin.fitted if trial is not None and trial.origin is not None else state.calibration.origin
        with record.stage(self.title):
            try:
                found = gpu4d.calibrate.origin(state["braggvectors"], guess=guess, fit=self.given(state).fit, where=state.where)
            except InputError as error:
                record.warn(f"no origin, no lattice, no strain: {error}")
                return
        found.apply(state.calibration)
        state.keep("origin", found)
        miss, allowed = float(np.hypot(*found.residual)), max(MAX_MISFIT, MAX_MISFIT_SHARE * state["template"].radius)
        record.gate(
            "Origin on its surface",
            miss < allowed,
            f"{miss:.3f} px rms about the {self.given(state).fit}, {int(found.outliers.sum())} outliers",
            f"below {allowed:.2f} px",
            "try origin.fit = quadratic; no surface fits a beam that jumps (flyback, several tiles)",
        )
        drift = np.ptp(found.fitted, axis=(0, 1))
        record.figure("Descan", f"{np.hypot(*drift):.2f} px", f"over the scan; {found.fit}, residual {miss:.3f} px rms")

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        origin = state["origin"]
        moved = origin.fitted - np.nanmean(origin.fitted, axis=(0, 1))
        miss = float(np.hypot(*origin.residual))
        caption = f"Unscattered beam over the scan, {origin.fit} ({miss:.3f} px rms residual), relative to its mean."
        x, y = (state["bf"].of_same_grid(moved[..., i]) for i in (0, 1))
        yield Picture("origin", DISKS, "Descan", caption), plot.vectors(x, y, "Descan", units="px")
