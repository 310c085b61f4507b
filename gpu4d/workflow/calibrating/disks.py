"""Take origin, ellipse and pixel size from the Bragg disks of a scan."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.calibrate import LatticeEllipse, Origin, PeakFit, covered, is_round
from gpu4d.calibrate.lattice_ellipse import MOST_VISIBLE, SHAPES, SIGNIFICANT, lattice_ellipse
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.crystal.lattice import Lattice
from gpu4d.data.calibration import LEAST_RADIUS
from gpu4d.data.pointlist import PointListArray
from gpu4d.errors import InputError
from gpu4d.probe import Disk
from gpu4d.workflow.calibrating.work import Work

SINGLE = 0.6  # of the disks on one lattice: a single crystal
ONE_CRYSTAL = (
    "one crystal: the side of a disk that is nearer to the beam is nearer to the Bragg condition, and brighter. This makes lengths 0.1 to "
    "0.3 % too short (more for thick or tilted crystals and high orders) and pixels as much too large. The errors do not hold this; a "
    "powder is more exact"
)
VAGUE = 0.1  # of a radius: a larger standard error says that the edge of a disk was not found
LEAST_DISKS = 4  # disks of a pattern, median over the scan: with fewer it has no lattice or rings of its own
DISAGREE = 0.01  # of a/b: ellipses from the distances of disks and from their lattice that differ by more are not of one crystal
TRIED = 1024  # patterns in which disks are searched


def bright_field_disk(work: Work) -> Disk | None:
    """Measure the bright-field disk in the mean pattern."""
    import gpu4d

    mask = work.cube.detector_mask
    try:
        disk = gpu4d.probe.measure_disk(work.mean, mask)
    except ValueError as error:  # InputError, or a fit that failed
        work.said.append(f"no probe radius: {error}")
        return None
    vague = not math.isfinite(disk.radius_error) or disk.radius_error > VAGUE * disk.radius
    if not is_round(disk) or (vague and disk.radius >= LEAST_RADIUS):
        measured_as = f"{disk.radius:.1f} ± {disk.radius_error:.1f} px, its edge {disk.residual:.1f} px rms from a circle"
        work.said.append(f"no probe radius: the brightest region is not a round disk ({measured_as}). A beam stop needs --mask")
        return None
    if mask is not None and covered(mask, (disk.qx, disk.qy), disk.radius) > 0:
        work.said.append("no probe radius: the mask covers a part of the disk")
        return disk
    uncertain = disk.radius_error if math.isfinite(disk.radius_error) and disk.radius_error > 0 else None
    work.cube.calibration.measured(probe_radius=disk.radius, probe_radius_error=uncertain, how="edge of the disk in the mean pattern")
    return disk


def search_disks(work: Work, disk: Disk | None) -> PointListArray | None:
    """Search Bragg disks in a part of the scan. None if there are none beside the unscattered one."""
    import gpu4d

    if disk is None or int(np.prod(work.cube.scan_shape)) == 1:
        return None  # the sum of a scan has rings, and no lattice
    image = gpu4d.probe.synthetic(work.cube.detector_shape, disk.radius, center=(disk.qx, disk.qy), edge=max(disk.edge, 0.5))
    try:
        template = gpu4d.probe.template(image)
    except InputError as error:
        work.said.append(f"no Bragg disks: {error}")
        return None
    step = max(1, math.ceil(math.sqrt(np.prod(work.cube.scan_shape) / TRIED)))
    where = np.zeros(work.cube.scan_shape, bool)
    where[::step, ::step] = True
    b = work.recipe.bragg
    with work.record.stage("Bragg disks of a part of the scan") as progress:
        found = gpu4d.find_bragg_disks(
            work.cube,
            template,
            min_significance=b.min_significance,
            max_peaks=b.max_peaks,
            where=where,
            progress=progress,
            device=work.recipe.compute.device,
            memory=work.recipe.compute.memory,
        )
    typical = float(np.median(np.asarray(found.counts)[where]))
    if typical < LEAST_DISKS:
        work.said.append(f"patterns have {typical:g} disks (median): too few for a lattice")
        return None
    return found


def origin_of(work: Work, disks: PointListArray, disk: Disk) -> Origin | None:
    """Measure the origin at the positions whose disks were searched."""
    import gpu4d

    where, mask = np.asarray(disks.counts) > 0, work.cube.detector_mask
    try:
        return gpu4d.calibrate.origin(
            disks, method="auto", fit="auto", guess=(disk.qx, disk.qy), where=where, detector_mask=mask, disk_radius=disk.radius
        )
    except InputError as error:
        work.said.append(f"no origin: {error}")
        return None


def take_disks(work: Work, found: PointListArray, lattice: Lattice | None, origin: Origin) -> None:
    """Take origin, ellipse and pixel size from Bragg disks."""
    import gpu4d

    c = work.cube.calibration
    origin.apply(c)
    work.said += [f"origin: {line}" for line in origin.findings]
    if not work.crystals:
        if lattice is not None:
            _visible(work, found, lattice, origin)
        return
    each = np.where(np.isfinite(origin.measured), origin.measured, origin.fitted)  # also of a beam that moves without a pattern
    with work.record.stage("fit of ellipse and pixel size to the disks"):
        try:
            fit = gpu4d.calibrate.fit_peaks(found, work.crystals, origin=each, energy=c.energy, q_pixel=c.q_pixel)
        except InputError as error:
            work.said.append(f"no ellipse and pixel size from Bragg disks: {error}")
            return
    if not fit.sure:
        work.said += [f"no ellipse and pixel size from Bragg disks: {line}" for line in fit.warnings]
        return
    other = None if lattice is None else _other_ellipse(fit, gpu4d.fit_lattice(found, lattice, origin=origin))
    if other is None:
        fit.apply(c)
        if lattice is not None:
            work.said.append(ONE_CRYSTAL)
    else:
        work.said.append(
            f"no ellipse and pixel size from Bragg disks: their distances give {fit}, but their lattice is {other.shape} behind another"
            f" ellipse, {other}: give the right --standard, or --q-pixel to 12 %"
        )


def _visible(work: Work, disks: PointListArray, lattice: Lattice, origin: Origin) -> None:
    """Say if the lattice looks like a square or hexagonal one that is distorted. Without a standard this is no measurement."""
    import gpu4d

    seen = gpu4d.calibrate.visible_ellipse(gpu4d.fit_lattice(disks, lattice, origin=origin))
    if seen is not None:
        work.said.append(f"an ellipse may be visible ({seen}): name the crystal with --standard to measure it")


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
