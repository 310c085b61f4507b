"""Find detector pixels that are stuck or dead, and leave them out of all results through the detector mask."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu4d import arrays
from gpu4d.data.bad_pixels import HOT, find_nan_pixels
from gpu4d.data.datacube import DataCube
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.probe.bad_pixels_beside_beam import bad_pixels_beside_beam
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

MAX_SHARE = 0.10  # of the detector, gaps between its modules included: if more pixels look bad, they are not defects
TRIED = 16  # patterns that are read before the first pass, to find pixels that are NaN
LISTED = 6  # number of pixels named in the report


class BadPixels(Stage):
    """Find bad pixels in the mean pattern, and mask them."""

    name = "bad_pixels"
    title = "bad pixels"
    needs: ClassVar = ("first_sums",)
    makes: ClassVar = ("bad_pixels",)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        state.keep("bad_pixels", None)
        if state.recipe.input.bad_pixels == "keep":
            return
        mean, maximum = (np.asarray(state["first_sums"][name], dtype=np.float64) for name in ("mean_pattern", "max_pattern"))
        found = bad_pixels_beside_beam(mean, state.patterns, maximum)
        bad = ~found.mask
        if not bad.any():
            return
        if bad.mean() > MAX_SHARE:
            state.record.warn(f"{int(bad.sum())} detector pixels look stuck or dead: these are too many to be defects, and all are used")
            return
        state.keep("bad_pixels", found)
        bright, dark = int(found.hot.sum()), int(found.dead.sum())
        why = f"{bright} hot (above {HOT:g} times what is around them, or stuck at one value), {dark} dead or in a gap of the detector"
        leave_out(state, bad, why)


def leave_out(state: RunState, bad: np.ndarray, why: str) -> None:
    """Exclude pixels through the detector mask, and say so."""
    cube = state.cube
    mask = ~bad if cube.detector_mask is None else cube.detector_mask & ~bad
    state.cube = DataCube(cube.source, cube.calibration, cube.metadata, mask, cube.name)
    listed = ", ".join(f"({x}, {y})" for x, y in np.argwhere(bad)[:LISTED]) + (", …" if bad.sum() > LISTED else "")
    state.record.decide(f"{int(bad.sum())} detector pixel{'s are' if bad.sum() > 1 else ' is'} left out: {listed}", why)


def leave_out_nan(state: RunState) -> None:
    """Exclude pixels that are NaN in most patterns: else no pattern would have a sum.

    A few patterns are read. Nothing is done for integers, or where the recipe keeps bad pixels.
    """
    cube = state.cube
    if state.recipe.input.bad_pixels == "keep" or arrays.is_integer_dtype(cube.dtype):
        return
    visited = np.ones(cube.scan_shape, bool) if state.where is None else state.where
    bad = find_nan_pixels(arrays.to_numpy(patterns_at(cube, grid_positions(visited, TRIED))))
    if cube.detector_mask is not None:
        bad &= cube.detector_mask
    if bad.any():
        leave_out(state, bad, f"NaN or infinite in most of {TRIED} patterns spread over the scan")
