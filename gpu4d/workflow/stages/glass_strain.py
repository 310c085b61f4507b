"""Measure the strain of the amorphous part of a scan from its ring."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.arrays import is_integer_dtype
from gpu4d.errors import InputError
from gpu4d.workflow.inputs import region_mask
from gpu4d.workflow.picture import STRAIN, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.strain_figures import COMPONENTS, magnitude_gate, range_figures

EXPLAINED = 1.2  # χ² a degree of freedom, up to which a position that looks like a crystallite is strained glass: spots give more

SPECKLED = 1.5  # median of χ² a degree of freedom: with more, strain is not told apart from speckle


@dataclass
class GlassStrainSettings:
    """Strain of amorphous patterns from their ring."""

    measure: bool = setting(
        True,
        "switch",
        "Measure the strain of amorphous patterns, where there are any.",
        tune="Set it to false if strain is not wanted.",
    )
    reference: str | list[int] = setting(
        "mean", "reference", "Unstrained glass: mean, that of all amorphous positions; or a region [rx0, rx1, ry0, ry1].",
        choices=("mean",), table="17.4",
        tune="Take a region that no load reached. With mean, strain is relative to the average of the scan.",
    )  # fmt: skip
    drift: int | None = setting(
        None, "whole", "Order of the polynomial by scan row that the ring's radius follows in the reference region, as the camera length "
        "drifts; it is removed.", low=0, high=5, automatic="no drift is removed",
        tune="Take 1 if the strain changes steadily from the first row to the last. The reference region must then have all "
        "rows.",
    )  # fmt: skip
    max_strain: float = setting(
        0.10, "number", "Strain of a larger magnitude counts as an outlier in the quality gate.", low=1e-4, high=1, guide=(0.05, 0.10),
        table="17.4", tune="Metallic glasses bear 2 % before they yield. Shear bands show more.",
    )  # fmt: skip


class GlassStrain(Stage):
    """Fit the ring of every amorphous pattern, and compare it with that of the unstrained glass."""

    name = "amorphous_strain"
    title = "strain of the glass"
    guide: ClassVar = ("S",)
    settings = GlassStrainSettings
    section = "amorphous_strain"
    needs: ClassVar = ("glass",)
    uses: ClassVar = ("crystallites", "ellipse", "rotation", "shadow_rotation")
    makes: ClassVar = ("amorphous_strain",)
    rests_on: ClassVar = ("rotation", "ellipse")
    cites: ClassVar = ("gammer2018",)
    place: ClassVar = 20

    def wanted(self, state: RunState) -> Reason:
        if not self.given(state).measure:
            return no("switched off in the recipe")
        if not is_integer_dtype(state.cube.dtype):
            return no("the values are no counts, whose likelihood the fit needs")
        return yes(f"patterns are amorphous, with a ring of {state['glass'].ring.radius:.0f} px")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d
        from gpu4d.amorphous import halo_reference

        given, record, glass = self.given(state), state.record, state["glass"]
        crystals = state["crystallites"].mask & glass.where if "crystallites" in state else np.zeros_like(glass.where)
        where = region = glass.where & ~crystals
        if isinstance(given.reference, list):
            region = where & region_mask(given.reference, state.cube.scan_shape, "amorphous_strain.reference")
        asked: Any = {"origin": glass.origin, "max_strain": given.max_strain}

        def measured(options: Any) -> Any:
            known = halo_reference(state.cube, region=region, origin=glass.origin, where=where, **options)
            explained = np.zeros_like(where)
            if crystals.any():
                with record.trial():  # the fit of the whole scan warns
                    at = gpu4d.amorphous_strain(state.cube, reference=known, where=crystals, **asked, **options)
                explained = np.nan_to_num(np.asarray(at.residual), nan=np.inf) <= EXPLAINED
            found = gpu4d.amorphous_strain(state.cube, reference=known, where=where | explained, drift=given.drift, **asked, **options)
            return found, int(explained.sum())

        with record.stage(self.title, int(where.sum())):
            try:
                found, kept = state.with_memory(measured)
            except InputError as error:
                record.warn(f"no strain of the glass: {error}")
                return
        if crystals.any():
            why = f"a strained ring is uneven too; kept is what its fit explains, with χ² up to {EXPLAINED:g} a degree of freedom"
            record.decide(f"Strain at {kept} of {int(crystals.sum())} positions that look like crystallites", why)
        record.decide(f"Strain of the glass relative to the {found.reference.how}", "the recipe's reference; tension is positive")
        state.keep("amorphous_strain", found)
        state.products |= {f"amorphous_strain{'_' * bool(key)}{key}": part for key, part in found.to_emd().items()}
        self._figures(state, found)

    def _figures(self, state: RunState, found: Any) -> None:
        range_figures(state.record, "Strain of the glass", found, "the counts")
        advice = "check the reference region and the patterns of these positions: crystallites, holes, too few counts"
        magnitude_gate(state.record, found, self.given(state).max_strain, name="Magnitude of the glass's strain", advice=advice)
        self._speckle_gate(state, found)

    def _speckle_gate(self, state: RunState, found: Any) -> None:
        """Check that the rings differ from their model by counting noise alone."""
        residual = np.asarray(found.residual, dtype=np.float64)
        middle = float(np.nanmedian(residual)) if np.isfinite(residual).any() else float("nan")
        state.record.measure("halo_model", middle, f"χ² of {middle:.2f} a degree of freedom (median)")

    def methods(self, state: RunState) -> str:
        found = state.get("amorphous_strain")
        if found is None:
            return ""
        return f"Strain of the glass was measured from the ellipse of its ring [@gammer2018], relative to the {found.reference.how}."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        found = state["amorphous_strain"]
        caption = (
            f"Strain of the glass relative to the {found.reference.how}, tension positive. A glass shows no rotation. The axes of the "
        )
        caption += "tensor are drawn beside every map."
        errors = 100 * np.asarray(found.uncertainty)
        about = Picture("amorphous_strain", STRAIN, "Strain of the glass", caption, wide=True, errors=tuple(errors[:3]))
        yield about, plot.strain(found, "Strain of the glass")
        error = found.exx.of_same_grid(errors.mean(axis=0))
        caption = "Standard error of a strain component (mean of the three), from the counts and, where speckles are larger, from them."
        made = plot.image(error, "Standard error of strain", units="%", cmap="viridis")
        yield Picture("amorphous_strain_uncertainty", STRAIN, "Standard error of strain", caption), made

    def headline(self, state: RunState) -> str | None:
        """Return the answer in one sentence: how much strain, and how well it is known."""
        found = state["amorphous_strain"]
        parts = 100 * np.stack([np.asarray(getattr(found, name)) for name in COMPONENTS])
        if not np.isfinite(parts).any():
            return None
        kind = state.get("kind_of_data") or "The specimen is amorphous."
        if float(np.nanmedian(np.asarray(found.residual))) > SPECKLED:
            return f"{kind} Its patterns differ by speckle, from which strain is not told apart."
        spread, error = float(np.nanstd(parts)), float(np.nanmedian(100 * np.asarray(found.uncertainty)))
        return f"{kind} Its strain varies by {spread:.2g} % rms, with a standard error of {error:.2g} % at one position."
