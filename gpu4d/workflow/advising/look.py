"""Look at a few patterns of a scan with the first stages of a run: beam, counts, Bragg disks, lattice, technique."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

import gpu4d
from gpu4d import physics
from gpu4d.bragg.disk_search import SearchOptions
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.deflection import share_outside
from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.probe import Disk
from gpu4d.workflow.inputs import given_probe, open_scan
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.record import Record
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.schedule import carry_out
from gpu4d.workflow.stages import known_stages
from gpu4d.workflow.stages.technique import beam_of
from gpu4d.workflow.stages.trial import Trial, try_disks

LOOK_STAGES = (
    "technique",
    "survey",
    "bad_pixels",
    "sums",
    "patterns",
    "probe",
    "trial",
    "calibration",
)  # of a run, which end in the decision
SIDE = 16  # positions along the shorter axis that are looked at
LEAST_SIDE = 8  # the same, of large patterns: with fewer, no phase is suggested
MOST = 1024  # patterns: a scan that is much longer than wide is looked at with larger steps
MOST_BYTES = 256 << 20  # of the patterns that are looked at, unless fewer than 8×8 would be left
POWERS = (0.80, 0.85, 0.95, 1.0)  # of the hybrid correlation, which are tried


class PowerTrial(NamedTuple):
    """What a search with one exponent finds: disks of a pattern, and how many of them lie on one lattice."""

    power: float
    disks: float
    on_lattice: float


class Look:
    """A scan, and what a few of its patterns show.

    Attributes
    ----------
    path : Path
    cube : DataCube
        The whole scan, as the recipe opens it. It is not read.
    every : int
        Step between the positions that are looked at.
    state : RunState
        Results of the first stages of a run on these positions.
    """

    def __init__(self, path: Path, cube: DataCube, every: int, state: RunState):
        self.path, self.cube, self.every, self.state = path, cube, every, state

    def __repr__(self) -> str:
        return f"Look({self.path.name}, {self.patterns} patterns, {self.state.get('technique')})"

    @property
    def patterns(self) -> int:
        """Number of patterns that are looked at."""
        return int(np.prod(self.state.cube.scan_shape))

    @property
    def disk(self) -> Disk | None:
        """The bright-field disk, pixels. None if there is none."""
        found: Disk | None = self.state.get("disk")
        return found

    @property
    def radius(self) -> float | None:
        """Radius of a disk, pixels: of the template, else of the bright-field disk. None if there is neither."""
        template = self.state.get("template")
        return float(template.radius) if template is not None else None if self.disk is None else self.disk.radius

    @property
    def trial(self) -> Trial | None:
        """The trial of a run. None without a disk."""
        found: Trial | None = self.state.get("trial")
        return found

    @property
    def spacing(self) -> float | None:
        """Shortest vector of the lattice of the disks, pixels. None if no lattice explains them."""
        return None if self.trial is None or self.trial.lattice is None else float(min(self.trial.lattice.lengths))

    @property
    def decision(self) -> tuple[str, str]:
        """What a run decides for this scan, and why."""
        few, whole = (f"{rx}×{ry} positions" for rx, ry in (self.state.cube.scan_shape, self.cube.scan_shape))
        for one in self.state.record.decisions:
            if one.what.startswith(("Technique", "Bragg disks", "Bright-field disk", "Amorphous", "Images only")):
                return one.what, one.why.replace(few, whole)
        return "", ""

    @cached_property
    def counts(self) -> float:
        """Median of the counts of a pattern."""
        total = np.asarray(self.state["total"], dtype=np.float64)
        return float(np.median(total[np.isfinite(total)]))

    @cached_property
    def counted(self) -> bool:
        """True if values are electron counts."""
        return in_counts(self.state.cube.dtype, np.asarray(self.state["total"]))

    @cached_property
    def outside(self) -> float | None:
        """Share of the electrons outside of the bright-field disk."""
        if self.disk is None:
            return None
        share = share_outside(self.state["mean_pattern"], self.disk, self.state.cube.detector_mask)
        return share if math.isfinite(share) else None

    @property
    def disk_frequency(self) -> float | None:
        """Radius of the disk, 1/Å: from the semi-angle, else from the pixel. None if neither is known."""
        c = self.state.calibration
        if c.semiangle is not None and c.energy is not None:
            return physics.angle_to_frequency(c.semiangle, c.energy)
        return None if c.q_pixel is None or self.disk is None else self.disk.radius * c.q_pixel

    @property
    def step(self) -> float | None:
        """Distance of neighbouring positions of the whole scan, Å."""
        return self.cube.calibration.r_pixel

    @cached_property
    def reach(self) -> float:
        """Distance from the beam to the nearest end of the detector, pixels."""
        (x, y), (qx, qy) = beam_of(self.state), self.state.cube.detector_shape
        return float(min(x, y, qx - 1 - x, qy - 1 - y)) + 0.5

    @cached_property
    def deflection(self) -> tuple[float, float]:
        """How far a plane through the centres of mass changes over the scan, and the rms of what it leaves, pixels. NaN without values."""
        com = np.moveaxis(np.asarray(self.state["com"], dtype=np.float64), 0, -1)
        good = np.isfinite(com).all(axis=-1)
        if good.sum() < 4:
            return math.nan, math.nan
        x, y = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in good.shape), indexing="ij")
        design = np.stack([np.ones(good.sum()), x[good], y[good]], -1)
        fit, *_ = np.linalg.lstsq(design, com[good], rcond=None)
        left = com[good] - design @ fit
        return float(np.hypot(*np.abs(fit[1:]).sum(axis=0))), float(np.sqrt(np.mean(np.sum(left**2, axis=-1))))

    @cached_property
    def strains(self) -> float | None:
        """Spread of the lengths of the lattice vectors over the trial positions, standard deviation relative to the mean."""
        trial = self.trial
        if trial is None or trial.lattice is None or trial.origin is None:
            return None
        fit = gpu4d.fit_lattice(trial.disks, trial.lattice, origin=trial.origin)
        good = np.asarray(fit.mask)
        if good.sum() < LEAST_SIDE:
            return None
        lengths = np.stack([np.hypot(*np.moveaxis(np.asarray(g)[good], -1, 0)) for g in (fit.g1, fit.g2)])
        middle = np.median(lengths, axis=1, keepdims=True)
        return float(np.max(1.4826 * np.median(np.abs(lengths / middle - 1), axis=1)))

    @cached_property
    def powers(self) -> list[PowerTrial]:
        """Search the disks of the trial with other exponents of the correlation. Empty without a lattice."""
        trial, template = self.trial, self.state.get("template")
        if trial is None or trial.lattice is None or template is None:
            return []
        found = []
        for power in POWERS:
            options: SearchOptions = {**trial.options, "power": power}
            one = trial if power == trial.options["power"] else try_disks(self.state, (self.disk, template), trial.positions, options)
            share = 0.0 if one.lattice is None else one.lattice.indexed_fraction
            disks = float(one.counts.mean())
            found.append(PowerTrial(power, disks, disks * share))
        return found


def look_at(path: str | Path, recipe: Recipe | None = None) -> Look:
    """Look at a few patterns of a scan, from all over it.

    The first stages of a run work on every nth position: some 16 along the shorter axis, or fewer of large patterns. Memory is that of
    the recipe.

    Parameters
    ----------
    path : path
        A file that `gpu4d.open` reads. It is not changed.
    recipe : Recipe, optional
        How the scan is opened, what is known of it, and how disks are searched.

    Returns
    -------
    Look

    Raises
    ------
    InputError
        The scan cannot be opened, or none of its patterns holds counts.
    """
    recipe = Recipe() if recipe is None else recipe
    record = Record()
    with record.listening():
        cube = open_scan(path, recipe, record)
        every = _step(cube)
        few = cube.select(every=every) if every > 1 else cube
        state = RunState(few, recipe, record, None, given_probe(cube, recipe))
        try:
            carry_out([stage for stage in known_stages() if stage.name in LOOK_STAGES], state)
        except InputError as error:
            raise InputError(f"{path} cannot be looked at: {error}") from error
    return Look(Path(path), cube, every, state)


def _step(cube: DataCube) -> int:
    """Return the step between positions that are looked at."""
    pattern = max(1, math.prod(cube.detector_shape) * itemsize(cube.dtype))
    side = max(LEAST_SIDE, min(SIDE, math.isqrt(MOST_BYTES // pattern)))
    most = min(MOST, max(LEAST_SIDE**2, MOST_BYTES // pattern))
    every = max(1, min(cube.scan_shape) // side)
    while math.prod(-(-n // every) for n in cube.scan_shape) > most:
        every += 1
    return every
