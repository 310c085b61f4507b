"""Find the origin at every position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.beam.origin import Origin
from gpu4d.data.arguments import OriginLike
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.workflow.picture import DISKS, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage

SMALL_DISK = 5.0  # px: pixels limit how exactly smaller disks are located, so that their radius says nothing


@dataclass
class OriginSettings:
    """The unscattered beam at every position."""

    fit: str = setting(
        "auto", "text", "Surface through the measured positions. auto: a quadratic where it fits clearly better than a plane.",
        choices=("auto", "plane", "quadratic", "constant"), table="17.2",
        tune="A plane (order 1) suits small scans, a quadratic (order 2) large fields and scan coils that are not linear. Look at the "
        "residual of "
        "the gate “Origin on its surface”.",
    )  # fmt: skip
    method: str = setting(
        "auto", "text", "brightest: the brightest disk near the surface; friedel: the middle of pairs of disks; auto: pairs if the "
        "detector mask covers the beam.", choices=("auto", "brightest", "friedel"),
        tune="friedel is for a beam stop, and for crystals whose diffracted disks are brighter than the beam.",
    )  # fmt: skip


class BeamOrigin(Stage):
    """Fit a surface to the positions of the unscattered disks, and write it into the calibration."""

    name = "origin"
    title = "origin of every pattern"
    guide: ClassVar = ("F",)
    settings = OriginSettings
    section = "origin"
    needs: ClassVar = ("braggvectors", "template")
    uses: ClassVar = ("trial", "bf", "rotation", "shadow_rotation")
    makes: ClassVar = ("origin",)
    place: ClassVar = 70

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        trial, record = state.get("trial"), state.record
        guess = trial.origin.fitted if trial is not None and trial.origin is not None else state.calibration.origin
        with record.stage(self.title):
            try:
                found = measure_origin(state, state["braggvectors"], guess, state["template"].radius)
            except InputError as error:
                record.warn(f"no origin, no lattice, no strain: {error}")
                return
        found.apply(state.calibration)
        state.keep("origin", found)
        if self.given(state).method == "auto" and found.method.startswith("Friedel"):
            record.decide("Origin from Friedel pairs of disks", "the detector mask covers the unscattered beam")
        miss, radius = float(np.hypot(*found.residual)), max(SMALL_DISK, state["template"].radius)
        said = f"{miss:.3f} px rms about the surface, {int(found.outliers.sum())} outliers; the radius is {radius:.1f} px"
        record.measure("origin_surface", miss / radius, said)
        for line in found.findings:
            record.warn(f"origin: {line}")
        drift = np.ptp(found.fitted, axis=(0, 1))
        uncertain = f" ± {found.error:.2g} px" if found.error > 0 else ""
        how = f"over the scan; {found.method}, {found.fit}{uncertain}, residual {miss:.3f} px rms"
        record.figure("Descan", f"{np.hypot(*drift):.2f} px", how)

    def methods(self, state: RunState) -> str:
        found = state.get("origin")
        if found is None:
            return ""
        way = "from Friedel pairs of disks" if found.method.startswith("Friedel") else "from the unscattered disk"
        surface = f"{found.fit}; residual {float(np.hypot(*found.residual)):.3f} px rms"
        return f"The origin of every pattern was measured {way}, and a surface over the scan was fitted to it ({surface})."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        origin = state["origin"]
        moved = origin.fitted - np.nanmean(origin.fitted, axis=(0, 1))
        miss = float(np.hypot(*origin.residual))
        caption = f"Unscattered beam over the scan, {origin.fit} ({miss:.3f} px rms residual), relative to its mean."
        x, y = (state["bf"].of_same_grid(moved[..., i]) for i in (0, 1))
        yield Picture("origin", DISKS, "Descan", caption), plot.vectors(x, y, "Descan", units="px")


def measure_origin(state: RunState, disks: PointListArray, guess: OriginLike | None, radius: float) -> Origin:
    """Measure the origin as the recipe says."""
    import gpu4d

    given, mask = state.recipe.origin, state.cube.detector_mask
    about = None if given.method == "friedel" else guess
    options = {"method": given.method, "fit": given.fit, "where": state.where, "detector_mask": mask, "disk_radius": radius}
    return gpu4d.calibrate.origin(disks, guess=about, **options)
