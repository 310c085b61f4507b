"""Compute mean and maximum pattern, centre of mass and total counts in the first pass over the scan."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage, yes
from gpu4d.workflow.stages.bad_pixels import leave_out_nan


def sums(state: RunState) -> dict[str, Any]:
    """Return the reductions of the first pass."""
    import gpu4d

    everything = gpu4d.detectors.from_array(np.ones(state.cube.detector_shape, bool))
    return {
        "mean_pattern": gpu4d.MeanPattern(),
        "max_pattern": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "total": gpu4d.VirtualImage(everything),
    }


class FirstSums(Stage):
    """Sum the scan with all pixels of the detector mask."""

    name = "survey"
    title = "mean, maximum, centre of mass"
    guide: ClassVar = ("1", "P")
    makes: ClassVar = ("first_sums",)
    compiles: ClassVar = ("sums",)

    def reductions(self, state: RunState) -> dict[str, Any]:
        leave_out_nan(state)
        return sums(state)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        state.keep("first_sums", results)


class Sums(Stage):
    """Sum the scan again without bad pixels, or pass on the first sums if there are none."""

    name = "sums"
    title = "mean, maximum, centre of mass without bad pixels"
    guide: ClassVar = ("B",)
    needs: ClassVar = ("first_sums", "bad_pixels")
    makes: ClassVar = ("mean_pattern", "max_pattern", "com", "total")

    def wanted(self, state: RunState) -> Reason:
        found = state["bad_pixels"] is not None
        return yes("bad pixels were found: the scan is summed again" if found else "no pixel is left out: the first sums are used")

    def reductions(self, state: RunState) -> dict[str, Any]:
        return {} if state["bad_pixels"] is None else sums(state)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        for name, result in (results or state["first_sums"]).items():
            if name == "total":
                state.keep(name, result)
            else:
                state.save(name, result)
