"""Compute the radial distribution function of the amorphous part of a scan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.pointlist import PointList
from gpu4d.errors import InputError
from gpu4d.workflow.picture import GLASS, Drawn, Picture
from gpu4d.workflow.record import measured
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.settings import setting
from gpu4d.workflow.stage import Reason, Stage, no, yes

HIGHEST_DENSITY = 0.2  # atoms per Å³: carbon as diamond has 0.176


@dataclass
class RdfSettings:
    """Radial distribution function of amorphous patterns. Scattering vectors are k = 1/d."""

    composition: str | None = setting(
        None, "text", "Elements and their shares, such as Cu50Zr50 or SiO2.", automatic="no radial distribution function is computed",
        tune="Shares by number of atoms. Errors of some per cent of a share hardly matter.",
    )  # fmt: skip
    density: float | None = setting(
        None,
        "number",
        "Atoms per Å³.",
        units="1/Å³",
        low=1e-4,
        high=HIGHEST_DENSITY,
        automatic="from the slope below the first shell",
        tune="Give it if it is known. Coordination numbers are in proportion to it.",
    )
    background: str = setting(
        "power", "text", "Background that is fitted with the scale: b/k^p, b exp(−k/d), a constant, or none.",
        choices=("power", "exponential", "constant", "none"),
        tune="Compare the structure factor at large k, where it must swing about 1. constant and none suit energy-filtered "
        "data.",
    )  # fmt: skip
    fit_from: float | None = setting(
        None, "number", "Start of the range in which scale and background are fitted.", units="1/Å", low=0, high=10,
        automatic="0.3 of the largest k",
        tune="Start where oscillations have become small.",
    )  # fmt: skip
    fit_to: float | None = setting(
        None, "number", "End of that range. It must lie beyond the visible oscillations.", units="1/Å", low=0.1, high=10,
        guide=(1.2, 1.6), table="17.5", automatic="the largest k",
        tune="Extend it past the last oscillation that you see. k is 1/d: Q = 2πk is 6.28 times as large.",
    )  # fmt: skip
    band_low: float = setting(
        0.2, "number", "Low cut-off of the structure factor.", units="1/Å", low=0, high=5, guide=(0.15, 0.25), table="17.5",
        tune="It must lie outside of the beam's disk, whose tail gives slow waves in G(r), and inside of the first ring.",
    )  # fmt: skip
    band_high: float | None = setting(
        None, "number", "High cut-off of the structure factor.", units="1/Å", low=0.2, high=10, guide=(0.7, 0.9), table="17.5",
        automatic="0.95 of the largest k",
        tune="Lower it until ripples of noise in G(r) vanish. Distances closer than 0.5/k are no longer told apart.",
    )  # fmt: skip
    damping: str | float = setting(
        0.0, "number or word", "Further window: exp(−B k²) with B in Å², or lorch. 0: none.", units="Å²", low=0, high=100,
        choices=("lorch",),
        tune="Use it if G(r) has ripples on both sides of its peaks. It makes the peaks wider.",
    )  # fmt: skip
    low_r_rounds: int = setting(
        0,
        "whole",
        "Rounds of the correction that takes off what G(r) has in the region without atoms.",
        low=0,
        high=100,
        tune="Take 8 if G(r) is no straight line below the first shell. It takes ripples of the shells there, too.",
    )

    def contradiction(self) -> str | None:
        """Say what is wrong with the settings together."""
        for low, high in (("fit_from", "fit_to"), ("band_low", "band_high")):
            first, last = getattr(self, low), getattr(self, high)
            if first is not None and last is not None and first >= last:
                return f"rdf.{high} = {last:g} must be larger than rdf.{low} = {first:g}"
        return None


class Rdf(Stage):
    """Compute structure factor, distances of atoms and coordination of the glass."""

    name = "rdf"
    title = "radial distribution function"
    guide: ClassVar = ("S",)
    settings = RdfSettings
    section = "rdf"
    needs: ClassVar = ("glass",)
    uses: ClassVar = ("crystallites", "ellipse")
    makes: ClassVar = ("rdf",)
    rests_on: ClassVar = ("q_pixel", "ellipse")
    cites: ClassVar = ("kaplow1965",)
    place: ClassVar = 21

    def check(self, state: RunState) -> None:
        """Refuse a composition that cannot be read before the work."""
        if (given := self.given(state).composition) is not None:
            from gpu4d.structures import electron_scattering_factor
            from gpu4d.structures.composition import shares

            for element in shares(given):
                electron_scattering_factor(element, 1.0)

    def wanted(self, state: RunState) -> Reason:
        if self.given(state).composition is None:
            return no("the composition is not known: give rdf.composition, or --composition Cu50Zr50")
        if state.calibration.q_pixel is None:
            return no("the size of a detector pixel is not known: give --q-pixel, or energy and semi-angle")
        return yes(f"patterns are amorphous, of {self.given(state).composition}")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record = state.record
        with record.stage(self.title):
            try:
                found = self._computed(state)
            except InputError as error:
                record.warn(f"no radial distribution function: {error}")
                return
        state.keep("rdf", found)
        record.decide(f"Radial distribution function of {self.given(state).composition}", "; ".join(found.decisions))
        for line in found.warnings:
            record.warn(f"radial distribution function: {line}")
        state.products |= _as_lists(found)
        self._figures(state, found)
        self._gates(state, found)

    def _computed(self, state: RunState) -> Any:
        import gpu4d
        from gpu4d.amorphous.ring_means import bright_field_radius

        given = self.given(state)
        k, mean, error = self._profile(state)
        inside = np.isfinite(mean) & np.isfinite(k)
        return gpu4d.rdf(
            mean[inside],
            k=k[inside],
            error=error[inside],
            composition=given.composition,
            density=given.density,
            background=None if given.background == "none" else given.background,
            k_fit=(given.fit_from, given.fit_to),
            band=(given.band_low, given.band_high),
            damping=given.damping or None,
            low_r_rounds=given.low_r_rounds,
            disk_radius=bright_field_radius(state.calibration),
        )

    def _profile(self, state: RunState) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return k of every ring, and mean intensity of the glass with its standard error, without positions with crystallites."""
        from gpu4d.amorphous import group_profiles
        from gpu4d.rings import mean_radii

        glass, c = state["glass"], state.calibration
        rings = glass.rings
        if rings is None:
            sums = glass.profile
            radius, mean, error = sums.radius, sums.mean, sums.deviation / np.sqrt(np.maximum(sums.positions, 1))
        else:
            where = glass.where & ~state["crystallites"].mask if "crystallites" in state else glass.where
            grouped = group_profiles(rings.mean, labels=np.where(where, 0, -1))
            radius, (mean,), (error,) = rings.radius, grouped.mean, grouped.error
        origin = c.origin if glass.origin is None else glass.origin
        if origin is not None:
            own = mean_radii(state.cube.detector_shape, origin, ellipse=c.ellipse, mask=state.cube.detector_mask)
            radius = np.where(np.isfinite(own), own, radius)
        return c.require("q_pixel") * radius, mean, error

    def _figures(self, state: RunState, found: Any) -> None:
        record, about = state.record, f"resolution {found.resolution:.2f} Å"
        if np.isfinite(found.peak):
            record.figure("Distance of the first shell", f"{measured(float(found.peak), float(found.peak_error))} Å", about)
        if np.isfinite(found.coordination):
            start, end = found.shell
            record.figure(
                "Coordination",
                measured(float(found.coordination), float(found.coordination_error)),
                f"atoms from {start:.2f} to {end:.2f} Å",
            )
        if np.isfinite(found.density):
            known = "given" if self.given(state).density is not None else "from the slope of G(r) below the first shell"
            record.figure("Density of atoms", f"{measured(float(found.density), float(found.density_error))} Å⁻³", known)

    def _gates(self, state: RunState, found: Any) -> None:
        ratio = float(found.scale_ratio)
        said = f"the region without atoms needs {ratio:.3f} times the fitted scale"
        state.record.measure("rdf_scale", 100 * (ratio - 1), said)
        density = float(found.density)
        state.record.measure("rdf_density", density, f"{density:.4f} atoms per Å³")

    def methods(self, state: RunState) -> str:
        if "rdf" not in state:
            return ""
        given = self.given(state)
        rounds = f", with {given.low_r_rounds} rounds of the correction at small r [@kaplow1965]" if given.low_r_rounds else ""
        return f"The radial distribution function of {given.composition} was computed from the mean profile of the glass{rounds}."

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        found = state["rdf"]
        caption = "Structure factor, and the mean intensity with the fitted background and scattering of single atoms. "
        caption += "S goes to 1 where the oscillations end. k = 1/d."
        yield Picture("structure_factor", GLASS, "Structure factor", caption), plot.structure_factor(found)
        caption = "Pair distribution function g(r), with its standard error; 1 is the mean density. "
        caption += f"Peaks nearer than {found.resolution:.2f} Å are one. Ripples beside a peak come from the end of the band."
        yield Picture("pair_distribution", GLASS, "Distances of atoms", caption), plot.pair_distribution(found)

    def headline(self, state: RunState) -> str | None:
        found, kind = state["rdf"], state.get("kind_of_data") or "The specimen is amorphous."
        if not np.isfinite(found.peak):
            return None
        shell = measured(float(found.peak), float(found.peak_error))
        atoms = f", of {float(found.coordination):.1f} atoms" if np.isfinite(found.coordination) else ""
        return f"{kind} Its first shell is at {shell} Å{atoms}."


def _as_lists(found: Any) -> dict[str, PointList]:
    """Return structure factor and radial distribution function as items of the result file."""
    by_k = {"k": found.k, "intensity": found.intensity, "background": found.background}
    by_k |= {"structure_factor": found.structure_factor, "error": found.structure_factor_error}
    by_r = {"r": found.r, "reduced": found.reduced, "error": found.reduced_error, "pair_distribution": found.pair_distribution}
    return {
        "structure_factor": PointList(by_k, {"k": "1/Å", "intensity": "counts per pixel", "background": "counts per pixel"}),
        "pair_distribution": PointList(by_r, {"r": "Å", "reduced": "1/Å²", "error": "1/Å²"}),
    }
