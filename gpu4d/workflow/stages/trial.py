"""Search Bragg disks at a few positions: are there any, does a lattice explain them, and how does the beam move?"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from gpu4d.beam.origin import Origin
from gpu4d.bragg.disk_search import SearchOptions
from gpu4d.crystal import Lattice
from gpu4d.data.fill import fill_from_neighbours
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.probe import Disk, Template
from gpu4d.probe.template_kernel import LEAST_TRENCH
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stage import Reason, Stage, no, yes
from gpu4d.workflow.stages.origin import measure_origin

WANDER = 0.25  # px rms: if the beam moves more, the blurred mean pattern gives a wrong radius and edge
FOR_ORIENTATIONS = 3.0  # σ: least significance of disks from which orientations are found
LEAST_ORIGINS = 9  # fewest trial patterns with a beam from which its motion is taken
RELATIVE_THRESHOLD = 0.02  # of the strongest disk; used if values are not counts, because their significance is then unknown
PIXELS_OF_DEFINITION = 4_000_000  # of all trial patterns: with more, the definition takes longer than compiling its twin
LEAST_EDGE = 0.5  # px: a sharper edge than half a pixel cannot be seen


@dataclass
class Trial:
    """Bragg disks at a few positions.

    Attributes
    ----------
    positions : (n, 2) int
    disks : PointListArray
        In the shape of the scan. Other positions are empty.
    options : dict
        Options of `find_bragg_disks` and `BraggDisks` for the whole scan.
    lattice : Lattice or None
    origin : Origin or None
        Surface fitted to the unscattered disks of the trial positions.
    """

    positions: np.ndarray
    disks: PointListArray
    options: SearchOptions = field(default_factory=SearchOptions)
    lattice: Lattice | None = None
    origin: Origin | None = None

    @property
    def descan(self) -> float:
        """Distance that the unscattered beam moves over the scan, pixels. 0 if it is not known."""
        smooth = self.surface
        return 0.0 if smooth is None else float(np.hypot(*np.ptp(smooth, axis=(0, 1))))

    @property
    def surface(self) -> np.ndarray | None:
        """The beam over the scan, (Rx, Ry, 2), without single patterns in which it was found elsewhere. None if it is not known."""
        path = self._path()
        if path is None:
            return None
        return path.fitted if path.surface is None else path.surface

    @property
    def wander(self) -> float:
        """Distance of the measured origins from their mean, rms in pixels. 0 if it is not known."""
        path = self._path()
        return 0.0 if path is None else float(np.hypot(*np.nanstd(path.measured, axis=(0, 1))))

    def _path(self) -> Origin | None:
        """Return the origin if it was measured in enough patterns to be believed, else None."""
        enough = self.origin is not None and np.isfinite(self.origin.measured[..., 0]).sum() >= LEAST_ORIGINS
        return self.origin if enough else None

    @property
    def counts(self) -> np.ndarray:
        """Number of disks in each trial pattern."""
        return np.asarray(self.disks.counts)[self.positions[:, 0], self.positions[:, 1]]


class TryDisks(Stage):
    """Search disks and a lattice at a few positions.

    If the beam moves, the disk is measured again in patterns that are moved back, and the search is repeated.
    """

    name = "trial"
    title = "trial: Bragg disks at a few positions"
    guide: ClassVar = ("F", "L", "M")
    needs: ClassVar = ("total",)
    uses: ClassVar = ("mean_disk", "vacuum_template", "unusable")
    makes: ClassVar = ("trial", "trial_probe")

    def wanted(self, state: RunState) -> Reason:
        asked = state.recipe.analysis.technique
        if asked not in ("auto", "bragg", "both"):
            return no(f"the recipe asks for {asked}")
        if "mean_disk" not in state and "vacuum_template" not in state:
            return no("without a bright-field disk or a given probe there is no template")
        return yes("shows whether the scan has Bragg disks")

    def finish(self, state: RunState, results: dict[str, Any]) -> None:
        disk, vacuum = state.get("mean_disk"), state.get("vacuum_template")
        template = vacuum
        if template is None:
            try:
                template = template_of(state, disk)
            except InputError as error:
                state.record.warn(f"the brightest region of the mean pattern is not a whole disk ({error}): it is not used")
                state.keep("trial_probe", (None, None))
                return
        with state.record.stage(self.title):
            positions, options = trial_positions(state), bragg_options(state)
            trial = try_disks(state, (disk, template), positions, options)
            if vacuum is None and disk is not None and trial.wander > WANDER:
                disk, template = measure_aligned(state, trial, disk, template)
                trial = try_disks(state, (disk, template), positions, options)
        state.keep("trial", trial)
        state.keep("trial_probe", (disk, template))


def template_of(state: RunState, disk: Disk) -> Template:
    """Make a template like a measured disk."""
    import gpu4d

    image = gpu4d.probe.synthetic(state.cube.detector_shape, disk.radius, center=(disk.qx, disk.qy), edge=max(disk.edge, LEAST_EDGE))
    return template_like(state, image, disk)


def template_like(state: RunState, image: np.ndarray, disk: Disk) -> Template:
    """Make the template of an image of the probe, whose disk was measured, as the recipe says."""
    import gpu4d

    given = state.recipe.probe
    return gpu4d.probe.template(image, kind=given.template, sigma=given.gaussian_width * max(disk.radius, LEAST_TRENCH))


def try_disks(state: RunState, probe: tuple[Disk | None, Template], positions: np.ndarray, options: SearchOptions) -> Trial:
    """Find disks at the positions, the surface of their origins, and a lattice.

    Positions come from a parabola on the map that maxima are found on, without standard errors. They are exact enough to tell whether
    there is a lattice, and where the beam goes. A scan without Bragg disks needs no other search. So of usual detectors the definition
    runs: it takes a fraction of a second, and compiling the twin takes ten.
    """
    import gpu4d

    disk, template = probe
    quick: SearchOptions = {**options, "refine": None if options["refine"] is None else "parabola", "refine_power": options["power"]}
    small = len(positions) * math.prod(state.cube.detector_shape) <= PIXELS_OF_DEFINITION
    with gpu4d.using("definition") if small else nullcontext():
        found = gpu4d.BraggDisks(template, **quick).at(state.cube, positions)
    trial = Trial(positions, in_scan_shape(found, positions, state.cube.scan_shape), options)
    if len(trial.disks):
        guess = state.calibration.origin if disk is None else (disk.qx, disk.qy)
        try:
            trial.origin = measure_origin(state, trial.disks, guess, template.radius)
            trial.lattice = gpu4d.find_lattice(trial.disks, trial.origin)
        except InputError as error:
            state.record.note(f"trial: {error}")
    else:
        state.record.warn("no disk was found in any trial pattern, not even the unscattered one: the thresholds may be too high")
    return trial


def measure_aligned(state: RunState, trial: Trial, disk: Disk, template: Template) -> tuple[Disk, Template]:
    """Measure radius and edge of the disk in trial patterns that are moved to a common origin.

    Returns the disk and its template, or the given ones if the aligned patterns show no whole disk.
    """
    import gpu4d
    from gpu4d.imaging.shifted_patterns import shifted_patterns

    record = state.record
    assert trial.origin is not None, "the beam is known to move"
    x, y = trial.positions.T
    origins = trial.origin.measured[x, y]
    seen = np.isfinite(origins).all(axis=-1) & ~trial.origin.outliers[x, y]
    stack = patterns_at(state.cube, trial.positions[seen]).astype(np.float64)
    stack = fill_from_neighbours(stack, state.cube.detector_mask)
    mean = shifted_patterns(stack, np.array([disk.qx, disk.qy]) - origins[seen]).mean(axis=0)
    try:
        aligned = gpu4d.probe.measure_disk(mean)
    except ValueError as error:  # InputError, or a fit that failed
        record.note(f"disk of the aligned trial patterns: {error}")
        return disk, template
    again = f"disk of radius {disk.radius:.2f} px measured again as {aligned.radius:.2f} px"
    record.note(f"the beam moves by {trial.wander:.1f} px rms: {again}")
    sharper = disk._replace(radius=aligned.radius, edge=aligned.edge)
    try:
        return sharper, template_of(state, sharper)
    except InputError as error:  # a disk that is cut by the detector: keep the first measurement
        record.note(f"disk of the aligned trial patterns: {error}")
        return disk, template


def bragg_options(state: RunState) -> SearchOptions:
    """Return options of the disk search. If values are not counts, a relative threshold replaces the significance."""
    b = state.recipe.bragg
    options: SearchOptions = {
        "power": b.power,
        "refine": None if b.refine == "none" else b.refine,
        "refine_power": b.refine_power,
        "upsample": b.upsample,
        "min_significance": b.min_significance,
        "min_relative_intensity": b.min_relative_intensity,
        "min_absolute_intensity": b.min_absolute_intensity,
        "min_spacing": b.min_spacing,
        "edge": b.edge,
        "max_peaks": b.max_peaks,
    }
    given = state.recipe.given
    if state.recipe.orientation.structures and "bragg.min_significance" not in given:
        options["min_significance"] = FOR_ORIENTATIONS
        why = "weak disks decide on the tilt of a crystal, and hardly any is false at 3"
        state.record.decide(f"Threshold for disks: a significance of {FOR_ORIENTATIONS:g} σ, because structures are named", why)
    if not in_counts(state.cube.dtype, state["total"]) and "bragg.min_significance" not in given:
        options["min_significance"] = 0.0
        if "bragg.min_relative_intensity" not in given:
            options["min_relative_intensity"] = RELATIVE_THRESHOLD
        state.record.decide(
            f"Threshold for disks: {options['min_relative_intensity']:g} of the strongest disk, not their significance",
            "the values are fractions, not electron counts, so their Poisson noise is not known",
        )
    return options


def trial_positions(state: RunState) -> np.ndarray:
    """Return positions on a regular grid over the scan, (n, 2), of patterns that hold counts."""
    total = np.asarray(state["total"])
    return grid_positions(np.isfinite(total) & (total > 0), state.recipe.analysis.trial_positions)


def in_scan_shape(found: PointListArray, positions: np.ndarray, shape: tuple[int, int]) -> PointListArray:
    """Return lists of a few positions as lists of the whole scan. Other positions are empty."""
    if tuple(found.shape) == tuple(shape):
        return found
    number = positions[:, 0] * shape[1] + positions[:, 1]
    order = np.argsort(number, kind="stable")
    offsets = np.asarray(found.offsets)
    counts = np.diff(offsets)
    spread = np.zeros(shape[0] * shape[1] + 1, np.int64)
    spread[number + 1] = counts
    pick = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in order]) if len(order) else np.zeros(0, np.int64)
    return PointListArray(np.cumsum(spread), {f: np.asarray(found.flat(f))[pick] for f in found.fields}, shape, found.units)
