"""Check lattice, strain and calibration against each other: d and g, the sign of strain, and which values were never measured."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from gpu4d.crystal.dilation import dilation_and_spacing
from gpu4d.workflow.gates import BY_KEY
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

USUAL = 5.0  # Å: middle of the spacings that crystals show, by ratio; the spacing farthest from it is judged
UNMEASURED = ("given", "set", "units of the axes")  # how the history begins for values that were not measured
NOMINAL = "semi-angle"  # how a value begins that rests on the semi-angle, which is given
COMMON = "nominal pixel sizes are wrong by 5 to 10 %, and ellipses of 1 to 3 % are common"
MEASURE = "measure a standard of the same session with `gpu4d calibrate`, and give --calibration"


class LatticeChecks(Stage):
    """Compare lattice, strain and calibration with each other, and list the calibration values that were never measured."""

    name = "lattice_checks"
    title = "lattice and calibration against each other"
    guide: ClassVar = ("W",)
    needs: ClassVar = ("lattice",)
    uses: ClassVar = ("lattice_fit", "lattices_fit", "strain", "rotation", "shadow_rotation")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        self._indexed(state)
        if "lattice_fit" not in state:
            return
        self._spacings(state)
        if "strain" in state:
            self._sign(state)
        self._unmeasured(state)

    def _indexed(self, state: RunState) -> None:
        """Check that most disks lie on the lattice whose strain is given."""
        share = state["lattice"].indexed_fraction
        said = f"{100 * share:.0f} % of the disks lie on the lattice"
        if "lattices_fit" in state and "lattice_fit" in state:  # other positions have lattices of their own, and no strain
            fit = state["lattice_fit"]
            here = np.asarray(fit.mask) & np.asarray(state["lattices_fit"].present)[0]
            if here.any():
                share = float(np.mean(np.asarray(fit.indexed_fraction)[here]))
                said = f"{100 * share:.0f} % of the disks lie on the lattice at its {int(here.sum()):,} positions; of the scan's, {said}"
        state.record.measure("lattice_share", 100 * share, said)

    def _spacings(self, state: RunState) -> None:
        """Check that spacings d = 1/|g| are such as crystals have. A pixel size in 1/nm, or one with the factor 2π, gives others."""
        if not state.calibration.q_pixel:
            return
        d = [1 / (length * state.calibration.q_pixel) for length in state["lattice"].lengths]
        least_like = max(d, key=lambda one: abs(math.log(one / USUAL)))
        state.record.measure("lattice_spacing", least_like, f"d = 1/|g| = {d[0]:.4g} and {d[1]:.4g} Å")

    def _sign(self, state: RunState) -> None:
        """Check that the crystal is stretched where its disks move towards the beam."""
        found = dilation_and_spacing(state["lattice_fit"], state["strain"])
        if found is None:
            return
        said = f"where the cell that 1/g gives grows by 1 %, ε_xx + ε_yy grows by {found.slope:.3f} % ({found.positions:,} positions)"
        low, high = state.record.policy.bands(BY_KEY["strain_trace"])[0]
        expected = f"{low:g} to {high:g}: tension is positive, and moves disks towards the beam"
        state.record.measure("strain_trace", found.slope, said, expected=expected)

    def _unmeasured(self, state: RunState) -> None:
        """Record which values of the calibration are not known, were given, or rest on a nominal semi-angle."""
        c = state.calibration
        how = {entry.field: entry.how for entry in c.history}
        parts = []
        for field, word in (("ellipse", "ellipse"), ("rotation", "rotation"), ("q_pixel", "pixel size")):
            if getattr(c, field) is None:
                parts.append(f"{word} not known")
            elif how.get(field, "").startswith(UNMEASURED):
                parts.append(f"{word} as given")
            elif how.get(field, "").startswith(NOMINAL):
                parts.append(f"{word} from a nominal semi-angle")
        if parts:
            state.record.decide(f"Calibration not measured: {', '.join(parts)}", f"{COMMON}: {MEASURE}")
