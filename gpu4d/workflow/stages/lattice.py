"""Find the lattice of the scan, and fit it at every position."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

SINGLE = 0.6  # least share of the disks on one lattice: fewer suggest several grains
SHARPNESS = 0.35  # of the disk radius: largest rms distance of disks from the local lattice


class LatticeFit(Stage):
    """Find the lattice that explains the disks, and fit it to every pattern."""

    name = "lattice"
    title = "lattice and local fits"
    needs: ClassVar = ("braggvectors", "origin", "template")
    makes: ClassVar = ("lattice", "lattice_fit")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        import gpu4d

        record, disks, origin = state.record, state["braggvectors"], state["origin"]
        with record.stage(self.title):
            lattice = gpu4d.find_lattice(disks, origin, where=state.where)
            if lattice is None:
                why = "no lattice explains the Bragg disks better than chance: no strain. Look at the Bragg vector map and the thresholds"
                record.warn(why)
                return
            fit = gpu4d.fit_lattice(disks, lattice, origin=origin)
        state.keep("lattice", lattice)
        self._record_lattice(state, lattice)
        lost = int((~np.asarray(fit.mask)).sum()) - (0 if state.where is None else int((~state.where).sum()))
        if lost:
            record.warn(f"{lost} positions have fewer than three disks that do not lie on a line: strain is NaN there")
        if np.asarray(fit.mask).any():
            state.keep("lattice_fit", fit)
            self._sharpness_gate(state, fit)

    def _record_lattice(self, state: RunState, lattice: Any) -> None:
        (g1, g2), size, share = lattice.lengths, state.calibration.q_pixel, f"{100 * lattice.indexed_fraction:.0f} %"
        spacings = f"d = {1 / (g1 * size):.3f} and {1 / (g2 * size):.3f} Å, " if size else ""
        remark = f"{spacings}{math.degrees(lattice.angle):.1f}° apart; {share} of disks"
        state.record.figure("Lattice", f"{g1:.2f}, {g2:.2f} px", remark)
        if lattice.indexed_fraction < SINGLE:
            several = "several grains or phases? Strain is that of the strongest lattice"
            state.record.warn(f"only {share} of the disks lie on the lattice: {several}")

    def _sharpness_gate(self, state: RunState, fit: Any) -> None:
        """Check that disks lie close to the local lattice."""
        residual, radius = float(np.nanmedian(np.asarray(fit.residual))), state["template"].radius
        state.record.gate(
            "Sharpness of the lattice",
            residual < SHARPNESS * radius,
            f"disks lie {residual:.3f} px rms from the local lattice (median)",
            f"below {SHARPNESS * radius:.2f} px ({SHARPNESS:g} disk radii)",
            "check for overlapping grains, elliptical distortion, or a wrong lattice in the Bragg vector map",
        )
