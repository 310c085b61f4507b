"""Hold the state of a run: results, products, reasons. This module imports no stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.device.timeline import Timeline
from gpu4d.errors import InputError, MemoryBudgetError
from gpu4d.io.saving import Item
from gpu4d.sizes import format_bytes
from gpu4d.streaming.engine import BudgetOptions
from gpu4d.streaming.progress import Progress
from gpu4d.streaming.reduction import Reduction, Result
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.stage import Reason

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

MEMORY_MARGIN = 1.5  # times the memory that the results need, so that chunks fit beside them


@dataclass
class RunState:
    """A scan under analysis.

    Attributes
    ----------
    cube, recipe, record
        The scan, the settings, and the record of the run.
    where : (Rx, Ry) bool or None
        Positions to use. None for all.
    given_probe : (Qx, Qy) float64 or None
        Image of the vacuum probe, if the caller gave one.
    timeline : Timeline or None
        Records the work of sweeps.
    client : distributed.Client or None
        Its workers share the passes over the scan.
    results : dict
        Results of stages, by the names in their `makes`.
    products : dict
        Results that are written into the result file, by their names there.
    reasons : dict
        Name of a stage -> whether it ran, and why.
    """

    cube: DataCube
    recipe: Recipe
    record: Record = field(default_factory=Record)
    where: np.ndarray | None = None
    given_probe: np.ndarray | None = None
    timeline: Timeline | None = None
    client: Client | None = None
    results: dict[str, Result] = field(default_factory=dict)
    products: dict[str, Item] = field(default_factory=dict)
    reasons: dict[str, Reason] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"RunState({self.cube!r}, results: {', '.join(sorted(self.results)) or 'none'})"

    def _repr_html_(self) -> str | None:
        from gpu4d.workflow.shown import shown

        return shown(self, "Analysis")

    def __getitem__(self, name: str) -> Result:
        """Return a result by its name. Raise KeyError if no stage made it."""
        return self.results[name]

    def __getattr__(self, name: str) -> Any:
        """Return a result as an attribute: `state.strain` is `state["strain"]`."""
        results = self.__dict__.get("results", {})
        if name in results:
            return results[name]
        raise AttributeError(f"no stage made {name!r}; there are {', '.join(sorted(results)) or 'no results'}")

    def get(self, name: str) -> Result:
        """Return a result by its name, or None."""
        return self.results.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self.results

    def keep(self, name: str, result: Result) -> None:
        """Store a result for other stages."""
        self.results[name] = result

    def save(self, name: str, result: Result) -> None:
        """Store a result for other stages, and write it into the result file under this name."""
        self.results[name] = result
        self.products[name] = result

    @property
    def calibration(self) -> Calibration:
        """Calibration of the scan. Stages complete it."""
        return self.cube.calibration

    @property
    def patterns(self) -> int:
        """Count the patterns that one pass visits."""
        return int(np.prod(self.cube.scan_shape)) if self.where is None else int(self.where.sum())

    @property
    def pass_bytes(self) -> int:
        """Count the bytes that one pass reads."""
        return self.cube.nbytes * self.patterns // max(1, int(np.prod(self.cube.scan_shape)))

    @property
    def _means(self) -> Recipe:
        """The recipe for settings of device and memory, which change no bit of a result. What keeps results does not see them read."""
        return getattr(self.recipe, "unwatched", self.recipe)

    @property
    def sweep_options(self) -> BudgetOptions:
        """Device and memory of the recipe, and its workers, as options of `gpu4d.sweep`."""
        compute = self._means.compute
        return {"device": compute.device, "memory": compute.memory, "trace": self.timeline, "client": self.client}

    def sweep(self, reductions: dict[str, Reduction], progress: Progress) -> dict[str, Result]:
        """Read the scan once on the recipe's device.

        If the user set no memory limit, and the results alone need more than the default, the limit is raised.
        """
        import gpu4d
        from gpu4d.streaming.plan import plan

        if self.client is not None:
            given: dict[str, Any] = {"where": self.where, "progress": progress}
            return self.with_memory(lambda options: gpu4d.sweep(self.cube, reductions, **{**given, **options}))
        compute = self._means.compute
        memory = compute.memory
        if "compute.memory" not in self._means.given:
            try:
                plan(self.cube, reductions, device=compute.device, memory=memory, where=self.where)
            except MemoryBudgetError as error:
                if MEMORY_MARGIN * error.asked > error.free:
                    raise
                memory = str(int(MEMORY_MARGIN * error.asked))
                asked = format_bytes(error.asked)
                self.record.note(f"the results alone need {asked}: the memory limit is raised to {MEMORY_MARGIN:g} times that")
        return gpu4d.sweep(
            self.cube, reductions, where=self.where, progress=progress, device=compute.device, memory=memory, trace=self.timeline
        )

    def with_memory(self, work: Callable[[BudgetOptions], T]) -> T:
        """Return what `work` makes with `sweep_options`. The memory limit is raised as in `sweep`.

        Raises
        ------
        InputError
            The limit that the user set, or the memory of the machine, is too small.
        """
        options = self.sweep_options
        while True:
            try:
                return work(options)
            except MemoryBudgetError as error:
                raised = MEMORY_MARGIN * error.asked
                if "compute.memory" in self._means.given or not error.cap < raised <= error.free:
                    raise InputError(str(error)) from error
                options["memory"] = str(int(raised))
                asked = format_bytes(error.asked)
                self.record.note(f"the results need {asked}: the memory limit is raised to {MEMORY_MARGIN:g} times that")
