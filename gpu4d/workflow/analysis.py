"""What a run knows of a scan so far, and the order in which it finds it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.device.timeline import Timeline
from gpu4d.sizes import format_bytes
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record


@dataclass
class Analysis:
    """A scan under analysis.

    Attributes
    ----------
    cube, recipe, record
        The scan, the settings, and what is written down.
    where : (Rx, Ry) bool or None
        Positions to use.
    unusable : (Rx, Ry) bool or None
        Positions whose patterns are empty, negative, or have NaN or infinite values; None before the first pass.
    given_probe : (Qx, Qy) float64 or None
        A vacuum probe that was handed in.
    products : dict
        Results by the name they have in the result file.
    disk : Disk or None
        The bright-field disk of the mean pattern.
    template : Template or None
    probe_origin : str
        Where the probe is from.
    trial : Trial or None
        What Bragg disks looked like at a few positions.
    technique : {"bragg", "dpc", "both", "images"}
    disks, origin, lattice, fit, strain, dpc
        Results of the techniques that were chosen; None for the others.
    timeline : Timeline or None
        Where sweeps note what they did when.
    """

    cube: DataCube
    recipe: Recipe
    record: Record = field(default_factory=Record)
    where: np.ndarray | None = None
    unusable: np.ndarray | None = None
    given_probe: np.ndarray | None = None
    products: dict[str, Any] = field(default_factory=dict)
    disk: Any = None
    template: Any = None
    probe_origin: str = ""
    trial: Any = None
    technique: str = "images"
    disks: Any = None
    origin: Any = None
    lattice: Any = None
    fit: Any = None
    strain: Any = None
    dpc: Any = None
    timeline: Timeline | None = None

    @property
    def calibration(self) -> Calibration:
        return self.cube.calibration

    @property
    def patterns(self) -> int:
        """How many patterns one pass visits."""
        return int(np.prod(self.cube.scan_shape)) if self.where is None else int(self.where.sum())

    @property
    def pass_bytes(self) -> int:
        """How many bytes one pass reads."""
        return self.cube.nbytes * self.patterns // max(1, int(np.prod(self.cube.scan_shape)))

    @property
    def sweep_options(self) -> dict[str, Any]:
        """What the recipe says of device and memory, for `gpu4d.sweep`."""
        compute = self.recipe.compute
        return {"device": compute.device, "memory": compute.memory, "trace": self.timeline}

    def sweep(self, reductions: dict[str, Any], progress: Any) -> dict[str, Any]:
        """One pass over the scan on the recipe's device and within its memory, or, where none was asked for, what the results need."""
        import gpu4d
        from gpu4d.errors import MemoryBudgetError
        from gpu4d.streaming.plan import plan

        options = self.sweep_options
        if "compute.memory" not in self.recipe.given:
            try:
                plan(self.cube, reductions, device=options["device"], memory=options["memory"], where=self.where)
            except MemoryBudgetError as error:
                if 1.5 * error.asked > error.free:
                    raise
                options["memory"] = str(int(1.5 * error.asked))
                self.record.note(f"the results alone need {format_bytes(error.asked)}: the memory is raised to 1.5 times that")
        return gpu4d.sweep(self.cube, reductions, where=self.where, progress=progress, **options)


def analyse(
    cube: DataCube,
    recipe: Recipe | None = None,
    record: Record | None = None,
    probe: Any = None,
    timeline: Timeline | None = None,
) -> Analysis:
    """The whole analysis of a scan, in memory: survey, decision, second pass, technique, quality gates.

    Parameters
    ----------
    cube : DataCube
        Its calibration is completed in place.
    recipe : Recipe, optional
    record : Record, optional
        Where times, decisions, gates and warnings are written.
    probe : (Qx, Qy) array, optional
        Vacuum probe; the recipe's, or one made from the scan, otherwise.
    timeline : gpu4d.device.timeline.Timeline, optional
        Is filled with what was read, copied and computed when.

    Returns
    -------
    Analysis
        What cannot be measured (no disk, no lattice, no calibration) is missing from `products`, with a warning in
        `record` that says why.
    """
    recipe, record = recipe or Recipe(), record or Record()
    with record.listening():
        return _analyse(cube, recipe, record, probe, timeline)


def _analyse(cube: DataCube, recipe: Recipe, record: Record, probe: Any, timeline: Timeline | None) -> Analysis:
    from gpu4d.workflow import crystal, decide, gates, inputs, phase, survey

    record.note(f"scan {cube!r}")
    for line in recipe.advice():
        record.warn(line)
    a = Analysis(cube, recipe, record, inputs.scan_mask(cube, recipe), timeline=timeline)
    inputs.check_regions(a)
    a.given_probe = inputs.given_probe(cube, recipe) if probe is None else np.asarray(probe, dtype=np.float64)
    survey.first_pass(a)
    survey.bright_field_disk(a)
    gates.background(a)
    decide.try_disks(a)
    survey.complete_calibration(a)
    decide.technique(a)
    survey.second_pass(a)
    if a.technique in ("dpc", "both"):
        phase.dpc(a)  # first: it finds the rotation that turns strain into the scan's axes
    if a.technique in ("bragg", "both"):
        crystal.strain(a)
    return a
