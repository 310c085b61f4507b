"""Make the Bragg vector map: all disks of the scan in one plane."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

from gpu4d.bragg.friedel import friedel_symmetry
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.workflow.picture import DISKS, Drawn, Picture
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage


class VectorMap(Stage):
    """Collect all disks, each relative to its own origin, in one image."""

    name = "vector_map"
    title = "Bragg vector map"
    guide: ClassVar = ("O",)
    needs: ClassVar = ("braggvectors", "origin", "template")
    makes: ClassVar = ("bragg_vector_map",)
    place: ClassVar = 50

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        disks, origin, shape = state["braggvectors"], state["origin"].fitted, state.cube.detector_shape
        with state.record.stage(self.title):
            state.save("bragg_vector_map", gpu4d.bragg_vector_map(disks, shape, origin=origin, calibration=state.calibration))
        likeness = friedel_symmetry(disks, origin, shape, state["template"].radius)
        if likeness is not None:
            state.record.measure("vector_map_symmetry", likeness, f"overlap with its inversion {likeness:.2f}")

    def pictures(self, state: RunState) -> Iterator[Drawn]:
        from gpu4d import plot

        lattice = state.get("lattice")
        caption = "All Bragg disks of the scan in one diffraction plane, each relative to its own origin"
        caption += ", with the lattice vectors that were found." if lattice is not None else ". No lattice was found in them."
        if lattice is not None and state.calibration.ellipse is not None:  # the map is one of places without the ellipse
            rows = lattice.matrix @ ellipse_matrix(state.calibration.ellipse).T
            lattice = dataclasses.replace(lattice, g1=rows[0], g2=rows[1])
        made = plot.bragg_vector_map(state["bragg_vector_map"], lattice)
        yield Picture("bragg_vector_map", DISKS, "Bragg vector map", caption), made
