"""Find where a scan is amorphous: everywhere, if it has a diffuse ring and no lattice, or at the positions of amorphous classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu4d.crystal.technique import of_crystals
from gpu4d.rings import RadialStatistics, RingProfiles
from gpu4d.rings.find_ring import Ring, find_ring
from gpu4d.workflow.picture import Drawn
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.stages.radial import draw_profile, record_profile, ring_reductions
from gpu4d.workflow.stages.technique import beam_of

LEAST = 20  # amorphous positions of a scan that is crystalline elsewhere: fewer give no radial distribution function and no variance


class Glass(NamedTuple):
    """The amorphous part of a scan.

    Attributes
    ----------
    where : (Rx, Ry) bool
        True at positions that are amorphous and usable.
    ring : Ring
        The brightest ring of their mean pattern.
    origin : pair or None
        Middle of the rings, px; None for the calibrated origin.
    profile : RadialStatistics
        Of these positions.
    rings : RingProfiles or None
        Of all positions of the scan; None if there are too many.
    mixed : bool
        True if other positions are crystalline.
    """

    where: np.ndarray
    ring: Ring
    origin: tuple[float, float] | None
    profile: RadialStatistics
    rings: RingProfiles | None
    mixed: bool


class FindGlass(Stage):
    """Say which positions are amorphous, before fluctuations, distances of atoms and strain are measured there."""

    name = "glass"
    title = "rings of the amorphous part"
    guide: ClassVar = ("S",)
    needs: ClassVar = ("technique", "unusable")
    uses: ClassVar = ("ring", "classes", "disk", "template", "mean_pattern", "radial_profile", "ring_profiles", "ring_origin")
    makes: ClassVar = ("glass",)
    place: ClassVar = 24

    def wanted(self, state: RunState) -> Reason:
        technique = state["technique"]
        if technique == "amorphous":
            return yes(f"the technique is {technique}: the mean pattern has a ring of {state['ring'].radius:.0f} px")
        if (classes := state.get("classes")) is None or "amorphous" not in classes.kinds:
            return no(f"the technique is {technique}, and no class of patterns is amorphous")
        where, ring, why = self._of_classes(state)
        return no(why) if ring is None else yes(f"{int(where.sum())} positions are of {why}")

    def _of_classes(self, state: RunState) -> tuple[np.ndarray, Ring | None, str]:
        """Return the positions of amorphous classes, their ring or None, and which classes, or why there is none."""
        classes, usable = state["classes"], ~np.asarray(state["unusable"], dtype=bool)
        numbers = [j for j, kind in enumerate(classes.kinds) if kind == "amorphous"]
        where = np.isin(classes.label, numbers) & usable
        if (found := int(where.sum())) < LEAST:
            return where, None, f"{found} positions are amorphous, fewer than {LEAST}"
        if classes.patterns is None:
            return where, None, "classes have no mean patterns"
        share = [int((classes.label == j).sum()) for j in numbers]
        mean = np.average([np.asarray(classes.patterns.data[j], dtype=np.float64) for j in numbers], axis=0, weights=share)
        radius = state["template"].radius
        ring = find_ring(mean, beam_of(state), max(1.5 * radius, radius + 3), state.cube.detector_mask)
        if ring is None or of_crystals(ring):
            return where, None, "the mean pattern of the amorphous classes has no even ring"
        return where, ring, f"class {' and '.join(map(str, numbers))}, with a ring of {ring.radius:.0f} px"

    def reductions(self, state: RunState) -> dict[str, Any]:
        if state["technique"] == "amorphous":
            return {}
        where, _, which = self._of_classes(state)
        state.record.decide(f"Amorphous methods at {int(where.sum())} positions", f"they are of {which}; elsewhere there are Bragg disks")
        return ring_reductions(state, None, where, by_position=True)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        if state["technique"] == "amorphous":
            usable = ~np.asarray(state["unusable"], dtype=bool)
            usable &= True if state.where is None else state.where
            profile, rings = state["radial_profile"], state["ring_profiles"]
            state.keep("glass", Glass(usable, state["ring"], state["ring_origin"], profile, rings, mixed=False))
            return
        where, ring, _ = self._of_classes(state)
        assert ring is not None, "else the stage is not wanted"
        profile = results["radial_profile"]
        state.keep("glass", Glass(where, ring, None, profile, results.get("ring_profiles"), mixed=True))
        record_profile(state, profile, ring.radius)

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        if (glass := state["glass"]).mixed:
            yield from draw_profile(state, glass.profile, glass.ring.radius)
