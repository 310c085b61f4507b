"""Check how the scan was recorded: electrons per pattern, pixels of the disk, steadiness from the first row to the last."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from gpu4d.beam.row_drift import row_drift
from gpu4d.preprocess import in_counts
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage, no, yes

ENOUGH = 12.0  # px: radius of a disk that locates it as well as any finer one does; a binned disk keeps at least this
COARSER = 2  # side of the pixels that are advised to be summed
BY_DEFLECTION = ("dpc", "magnetic", "parallax", "ssb", "wdd", "ptychography")  # the centre of mass is that of the direct beam
BY_DISKS = ("bragg", "both", "dpc")  # ptychography's pixels set its field of view, and may be many
LEAST_ROWS = 10  # a trend of fewer rows is chance
END = 0.1  # share of the rows at either end that are compared
STEADY = 0.9  # rank correlation of the counts with the row from which on they change steadily


class AcquisitionChecks(Stage):
    """Look at dose, sampling and steadiness: mistakes of the recording that no analysis mends."""

    name = "acquisition_checks"
    title = "electrons, sampling and steadiness of the recording"
    guide: ClassVar = ("W",)
    needs: ClassVar = ("total", "technique")
    uses: ClassVar = ("disk", "unusable")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        total = np.asarray(state["total"], dtype=np.float64)
        seen = np.isfinite(total) if state.where is None else np.isfinite(total) & np.asarray(state.where)
        unusable = state.get("unusable")
        seen = seen if unusable is None else seen & ~np.asarray(unusable, bool)
        if not seen.any():
            return
        if in_counts(state.cube.dtype, total):
            middle = float(np.median(total[seen]))
            state.record.measure("electrons", middle, f"{middle:,.0f} counts (median of {int(seen.sum()):,} patterns)")
        self._sampling(state)
        self._steadiness(state, np.where(seen, total, np.nan))

    def _sampling(self, state: RunState) -> None:
        """Say if the detector has more pixels than the disks need."""
        if "disk" not in state or state["technique"] not in BY_DISKS:
            return
        radius = state["disk"].radius
        if radius < COARSER * ENOUGH:
            return
        state.record.decide(
            f"More detector pixels than the disks need: a radius of {radius:.1f} px",
            f"--bin {COARSER} leaves {radius / COARSER:.1f} px, with the same precision from a quarter of the data; next time, a smaller "
            "format or a shorter dwell saves dose and drift (guide, pitfall 5)",
        )

    def _steadiness(self, state: RunState, total: np.ndarray) -> None:
        """Compare the first rows with the last, where the counts change steadily."""
        with np.errstate(invalid="ignore"):
            known = np.isfinite(total).any(axis=1)
            rows = np.array([np.nanmean(row) for row in total[known]])
        if len(rows) < LEAST_ROWS or not rows.mean() > 0:
            return
        order = np.argsort(np.argsort(rows))
        together = float(np.corrcoef(order, np.arange(len(rows)))[0, 1])
        ends = max(1, round(END * len(rows)))
        change = float((rows[-ends:].mean() - rows[:ends].mean()) / rows[:ends].mean()) if rows[:ends].mean() > 0 else 0.0
        steady = abs(together) >= STEADY
        said = f"counts change by {100 * change:+.1f} % from the first to the last rows"
        if steady:
            said += f", steadily (rank correlation {together:+.2f})"
        else:
            said += f", but up and down between them (rank correlation {together:+.2f}): no steady change"
        state.record.measure("steadiness", 100 * change if steady else 0.0, said)


class PatternChecks(Stage):
    """Compare where the direct beam is in the first rows with where it is in the last."""

    name = "pattern_checks"
    title = "steadiness of the pattern"
    guide: ClassVar = ("W",)
    needs: ClassVar = ("com", "technique", "disk")
    uses: ClassVar = ("origin", "unusable")

    def wanted(self, state: RunState) -> Reason:
        if "origin" in state:
            return yes("the origin of every pattern is measured")
        if state["technique"] in BY_DEFLECTION:
            return yes("the centre of mass is that of the bright-field disk")
        return no("the direct beam was not located in every pattern")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        measured = "origin" in state
        beam = state["origin"].measured if measured else np.moveaxis(np.asarray(state["com"]), 0, -1)
        beam = np.array(beam, dtype=np.float64)
        left_out = [mask for mask in (state["origin"].outliers if measured else None, state.get("unusable")) if mask is not None]
        for mask in [*left_out, *([] if state.where is None else [~np.asarray(state.where)])]:
            beam[np.asarray(mask, bool)] = np.nan
        found = row_drift(beam)
        if found is None:
            return
        said = f"the direct beam moves by {found.shift:.2f} ± {found.error:.2g} px from the first rows to the last; the descan along a row "
        record, radius = state.record, state["disk"].radius
        record.measure("pattern_drift", found.beyond / radius, f"{said}explains {found.along:.2f} px; the radius is {radius:.1f} px")
