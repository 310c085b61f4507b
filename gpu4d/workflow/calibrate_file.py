"""Measure the calibration that a file can tell, for `gpu4d calibrate`: origin, ellipse, rotation, pixel size, probe radius."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.calibration_order import ORDER
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.io import load_image
from gpu4d.io.calibration_file import MeasuredOn, save_calibration
from gpu4d.structures import STANDARDS, Structure
from gpu4d.workflow.calibrating.disks import SINGLE, bright_field_disk, origin_of, search_disks, take_disks
from gpu4d.workflow.calibrating.rings import take_deflection, take_halo, take_rings
from gpu4d.workflow.calibrating.values import shown
from gpu4d.workflow.calibrating.work import Work, sum_scan
from gpu4d.workflow.inputs import calibrate, open_scan, read_image
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.record import Record, SilentWatcher, Watcher


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
            if value is not None and not FIELDS[name].error_of and name not in ("origin_measured", "positions"):
                lines.append(f"{name.replace('_', ' '):<14}{shown(c, name, value)}  ({how.get(name, '')})")
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
    if view.swap_detector or view.swap_scan or view.crop_scan or view.preview or max(view.bin_detector, view.bin_scan) > 1:
        raise InputError("a calibration describes the scan as its file stores it: leave out swapped axes, crop, bin and preview")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: give another name with -o, or replace it with --overwrite")
    crystals = [_crystal(name) for name in standards]
    record = Record(watcher or SilentWatcher())
    with record.stage("open"):
        cube = _opened(path, recipe, record)
    work = Work(cube, recipe, record, crystals)
    _measure(work)
    c = cube.calibration
    if not any(entry.measured for entry in c.history if entry.field in ORDER) and c.q_pixel is None:
        raise InputError(f"nothing could be measured in {path}, and no file was written: {'; '.join(work.said)}")
    shapes = _pair(cube.scan_shape), _pair(cube.detector_shape)
    about = MeasuredOn(str(Path(path).resolve()), recipe.input.dataset or "", *shapes, ", ".join(standards))
    save_calibration(out, cube.calibration, about, overwrite=overwrite)
    return Measured(cube.calibration, out, work.said)


def _opened(path: str | Path, recipe: Recipe, record: Record) -> DataCube:
    """Open a scan, or one pattern as a scan of one position."""
    try:
        return open_scan(path, recipe, record)
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


def _measure(work: Work) -> None:
    """Go through the steps: rings, disks, a diffuse ring, or the deflection, whichever the scan shows first."""
    import gpu4d

    sum_scan(work)
    c = work.cube.calibration
    work.near = c.q_pixel  # what the user or the file says tells crystals and rings apart
    disk = bright_field_disk(work)
    c.complete()  # with energy and semi-angle the disk gives a pixel size
    found = search_disks(work, disk)
    origin = None if found is None or disk is None else origin_of(work, found, disk)
    lattice = None if found is None or origin is None else gpu4d.find_lattice(found, origin)
    if lattice is not None and lattice.indexed_fraction < SINGLE:
        lattice = None  # grains
    done = bool(work.crystals) and lattice is None and take_rings(work)
    if not done and found is not None and origin is not None:
        take_disks(work, found, lattice, origin)
        done = True
    if not done and not take_halo(work):
        take_deflection(work)
    if c.q_pixel is None:
        work.said.append("no pixel size: name the specimen with --standard, or give --energy and --semiangle")
