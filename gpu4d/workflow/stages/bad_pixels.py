"""Find detector pixels that are stuck or dead, and leave them out of all results through the detector mask."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.preprocess.bad_pixels import HOT, find_bad_pixels
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

MAX_SHARE = 0.005  # of the detector: if more pixels look bad, they are not defects
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
        found = find_bad_pixels(np.asarray(state["first_sums"]["mean_pattern"], dtype=np.float64), state.patterns)
        bad = ~found.mask
        if not bad.any():
            return
        if bad.mean() > MAX_SHARE:
            state.record.warn(f"{int(bad.sum())} detector pixels look stuck or dead: these are too many to be defects, and all are used")
            return
        cube = state.cube
        mask = found.mask if cube.detector_mask is None else cube.detector_mask & found.mask
        state.cube = DataCube(cube.source, cube.calibration, cube.metadata, mask, cube.name)
        state.keep("bad_pixels", found)
        listed = ", ".join(f"({x}, {y})" for x, y in np.argwhere(bad)[:LISTED]) + (", …" if bad.sum() > LISTED else "")
        what = f"{int(bad.sum())} detector pixel{'s are' if bad.sum() > 1 else ' is'} left out: {listed}"
        bright, dark = int(found.hot.sum()), int(found.dead.sum())
        why = f"{bright} brighter than {HOT:g} times every neighbour in the mean pattern, {dark} dark among bright ones"
        state.record.decide(what, why)
