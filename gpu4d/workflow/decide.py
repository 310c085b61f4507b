"""What makes sense for this scan: Bragg disks and strain, or a bright-field disk and DPC. Decided by the data, with reasons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.workflow import bad_pixels, probes
from gpu4d.workflow.analysis import Analysis
from gpu4d.workflow.survey import in_counts

LEAST_DISKS = 4  # of a pattern that tells of a lattice: the unscattered one and three others
LEAST_SHARE = 0.10  # of the trial patterns
WANDER = 0.25  # px rms: a mean pattern blurred by more gives a wrong radius and edge
LEAST_ORIGINS = 9  # trial patterns with a beam, for its motion to be believed
SMALLEST_SCAN = 8  # positions along an axis, for an integration of the phase


@dataclass
class Trial:
    """Bragg disks at a few positions.

    Attributes
    ----------
    positions : (n, 2) int
    disks : PointListArray
        In the shape of the scan; other positions are empty.
    options : dict
        For `find_bragg_disks` and `BraggDisks`.
    fit : str
        How many free parameters a disk's fit has and why; empty where none is fitted.
    lattice : Lattice or None
    origin : Origin or None
        The surface through the trial positions' unscattered disks.
    """

    positions: np.ndarray
    disks: Any
    options: dict[str, Any] = field(default_factory=dict)
    fit: str = ""
    lattice: Any = None
    origin: Any = None

    @property
    def descan(self) -> float:
        """How far the unscattered beam moves over the scan, pixels; 0 where that is not known."""
        seen = int(np.isfinite(self.origin.measured[..., 0]).sum()) if self.origin is not None else 0
        return float(np.hypot(*np.ptp(self.origin.fitted, axis=(0, 1)))) if seen >= LEAST_ORIGINS else 0.0

    @property
    def wander(self) -> float:
        """How far the measured beam lies from its mean, rms in pixels; 0 where that is not known."""
        if self.origin is None or np.isfinite(self.origin.measured[..., 0]).sum() < LEAST_ORIGINS:
            return 0.0
        return float(np.hypot(*np.nanstd(self.origin.measured, axis=(0, 1))))

    @property
    def counts(self) -> np.ndarray:
        """Disks per trial pattern."""
        return np.asarray(self.disks.counts)[self.positions[:, 0], self.positions[:, 1]]


def try_disks(a: Analysis) -> None:
    """Look for disks and a lattice at a few positions; where the beam moves, measure the disk again with its motion taken off."""
    if a.recipe.analysis.technique in ("dpc", "images") or (a.disk is None and a.template is None):
        return
    vacuum = a.template is not None
    if not vacuum and not _template_of_disk(a):
        return
    with a.record.stage("trial: Bragg disks at a few positions"):
        positions, options = trial_positions(a), bragg_options(a)
        a.trial = _try(a, positions, options)
        if not vacuum and a.disk is not None and a.trial.wander > WANDER:
            _measure_aligned(a)
            a.trial = _try(a, positions, options)


def _template_of_disk(a: Analysis) -> bool:
    """A template like the bright-field disk; a disk that the detector cuts is none, nor has it a centre of mass to integrate."""
    try:
        probes.use(a, probes.synthetic(a, a.disk))
    except InputError as error:
        a.record.warn(f"the brightest region of the mean pattern is no whole disk ({error}): it is not used")
        a.disk = None
        return False
    return True


def _try(a: Analysis, positions: np.ndarray, options: dict[str, Any]) -> Trial:
    import gpu4d

    reduction = gpu4d.BraggDisks(a.template, **options).choose(a.cube, a.where)
    options = {**options, "parameters": reduction.parameters}
    found = gpu4d.find_bragg_disks(a.cube, a.template, positions=positions, **options)
    why = reduction.parameters_reason if reduction.refinement == "likelihood" else ""
    trial = Trial(positions, in_scan_shape(found, positions, a.cube.scan_shape), options, why)
    if len(trial.disks):
        guess = a.calibration.origin if a.disk is None else (a.disk.qx, a.disk.qy)
        try:
            trial.origin = gpu4d.calibrate.origin(trial.disks, guess=guess, fit=a.recipe.origin.fit)
            trial.lattice = gpu4d.find_lattice(trial.disks, trial.origin)
        except InputError as error:
            a.record.note(f"trial: {error}")
    if len(trial.disks) == 0:
        a.record.warn("no disk was found in any trial pattern, not even the unscattered one: the thresholds may be too high")
    return trial


def _measure_aligned(a: Analysis) -> None:
    """Radius and edge of the disk from the trial patterns, moved so that their origins fall together."""
    import gpu4d
    from gpu4d.imaging.shifted_patterns import shifted_patterns

    x, y = a.trial.positions.T
    origins = a.trial.origin.measured[x, y]
    seen = np.isfinite(origins).all(axis=-1) & ~a.trial.origin.outliers[x, y]
    stack = np.stack([np.asarray(a.cube[int(i), int(j)], dtype=np.float64) for i, j in a.trial.positions[seen]])
    stack = bad_pixels.filled(stack, a.cube.detector_mask)
    mean = shifted_patterns(stack, np.array([a.disk.qx, a.disk.qy]) - origins[seen]).mean(axis=0)
    try:
        aligned = gpu4d.probe.measure_disk(mean)
    except ValueError as error:  # InputError, or a fit that did not go
        a.record.note(f"disk of the aligned trial patterns: {error}")
        return
    a.record.note(
        f"the beam wanders by {a.trial.wander:.1f} px rms: disk of radius {a.disk.radius:.2f} px measured again as {aligned.radius:.2f} px"
    )
    disk = a.disk._replace(radius=aligned.radius, edge=aligned.edge)
    try:
        probes.use(a, probes.synthetic(a, disk))
    except InputError as error:  # a disk that is cut by the detector: the first measurement stands
        a.record.note(f"disk of the aligned trial patterns: {error}")
        return
    a.disk = disk


def bragg_options(a: Analysis) -> dict[str, Any]:
    """Options of the disk search from the recipe; without counts there is no significance, and a relative threshold stands in."""
    b = a.recipe.bragg
    options = {
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
    if not in_counts(a) and "bragg.min_significance" not in a.recipe.given:
        options["min_significance"] = 0.0
        if "bragg.min_relative_intensity" not in a.recipe.given:
            options["min_relative_intensity"] = 0.02
        a.record.decide(
            f"Threshold for disks: {options['min_relative_intensity']:g} of the strongest disk, not their significance",
            "the values are fractions, not electron counts, so their Poisson noise is not known",
        )
    return options


def trial_positions(a: Analysis) -> np.ndarray:
    """Positions on a regular grid over the scan, (n, 2), of patterns that hold counts."""
    rx, ry = a.cube.scan_shape
    n = min(a.recipe.analysis.trial_positions, rx * ry)
    columns = int(np.clip(round(np.sqrt(n * ry / rx)), 1, ry))
    rows = int(np.clip(round(n / columns), 1, rx))
    x, y = (((np.arange(k) + 0.5) * size / k).astype(int) for k, size in ((rows, rx), (columns, ry)))
    grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    total = np.asarray(a.products["total"])
    good = np.isfinite(total) & (total > 0)
    keep = grid[good[grid[:, 0], grid[:, 1]]]
    if len(keep) >= max(1, len(grid) // 4):
        return keep
    all_good = np.argwhere(good)
    return all_good[np.linspace(0, len(all_good) - 1, min(n, len(all_good))).astype(int)]


def in_scan_shape(found: PointListArray, positions: np.ndarray, shape: tuple[int, int]) -> PointListArray:
    """Lists of a few positions as lists of the whole scan, the others empty."""
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


def technique(a: Analysis) -> None:
    """Choose the technique and write down why."""
    asked = a.recipe.analysis.technique
    if asked != "auto":
        a.technique = asked
        a.record.decide(f"Technique: {asked}", f"asked for ({a.recipe.given.get('analysis.technique', 'recipe')})")
        if asked in ("bragg", "both") and a.template is None:
            a.technique = "dpc" if asked == "both" else "images"
            a.record.warn("no Bragg disks: without a bright-field disk or a given probe there is no template to find them with")
    elif a.trial is not None and a.disk is not None:
        a.technique, what, why = choose(a.trial.counts, a.trial.lattice, a.template.radius, a.cube.scan_shape)
        a.record.decide(what, why)
    else:
        a.record.decide("Images only", "the mean pattern has no whole bright-field disk")
    if a.technique in ("bragg", "both"):
        asked_for = a.given_probe is not None or a.recipe.probe.vacuum_region is not None
        why = (
            f"{'asked for' if asked_for else 'no probe was given'}; template of radius {a.template.radius:.2f} px, {a.template.kind} trench"
        )
        a.record.decide(f"Probe: {a.probe_origin}", why)


def choose(counts: np.ndarray, lattice: Any, radius: float, scan_shape: tuple[int, int]) -> tuple[str, str, str]:
    """Technique, what is said of it, and why; from the disks of a few patterns.

    Parameters
    ----------
    counts : (n,) int
        Disks per trial pattern.
    lattice : Lattice or None
    radius : float
        Of the template, pixels.
    scan_shape : (int, int)
    """
    n, rich = len(counts), int((counts >= LEAST_DISKS).sum())
    middle = f"a median of {np.median(counts):.0f} disk{'' if np.median(counts) == 1 else 's'}"
    seen = f"{n} trial patterns have {middle}, {rich} of them {LEAST_DISKS} or more"
    if lattice is not None and rich >= max(2, LEAST_SHARE * n):
        shortest = min(lattice.lengths)
        lies = f"{100 * lattice.indexed_fraction:.0f} % of the disks lie on one lattice (chance: {100 * lattice.chance:.0f} %)"
        if shortest >= 2 * radius:
            why = f"{seen}; {lies}; its shortest vector ({shortest:.1f} px) is longer than a disk is wide ({2 * radius:.1f} px): no overlap"
            return "bragg", "Bragg disks and strain", why
        why_not = (
            f"{seen}; {lies}, but its shortest vector ({shortest:.1f} px) is shorter than a disk is wide ({2 * radius:.1f} px): overlap"
        )
    elif lattice is None:
        why_not = f"{seen}, and no lattice explains them: there is a bright-field disk only"
    else:
        why_not = f"{seen}: too few for a lattice"
    if min(scan_shape) >= SMALLEST_SCAN:
        return (
            "dpc",
            "Bright-field disk and DPC",
            f"{why_not}; its centre of mass over {scan_shape[0]}×{scan_shape[1]} positions gives the phase",
        )
    return (
        "images",
        "Images only",
        f"{why_not}; {scan_shape[0]}×{scan_shape[1]} positions are too few to integrate a phase ({SMALLEST_SCAN}×{SMALLEST_SCAN})",
    )
