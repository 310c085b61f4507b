"""Find where a scan is amorphous: everywhere, if it has a diffuse ring and no lattice, or at the positions of amorphous classes."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import numpy as np

from gpu4d.crystal.technique import FINE_GRAINED
from gpu4d.rings.find_ring import Ring, find_ring
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage, no, yes
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
    mixed : bool
        True if other positions are crystalline.
    """

    where: np.ndarray
    ring: Ring
    mixed: bool


class FindGlass(Stage):
    """Say which positions are amorphous, before radial statistics, fluctuations, distances of atoms and strain are measured there."""

    name = "glass"
    title = "amorphous part of the scan"
    needs: ClassVar = ("technique", "mean_pattern", "unusable")
    uses: ClassVar = ("ring", "classes", "disk")
    makes: ClassVar = ("glass",)

    def wanted(self, state: RunState) -> Reason:
        technique = state["technique"]
        if technique == "amorphous":
            return yes(f"the technique is {technique}: the mean pattern has a ring of {state['ring'].radius:.0f} px")
        if (classes := state.get("classes")) is None:
            return no(f"the technique is {technique}, and no class of patterns is amorphous")
        if "amorphous" not in classes.kinds or classes.patterns is None:
            return no("no class of patterns is amorphous")
        return yes("classes of patterns are amorphous")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        usable = ~np.asarray(state["unusable"], dtype=bool)
        usable &= True if state.where is None else state.where
        if state["technique"] == "amorphous":
            state.keep("glass", Glass(usable, state["ring"], mixed=False))
            return
        classes = state["classes"]
        numbers = [j for j, kind in enumerate(classes.kinds) if kind == "amorphous"]
        where = np.isin(classes.label, numbers) & usable
        found = int(where.sum())
        if found < LEAST:
            state.record.note(f"{found} positions are amorphous, fewer than {LEAST}: they are not measured apart")
            return
        share = [int((classes.label == j).sum()) for j in numbers]
        mean = np.average([np.asarray(classes.patterns.data[j], dtype=np.float64) for j in numbers], axis=0, weights=share)
        radius = state["template"].radius
        ring = find_ring(mean, beam_of(state), max(1.5 * radius, radius + 3), state.cube.detector_mask)
        if ring is None or ring.unevenness >= FINE_GRAINED:
            state.record.note("the mean pattern of the amorphous classes has no even ring: they are not measured apart")
            return
        state.keep("glass", Glass(where, ring, mixed=True))
        state.record.decide(
            f"Amorphous methods at {found} positions alone",
            f"those of class {' and '.join(map(str, numbers))}, which has a ring of {ring.radius:.0f} px; elsewhere there are Bragg disks",
        )
