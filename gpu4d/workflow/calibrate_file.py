"""Measure the calibration that a file can tell, for `gpu4d calibrate`: origin, ellipse, rotation, pixel size, probe radius."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d.arrays import is_integer_dtype, to_numpy
from gpu4d.calibrate import LatticeEllipse, Origin, PeakFit, covered, is_round
from gpu4d.calibrate.lattice_ellipse import MOST_VISIBLE, SHAPES, SIGNIFICANT, lattice_ellipse
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.crystal.lattice import Lattice
from gpu4d.data.bad_pixels import find_nan_pixels
from gpu4d.data.calibration import LEAST_RADIUS, Calibration
from gpu4d.data.calibration_fields import ERRORS, FIELDS
from gpu4d.data.calibration_order import ORDER
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.sample import grid_positions, patterns_at
from gpu4d.errors import InputError
from gpu4d.io import load_image
from gpu4d.io.calibration_file import MeasuredOn, save_calibration
from gpu4d.preprocess import in_counts
from gpu4d.probe import Disk
from gpu4d.probe.bad_pixels_beside_beam import bad_pixels_beside_beam
from gpu4d.structures import STANDARDS, Structure
from gpu4d.workflow.inputs import calibrate, open_scan, read_image
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record, SilentWatcher, Watcher, measured
from gpu4d.workflow.stages.bad_pixels import MAX_SHARE
from gpu4d.workflow.stages.bad_pixels import TRIED as NAN_TRIED

ROUND_ENOUGH = 3.0  # standard errors: a smaller ellipse is none that the data show
SINGLE = 0.6  # of the disks on one lattice: a single crystal
ONE_CRYSTAL = (
    "one crystal: the side of a disk that is nearer to the beam is nearer to the Bragg condition, and brighter. This makes lengths 0.1 to "
    "0.3 % too short (more for thick or tilted crystals and high orders) and pixels as much too large. The errors do not hold this; a "
    "powder is more exact"
)
VAGUE = 0.1  # of a radius: a larger standard error says that the edge of a disk was not found
LEAST_DISKS = 4  # disks of a pattern, median over the scan: with fewer it has no lattice or rings of its own
SHARP_ROTATION = math.radians(3.0)  # standard error: a rotation that is known less well is not written
DISAGREE = 0.01  # of a/b: ellipses from the distances of disks and from their lattice that differ by more are not of one crystal
TRIED = 1024  # patterns in which disks are searched


@dataclass
class Measured:
    """What `gpu4d calibrate` found.

    Attributes
    ----------
    calibration : Calibration
    path : Path
        The file that was written.
    said : list of str
        What could not be measured, and why; and what the user should know.
    """

    calibration: Calibration
    path: Path
    said: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Write the values with their errors, and how they were found, for the terminal."""
        c = self.calibration
        how = {entry.field: entry.how for entry in c.history}
        lines = []
        for name in (*ORDER, *(n for n in FIELDS if n not in ORDER)):
            value = getattr(c, name)
            if value is not None and not FIELDS[name].error_of and name != "origin_measured":
                lines.append(f"{name.replace('_', ' '):<14}{_shown(c, name, value)}  ({how.get(name, '')})")
        return "\n".join([*lines, *(f"note: {line}" for line in self.said), f"written: {self.path}"])


def calibrate_file(
    path: str | Path,
    out: str | Path = "calibration.toml",
    *,
    standards: Sequence[str] = (),
    recipe: Recipe | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
) -> Measured:
    """Measure what a file can tell of its calibration, in the order origin, ellipse, rotation, pixel size, and write it as TOML.

    Rings of a polycrystal are fitted if a standard is named and the sum of all patterns shows its rings. Otherwise Bragg disks are
    searched, and the standard is recognised by their distances from the origin. Without a standard, a diffuse ring gives the ellipse,
    and a scan without disks and rings the rotation, from the curl of its centre of mass.

    Parameters
    ----------
    path : path
        A scan of a standard, or one pattern of it.
    out : path
        File for the calibration.
    standards : sequence of str
        Names of `gpu4d.structures.STANDARDS`, or CIF files. Several if the specimen is a mixture.
    recipe : Recipe, optional
        Sections input, calibration, compute and bragg are used.
    overwrite : bool
        Replace an existing file.
    watcher : Watcher, optional
        Receives stages and progress.

    Returns
    -------
    Measured

    Raises
    ------
    InputError
        The scan cannot be read, a standard is not known, or the file cannot be written.
    """
    recipe = Recipe() if recipe is None else recipe
    out = Path(out)
    for given in (path, recipe.input.detector_mask, *standards):
        if given and out.exists() and os.path.exists(given) and os.path.samefile(out, given):
            raise InputError(f"-o {out} is an input of the calibration, and is never replaced: give another name with -o")
    view = recipe.input
    if view.swap_detector or view.swap_scan or view.crop_scan or max(view.bin_detector, view.bin_scan) > 1:
        raise InputError("a calibration describes the scan as its file stores it: leave out swapped axes, crop and bin")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: give another name with -o, or replace it with --overwrite")
    crystals = [_crystal(name) for name in standards]
    record = Record(watcher or SilentWatcher())
    with record.stage("open"):
        cube = _opened(path, recipe)
    work = _Work(cube, recipe, record, crystals)
    work.measure()
    c = cube.calibration
    if not any(entry.measured for entry in c.history if entry.field in ORDER) and c.q_pixel is None:
        raise InputError(f"nothing could be measured in {path}, and no file was written: {'; '.join(work.said)}")
    shapes = _pair(cube.scan_shape), _pair(cube.detector_shape)
    about = MeasuredOn(str(Path(path).resolve()), recipe.input.dataset or "", *shapes, ", ".join(standards))
    save_calibration(out, cube.calibration, about, overwrite=overwrite)
    return Measured(cube.calibration, out, work.said)


def _opened(path: str | Path, recipe: Recipe) -> DataCube:
    """Open a scan, or one pattern as a scan of one position."""
    try:
        return open_scan(path, recipe)
    except InputError as error:
        inside = recipe.input.dataset
        try:
            image = load_image(f"{path}:{inside}" if inside else str(path))
        except InputError:
            raise error from None
        cube = DataCube(np.ascontiguousarray(image)[None, None])
        if recipe.input.detector_mask:
            cube.detector_mask = read_image(recipe.input.detector_mask, cube.detector_shape, "detector mask") != 0
        calibrate(cube, recipe)
        return cube


def _pair(shape: Sequence[int]) -> tuple[int, int]:
    return int(shape[0]), int(shape[1])


def _crystal(name: str) -> Structure:
    """Return a standard by its name, or the structure of a CIF file."""
    if name.lower() in {known.lower() for known in STANDARDS}:
        return Structure.standard(name)
    if os.path.exists(name):
        return Structure.read_cif(name)
    raise InputError(f"--standard {name}: there is no such standard or CIF file; standards are {', '.join(STANDARDS)}")


class _Work:
    """The steps of one calibration, and what they found."""

    def __init__(self, cube: DataCube, recipe: Recipe, record: Record, crystals: list[Structure]):
        self.cube, self.recipe, self.record, self.crystals = cube, recipe, record, crystals
        self.said: list[str] = []
        self.mean = self.total = self.com = np.zeros(0)
        self.near: float | None = None

    def measure(self) -> None:
        """Go through the steps: rings, disks, a diffuse ring, or the deflection, whichever the scan shows first."""
        import gpu4d

        self._sums()
        c = self.cube.calibration
        self.near = c.q_pixel  # what the user or the file says tells crystals and rings apart
        disk = self._disk()
        c.complete()  # with energy and semi-angle the disk gives a pixel size
        found = self._found_disks(disk)
        origin = None if found is None or disk is None else self._origin(found, disk)
        lattice = None if found is None or origin is None else gpu4d.find_lattice(found, origin)
        if lattice is not None and lattice.indexed_fraction < SINGLE:
            lattice = None  # grains
        done = bool(self.crystals) and lattice is None and self._rings()
        if not done and found is not None and origin is not None:
            self._disks(found, lattice, origin)
            done = True
        if not done and not self._halo():
            self._from_deflection()
        if c.q_pixel is None:
            self.said.append("no pixel size: name the specimen with --standard, or give --energy and --semiangle")

    def _sums(self) -> None:
        """Read the scan once, and once more if it has bad pixels."""
        keep = self.recipe.input.bad_pixels == "keep"
        if not keep and not is_integer_dtype(self.cube.dtype):
            some = patterns_at(self.cube, grid_positions(np.ones(self.cube.scan_shape, bool), NAN_TRIED))
            self._leave_out(find_nan_pixels(to_numpy(some)), "NaN in most patterns")
        found = self._one_pass()
        if not keep:
            mean, most = (np.asarray(found[name], dtype=np.float64) for name in ("mean", "max"))
            bad = ~bad_pixels_beside_beam(mean, int(np.prod(self.cube.scan_shape)), most).mask
            if self._leave_out(bad, "they look hot or dead"):
                found = self._one_pass()
        self.mean, self.total = np.asarray(found["mean"], dtype=np.float64), np.asarray(found["total"], dtype=np.float64)
        self.com = np.moveaxis(np.asarray(found["com"], dtype=np.float64), 0, -1)

    def _one_pass(self) -> Any:
        """Return sums over the scan and over its patterns."""
        import gpu4d

        whole = gpu4d.detectors.from_array(np.ones(self.cube.detector_shape, bool))
        asked: dict[str, Any] = {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern(), "com": gpu4d.CenterOfMass()}
        asked["total"] = gpu4d.VirtualImage(whole)
        compute = self.recipe.compute
        with self.record.stage("mean pattern and centre of mass") as progress:
            return gpu4d.sweep(self.cube, asked, progress=progress, device=compute.device, memory=compute.memory)

    def _leave_out(self, bad: np.ndarray, why: str) -> bool:
        """Exclude bad pixels through the detector mask, and say so. Return whether there are any that count so far."""
        mask = self.cube.detector_mask
        bad = bad if mask is None else bad & mask
        if not bad.any():
            return False
        number = int(bad.sum())
        if bad.mean() > MAX_SHARE:
            self.said.append(f"{number} detector pixels look bad ({why}): these are too many to be defects, and all are used")
            return False
        self.cube.detector_mask = ~bad if mask is None else mask & ~bad
        self.said.append(f"{number} detector pixel{'s are' if number > 1 else ' is'} left out: {why}")
        return True

    def _disk(self) -> Disk | None:
        """Measure the bright-field disk in the mean pattern."""
        import gpu4d

        mask = self.cube.detector_mask
        try:
            disk = gpu4d.probe.measure_disk(self.mean, mask)
        except ValueError as error:  # InputError, or a fit that failed
            self.said.append(f"no probe radius: {error}")
            return None
        vague = not math.isfinite(disk.radius_error) or disk.radius_error > VAGUE * disk.radius
        if not is_round(disk) or (vague and disk.radius >= LEAST_RADIUS):
            measured_as = f"{disk.radius:.1f} ± {disk.radius_error:.1f} px, its edge {disk.residual:.1f} px rms from a circle"
            self.said.append(f"no probe radius: the brightest region is not a round disk ({measured_as}). A beam stop needs --mask")
            return None
        if mask is not None and covered(mask, (disk.qx, disk.qy), disk.radius) > 0:
            self.said.append("no probe radius: the mask covers a part of the disk")
            return disk
        uncertain = disk.radius_error if math.isfinite(disk.radius_error) and disk.radius_error > 0 else None
        self.cube.calibration.measured(probe_radius=disk.radius, probe_radius_error=uncertain, how="edge of the disk in the mean pattern")
        return disk

    def _rings(self) -> bool:
        """Fit the rings of the standard to the sum of all patterns."""
        import gpu4d

        c, counts = self.cube.calibration, self.mean * max(1, int(np.prod(self.cube.scan_shape)))
        counts = np.rint(counts) if in_counts(self.cube.dtype, self.total) else self.mean
        with self.record.stage("fit of all rings"):
            try:
                fit = gpu4d.calibrate.fit_rings(counts, self.crystals, mask=self.cube.detector_mask, energy=c.energy, q_pixel=self.near)
            except InputError as error:
                self.said.append(f"no rings of {', '.join(s.name for s in self.crystals)} in the mean pattern: {error}")
                return False
        fit.apply(c)
        return True

    def _disks(self, found: PointListArray, lattice: Lattice | None, origin: Origin) -> None:
        """Take origin, ellipse and pixel size from Bragg disks."""
        import gpu4d

        c = self.cube.calibration
        origin.apply(c)
        self.said += [f"origin: {line}" for line in origin.findings]
        if not self.crystals:
            if lattice is not None:
                self._visible(found, lattice, origin)
            return
        each = np.where(np.isfinite(origin.measured), origin.measured, origin.fitted)  # also of a beam that moves without a pattern
        with self.record.stage("fit of ellipse and pixel size to the disks"):
            try:
                fit = gpu4d.calibrate.fit_peaks(found, self.crystals, origin=each, energy=c.energy, q_pixel=c.q_pixel)
            except InputError as error:
                self.said.append(f"no ellipse and pixel size from Bragg disks: {error}")
                return
        other = None if lattice is None else _other_ellipse(fit, gpu4d.fit_lattice(found, lattice, origin=origin))
        if other is None:
            fit.apply(c)
            if lattice is not None:
                self.said.append(ONE_CRYSTAL)
        else:
            self.said.append(
                f"no ellipse and pixel size from Bragg disks: their distances give {fit}, but their lattice is {other.shape} behind another"
                f" ellipse, {other}: give the right --standard, or --q-pixel to 12 %"
            )

    def _found_disks(self, disk: Disk | None) -> PointListArray | None:
        """Search Bragg disks in a part of the scan. None if there are none beside the unscattered one."""
        import gpu4d

        if disk is None or int(np.prod(self.cube.scan_shape)) == 1:
            return None  # the sum of a scan has rings, and no lattice
        image = gpu4d.probe.synthetic(self.cube.detector_shape, disk.radius, center=(disk.qx, disk.qy), edge=max(disk.edge, 0.5))
        try:
            template = gpu4d.probe.template(image)
        except InputError as error:
            self.said.append(f"no Bragg disks: {error}")
            return None
        step = max(1, math.ceil(math.sqrt(np.prod(self.cube.scan_shape) / TRIED)))
        where = np.zeros(self.cube.scan_shape, bool)
        where[::step, ::step] = True
        b = self.recipe.bragg
        with self.record.stage("Bragg disks of a part of the scan") as progress:
            found = gpu4d.find_bragg_disks(
                self.cube,
                template,
                min_significance=b.min_significance,
                max_peaks=b.max_peaks,
                where=where,
                progress=progress,
                device=self.recipe.compute.device,
                memory=self.recipe.compute.memory,
            )
        typical = float(np.median(np.asarray(found.counts)[where]))
        if typical < LEAST_DISKS:
            self.said.append(f"patterns have {typical:g} disks (median): too few for a lattice")
            return None
        return found

    def _origin(self, disks: PointListArray, disk: Disk) -> Origin | None:
        """Measure the origin at the positions whose disks were searched."""
        import gpu4d

        where, mask = np.asarray(disks.counts) > 0, self.cube.detector_mask
        try:
            return gpu4d.calibrate.origin(
                disks, method="auto", fit="auto", guess=(disk.qx, disk.qy), where=where, detector_mask=mask, disk_radius=disk.radius
            )
        except InputError as error:
            self.said.append(f"no origin: {error}")
            return None

    def _visible(self, disks: PointListArray, lattice: Lattice, origin: Origin) -> None:
        """Say if the lattice looks like a square or hexagonal one that is distorted. Without a standard this is no measurement."""
        import gpu4d

        seen = gpu4d.calibrate.visible_ellipse(gpu4d.fit_lattice(disks, lattice, origin=origin))
        if seen is not None:
            self.said.append(f"an ellipse may be visible ({seen}): name the crystal with --standard to measure it")

    def _halo(self) -> bool:
        """Take the ellipse from one diffuse ring."""
        import gpu4d

        with self.record.stage("fit of a diffuse ring"):
            try:
                fit = gpu4d.calibrate.fit_halo(self.mean * max(1, int(np.prod(self.cube.scan_shape))), mask=self.cube.detector_mask)
            except InputError as error:
                self.said.append(f"no ellipse from a diffuse ring: {error}")
                return False
        fit.apply(self.cube.calibration)
        return True

    def _from_deflection(self) -> None:
        """Take origin and rotation from the centre of mass."""
        import gpu4d

        c = self.cube.calibration
        if min(self.cube.scan_shape) < 8:
            self.said.append("no rotation: the scan has fewer than 8 positions along an axis")
            return
        try:
            gpu4d.calibrate.origin(self.com).apply(c)
            found = gpu4d.calibrate.rotation(self.com)
            phase = gpu4d.dpc(self.com, transpose=found.transpose)
        except InputError as error:
            self.said.append(f"no rotation: {error}")
            return
        if not found.decided or not found.error < SHARP_ROTATION:
            self.said.append(f"no rotation: the curl does not decide ({found})")
        elif phase.sign is None or not phase.sign.decided:
            self.said.append(
                f"no rotation: {found}, and the contrast of the phase does not decide about the 180°: give --rotation to the run"
            )
        else:
            how = "least curl of the centre of mass; 180° by the contrast of the phase"
            c.measured(rotation=phase.rotation, transpose=phase.transpose, rotation_error=found.error, how=how)


def _other_ellipse(fit: PeakFit, lattice: LatticeFit) -> LatticeEllipse | None:
    """Return the ellipse that makes the lattice square or hexagonal, if it is small and another than that of the disks' distances.

    A lattice that is neither square nor hexagonal needs a larger ellipse, and says nothing.
    """
    seen = min((lattice_ellipse(lattice, shape) for shape in SHAPES), key=lambda e: e.ellipse[0])
    if seen.ellipse[0] - 1 >= MOST_VISIBLE:
        return None
    off = seen.stretch - fit.stretch
    sigmas = float(np.sqrt(off @ np.linalg.pinv(seen.stretch_covariance + fit.stretch_covariance) @ off))
    return seen if 2 * float(np.hypot(*off)) > DISAGREE and sigmas > SIGNIFICANT else None


def _shown(c: Calibration, name: str, value: Any) -> str:
    """Write a value with its standard error and unit."""
    error, units = getattr(c, ERRORS[name]) if name in ERRORS else None, FIELDS[name].units
    if name == "ellipse":
        a, b, theta = value
        ratio, turn = error or (math.nan, math.nan)
        round_enough = "" if not error or a / b - 1 > ROUND_ENOUGH * ratio else ", round within its error"
        return f"a/b = {measured(a / b, ratio)}, angle {measured(math.degrees(theta), math.degrees(turn))}°{round_enough}"
    if name == "rotation":
        return f"{measured(math.degrees(value), math.degrees(error or math.nan))}°"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if np.ndim(value) == 0:
        return f"{measured(float(value), math.nan if error is None else float(error))} {units}"
    place = np.asarray(value) if np.ndim(value) == 1 else np.nanmean(value, axis=(0, 1))
    text = f"({place[0]:.3f}, {place[1]:.3f})" + (f" ± {error:.2g}" if error else "")
    if np.ndim(value) == 3:
        moved = np.ptp(np.asarray(value), axis=(0, 1))
        text += f", varies by {moved[0]:.2f}, {moved[1]:.2f}"
    return f"{text} px"
