"""Check that patterns hold counts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu4d.errors import InputError
from gpu4d.workflow.clean import measured_background
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Stage

MANY_COUNTS = 100  # larger counts are shown as whole numbers


class Patterns(Stage):
    """Warn of patterns that are empty or not finite. Refuse a scan if all its patterns are."""

    name = "patterns"
    title = "patterns that hold counts"
    guide: ClassVar = ("1",)
    needs: ClassVar = ("total", "mean_pattern")
    makes: ClassVar = ("unusable",)

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        record, counts = state.record, np.asarray(state["total"])
        visited = np.ones(counts.shape, bool) if state.where is None else state.where
        unusable = np.zeros(counts.shape, bool)
        kinds = {"with NaN or infinite values": ~np.isfinite(counts), "without any counts": counts == 0, "negative in total": counts < 0}
        for kind, found in kinds.items():
            found &= visited
            unusable |= found
            if found.any():
                first = ", ".join(f"({x}, {y})" for x, y in np.argwhere(found)[:3])
                record.warn(f"{int(found.sum())} of {int(visited.sum())} patterns are {kind}, the first at {first}: results are NaN there")
        good = counts[visited & ~unusable]
        if good.size == 0:
            raise InputError(f"{state.cube.name}: {_why_none(counts[visited], state.cube.detector_mask is not None)}")
        mean = np.asarray(state["mean_pattern"])
        if (mean[np.isfinite(mean)] < 0).any() and measured_background(state.cube) is None:
            record.warn("some values are negative: subtracting a background in advance biases centres of mass and significances")
        middle = float(np.median(good))
        shown = f"{middle:,.0f}" if middle >= MANY_COUNTS else f"{middle:.3g}"
        record.figure("Counts per pattern", shown, f"median of {good.size:,} patterns")
        state.keep("unusable", unusable)


def _why_none(counts: np.ndarray, masked: bool) -> str:
    """Say why no pattern can be used, and what to do."""
    if not np.isfinite(counts).any():
        return "no pattern has finite values, each has NaN or infinite pixels: mask these pixels, or choose another dataset"
    if not (counts < 0).any():
        if masked:
            return (
                "every pattern is empty at the pixels that the detector mask lets count: is the mask inverted? It must be True, or 1, at "
                "pixels that count, and False, or 0, at the others, such as a beam stop"
            )
        return "every pattern is empty, the sum of its counts is zero: check that this is the right dataset"
    return (
        f"the counts of every pattern are zero or negative in total (median {np.nanmedian(counts):.4g}): the dark reference or background "
        "that was subtracted is too large; subtract less, or give the raw patterns"
    )
