"""Measure how a glass fluctuates: normalised variances by ring, and the crystallites that make them large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from gpu4d.arrays import is_integer_dtype
from gpu4d.data.pointlist import PointList
from gpu4d.errors import InputError
from gpu4d.workflow.picture import GLASS, Drawn, Picture
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

NEAR_RING = 0.25  # of its radius: the figure is that of the largest variance in this range
FIRST = ("median_annular_mean", "annular_mean")  # variants of the figure and of the picture
VARIANTS = ("annular_mean", "rings", "ring_ensemble", "median_annular_mean", "median_rings")


@dataclass
class FemSettings:
    """Fluctuation electron microscopy of amorphous patterns."""

    measure: bool = setting(
        True,
        "switch",
        "Measure the variance of amorphous patterns over the positions, where there are any.",
        tune="Set it to false if only strain or distances are wanted.",
    )
    statistics: str = setting(
        "median", "text", "Variance that the report shows first. median: few crystallites do not change it; mean: the usual one. All "
        "variants are in the result file.", choices=("median", "mean"), table="17.5",
        tune="median for mixed specimens, because few crystallites do not change it. mean is what most papers have.",
    )  # fmt: skip
    normalise: bool = setting(
        False,
        "switch",
        "Divide every pattern by its diffuse intensity, so that differences of thickness leave the variance.",
        tune="Set it if the thickness changes over the scan. Compare the variance with and without it.",
    )
    crystallites: bool = setting(
        True,
        "switch",
        "Find positions with crystallites, and leave them out of distances, and of strain where the ring does not fit.",
        tune="Leave it on, unless the spots of the glass itself are taken for crystallites.",
    )


class Fem(Stage):
    """Compute variances of rings, and find crystallites."""

    name = "fem"
    title = "fluctuations of the glass"
    guide: ClassVar = ("S",)
    settings = FemSettings
    section = "fem"
    needs: ClassVar = ("glass",)
    uses: ClassVar = ("bf",)
    makes: ClassVar = ("fem", "crystallites")
    rests_on: ClassVar = ("q_pixel",)
    cites: ClassVar = ("voyles2002", "daulton2010")
    place: ClassVar = 22

    def wanted(self, state: RunState) -> Reason:
        if not self.given(state).measure:
            return no("switched off in the recipe")
        if state["glass"].rings is None:
            return no("ring statistics of every position were not kept: the scan has too many positions for the memory")
        if not is_integer_dtype(state.cube.dtype):
            return no("the values are no counts, so that the part of counting noise is not known")
        return yes("patterns are amorphous")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        given, record, glass = self.given(state), state.record, state["glass"]
        if given.crystallites:
            with record.stage("crystallites in the glass", int(glass.where.sum())):
                self._find_crystallites(state)
        with record.stage(self.title):
            try:
                normalise: Literal["total"] | None = "total" if given.normalise else None
                found = gpu4d.fem(glass.rings, where=glass.where, normalise=normalise)
            except InputError as error:
                record.warn(f"no variance of the rings: {error}")
                return
        state.keep("fem", found)
        state.products["fem"] = _as_list(found)
        self._figures(state, found)
        self._gate(state, found)

    def _find_crystallites(self, state: RunState) -> None:
        """Keep the crystallites that stand out of the glass, also where no variance can be measured."""
        from gpu4d.amorphous import find_crystallites

        glass = state["glass"]
        try:
            found = state.with_memory(lambda options: find_crystallites(state.cube, glass.origin, where=glass.where, **options))
        except InputError as error:
            state.record.decide("No search for crystallites", str(error))
            return
        state.keep("crystallites", found)
        self._save_crystallites(state, found)

    def _save_crystallites(self, state: RunState, found: Any) -> None:
        like, record = state["bf"], state.record
        state.products["crystallite_significance"] = like.of_same_grid(np.asarray(found.significance), "crystallite significance", "σ")
        number, seen = int(found.mask.sum()), int(state["glass"].where.sum())
        record.figure("Positions with crystallites", f"{number}", f"of {seen} amorphous ones; from the variance within rings")
        if number:
            record.decide(
                f"Crystallites: {number} position{'s' * (number != 1)} left out of distances of atoms",
                "their rings vary more than those of the glass; fem.crystallites = false keeps them",
            )

    def _figures(self, state: RunState, found: Any) -> None:
        """Record the largest variance near the first ring, of the first variant that the recipe asks for."""
        first, other = self._variants(state, found)
        ring = state["glass"].ring.radius
        near = (np.abs(found.radius - ring) <= NEAR_RING * ring) & np.isfinite(first.value)
        if not near.any():
            return
        at = np.flatnonzero(near)[np.argmax(first.value[near])]
        names = ("medians", "means") if self.given(state).statistics == "median" else ("means", "medians")
        where = f"{found.radius[at]:.1f} px" if found.q is None else f"{found.q[at]:.3f} Å⁻¹"
        size = "" if found.resolution is None else f"; ordered regions of about {found.resolution:.1f} Å make it largest"
        state.record.figure(
            "Variance at the first ring",
            measured(first.value[at], first.error[at]),
            f"at {where}, from {names[0]}, without counting noise; {other.value[at]:.3g} from {names[1]}{size}",
        )
        if np.isfinite(found.thickness) and found.thickness > 0:
            rms = 100 * np.sqrt(found.thickness)
            state.record.figure("Differences of thickness", f"{rms:.2g} %", "rms, from the variance that all rings share")

    def _variants(self, state: RunState, found: Any) -> tuple[Any, Any]:
        first, other = (getattr(found, name) for name in FIRST)
        return (first, other) if self.given(state).statistics == "median" else (other, first)

    def _gate(self, state: RunState, found: Any) -> None:
        """Compare the semi-angle with the range of the guide."""
        angle = state.calibration.semiangle
        if angle is not None:
            said = f"a semi-angle of {angle:g} mrad, which resolves {found.resolution:.1f} Å" if found.resolution else f"{angle:g} mrad"
            state.record.measure("fem_probe", angle, said)

    def methods(self, state: RunState) -> str:
        if "fem" not in state:
            return ""
        kind = "medians" if self.given(state).statistics == "median" else "means"
        return (
            f"Fluctuations were measured as normalised variances of the rings over positions, from {kind}, without the part of counting "
            "noise [@voyles2002; @daulton2010]."
        )

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        found = state["fem"]
        caption = "Normalised variance over the positions without counting noise, with standard errors. "
        caption += "Medians are not changed by few crystallites, means are."
        shown = FIRST if self.given(state).statistics == "median" else FIRST[::-1]
        yield Picture("fem", GLASS, "Variance of the glass", caption), plot.fem(found, shown)
        if "crystallites" in state:
            crystallites = state["crystallites"]
            values = np.asarray(crystallites.significance, dtype=np.float64)
            image = state["bf"].of_same_grid(values, "crystallite significance", "σ")
            top = max(2 * crystallites.threshold, float(np.nanmax(values, initial=0.0)))  # so that an even glass looks even
            caption = (
                f"How much the rings of a position vary more than those of the glass, in standard deviations: {len(crystallites)} "
                f"crystallite{'s' * (len(crystallites) != 1)} above {crystallites.threshold:.1f}, where "
                f"{crystallites.false_positives:g} positions of glass are expected."
            )
            made = plot.image(image, "Crystallites", units="σ", cmap="magma", limits=(0, top))
            yield Picture("crystallites", GLASS, "Crystallites", caption), made


def _as_list(found: Any) -> PointList:
    """Return all variants by ring, as one item of the result file."""
    fields = {"radius": np.asarray(found.radius), "mean": np.asarray(found.mean)}
    units = {"radius": "px", "mean": "electrons per pixel"}
    if found.q is not None:
        fields, units = {"q": found.q, **fields}, {"q": "1/Å", **units}
    for name in VARIANTS:
        one = getattr(found, name)
        fields |= {name: one.value, f"{name}_error": one.error, f"{name}_noise": one.noise}
    return PointList(fields, units)
