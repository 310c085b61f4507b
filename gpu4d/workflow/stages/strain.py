"""Compute strain from the lattice of every pattern."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.workflow.inputs import region_mask
from gpu4d.workflow.picture import STRAIN, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Stage

OUTLIERS = 0.01  # share of the positions that may exceed the largest strain
COMPONENTS = ("exx", "eyy", "exy")


@dataclass
class StrainSettings:
    """Strain from the lattice of every pattern."""

    reference: str | list[int] = setting(
        "median", "reference", "Unstrained lattice: the median over the scan, or that of a region [rx0, rx1, ry0, ry1] of the same phase "
        "and orientation.", low=0, choices=("median",),
    )  # fmt: skip
    definition: str = setting(
        "finite", "text", "finite: U − 1 of F = R U; infinitesimal: symmetric part of F − 1; first_order: py4DSTEM's.",
        choices=("finite", "infinitesimal", "first_order"),
    )  # fmt: skip
    axis_rotation_degrees: float = setting(0.0, "number", "Turn the tensor's axes, from x towards y.", units="degrees", low=-360, high=360)
    max_strain: float = setting(
        0.10, "number", "Strain of a larger magnitude counts as an outlier in the quality gate.", low=1e-4, high=1, guide=(0.05, 0.10)
    )


class Strain(Stage):
    """Compare the lattice of every pattern with the unstrained one."""

    name = "strain"
    title = "strain"
    settings = StrainSettings
    section = "strain"
    needs: ClassVar = ("lattice_fit",)
    uses: ClassVar = ("rotation", "unusable")
    makes: ClassVar = ("strain", "lattice_residual")
    place: ClassVar = 10

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        given, record = self.given(state), state.record
        region, how = self._reference(state)
        with record.stage(self.title):
            strain = gpu4d.strain_map(
                state["lattice_fit"],
                region=region,
                definition=given.definition,
                rotation=math.radians(given.axis_rotation_degrees) if given.axis_rotation_degrees else None,
                calibration=state.calibration,
                max_strain=given.max_strain,
            )
        chosen = not isinstance(given.reference, str)
        why = "set in the recipe" if chosen else "the recipe names no unstrained region: strain is relative to the typical lattice"
        record.decide(f"Reference of the strain: {how}", why)
        for line in strain.warnings:
            record.warn(line)
        state.keep("strain", strain)
        state.products.update(("strain" if key == "" else f"strain_{key}", part) for key, part in strain.to_emd().items())
        state.save("lattice_residual", strain.exx.of_same_grid(np.asarray(strain.residual), "lattice residual", "px"))
        self._figures(state, strain)
        self._magnitude_gate(state, strain)

    def _reference(self, state: RunState) -> tuple[np.ndarray | None, str]:
        """Return the positions whose median lattice is the reference, and their description."""
        given = self.given(state).reference
        if isinstance(given, str):
            return state.where, "the median lattice of the scan"
        rx0, rx1, ry0, ry1 = given
        how = f"the median lattice of rows {rx0}–{rx1 - 1}, columns {ry0}–{ry1 - 1}"
        return region_mask(given, state.cube.scan_shape, "strain.reference"), how

    def _figures(self, state: RunState, strain: Any) -> None:
        xx, yy, xy = (float(np.nanstd(100 * np.asarray(getattr(strain, name)))) for name in COMPONENTS)
        state.record.figure("Strain, standard deviation", f"{xx:.2f}, {yy:.2f}, {xy:.2f} %", "ε_xx, ε_yy, ε_xy over the scan")
        error = 100 * np.asarray(strain.uncertainty)[:3]
        if np.isfinite(error).any():
            remark = "median standard error of a component, from the disks' scatter"
            state.record.figure("Uncertainty of strain", f"{np.nanmedian(error):.3f} %", remark)

    def _magnitude_gate(self, state: RunState, strain: Any) -> None:
        """Check that strain is not larger than a crystal can have."""
        limit = self.given(state).max_strain
        parts = np.stack([np.asarray(getattr(strain, name), dtype=np.float64) for name in COMPONENTS])
        seen = np.isfinite(parts).all(axis=0)
        beyond = float((np.abs(parts).max(axis=0) > limit)[seen].mean()) if seen.any() else 1.0
        largest = float(np.abs(parts[:, seen]).max()) if seen.any() else float("nan")
        state.record.gate(
            "Strain magnitude",
            beyond <= OUTLIERS,
            f"{100 * beyond:.2g} % of positions beyond ±{100 * limit:g} %, largest {100 * largest:.2g} %",
            f"at most {100 * OUTLIERS:g} % of positions",
            "check the reference region and the disks of these positions; filter outliers",
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        strain = state["strain"]
        caption = f"Strain relative to the {strain.reference.how} ({strain.definition} definition), tension positive. θ is the rotation of "
        caption += "the lattice. The axes of the tensor are drawn beside every map."
        yield Picture("strain", STRAIN, "Strain", caption, wide=True), plot.strain(strain)
        error = strain.exx.of_same_grid(100 * np.asarray(strain.uncertainty)[:3].mean(axis=0))
        noise = "from the disks' counting noise and their scatter about the lattice"
        caption = f"Standard error of a strain component (mean of the three), {noise}."
        made = plot.image(error, "Standard error of strain", units="%", cmap="viridis")
        yield Picture("strain_uncertainty", STRAIN, "Standard error of strain", caption), made
        caption = "How far disks lie from the local lattice (rms): high where grains overlap or disks are misplaced."
        made = plot.image(strain.residual, "Distance of disks from the lattice", cmap="viridis")
        yield Picture("lattice_residual", STRAIN, "Distance of disks from the lattice", caption), made

    def headline(self, state: RunState) -> str | None:
        seen = int(np.asarray(state["strain"].mask).sum())
        return f"A crystal: Bragg disks were found and strain measured at {seen:,} of {state.patterns:,} positions."
