"""Find detector pixels that are stuck or dead, and leave them out of all results through the detector mask."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu4d.workflow.clean import measured_background
from gpu4d.workflow.leave_out import bad_beside_beam, leave_out, nan_in_most
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage


class BadPixels(Stage):
    """Find bad pixels in the mean pattern, and mask them."""

    name = "bad_pixels"
    title = "bad pixels"
    guide: ClassVar = ("B",)
    needs: ClassVar = ("first_sums",)
    makes: ClassVar = ("bad_pixels",)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        state.keep("bad_pixels", None)
        if state.recipe.input.bad_pixels == "keep":
            return
        mean, maximum = (np.asarray(state["first_sums"][name], dtype=np.float64) for name in ("mean_pattern", "max_pattern"))
        measured = measured_background(state.cube)
        bad = bad_beside_beam(mean, state.patterns, maximum, 0.0 if measured is None else measured.error)
        if bad.too_many:
            state.record.warn(bad.too_many)
        elif _without(state, bad.pixels, bad.why):
            state.keep("bad_pixels", bad.found)

    def methods(self, state: RunState) -> str:
        mask = state.cube.detector_mask
        if mask is None or mask.all():
            return ""
        return f"{int((~np.asarray(mask)).sum())} detector pixels were bad or masked, and were left out of all results."


def leave_out_nan(state: RunState) -> None:
    """Leave out pixels that are NaN in most patterns, unless the recipe keeps bad pixels. It reads a few patterns."""
    if state.recipe.input.bad_pixels != "keep":
        _without(state, *nan_in_most(state.cube, state.where))


def _without(state: RunState, bad: np.ndarray, why: str) -> bool:
    """Leave pixels out, and record it. Return whether there are any that counted so far."""
    left = leave_out(state.cube, bad)
    if left is None:
        return False
    state.cube = left.cube
    state.record.decide(left.said, why)
    return True
