"""Take a calibration from rings, from a diffuse ring, or from the deflection of the beam: scans without a lattice of disks."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.errors import InputError
from gpu4d.preprocess import in_counts
from gpu4d.workflow.calibrating.work import Work

SHARP_ROTATION = math.radians(3.0)  # standard error: a rotation that is known less well is not written


def take_rings(work: Work) -> bool:
    """Fit the rings of the standard to the sum of all patterns."""
    import gpu4d

    c, counts = work.cube.calibration, work.mean * max(1, int(np.prod(work.cube.scan_shape)))
    counts = np.rint(counts) if in_counts(work.cube.dtype, work.total) else work.mean
    with work.record.stage("fit of all rings"):
        try:
            fit = gpu4d.calibrate.fit_rings(counts, work.crystals, mask=work.cube.detector_mask, energy=c.energy, q_pixel=work.near)
        except InputError as error:
            work.said.append(f"no rings of {', '.join(s.name for s in work.crystals)} in the mean pattern: {error}")
            return False
    fit.apply(c)
    return True


def take_halo(work: Work) -> bool:
    """Take the ellipse from one diffuse ring."""
    import gpu4d

    with work.record.stage("fit of a diffuse ring"):
        try:
            fit = gpu4d.calibrate.fit_halo(work.mean * max(1, int(np.prod(work.cube.scan_shape))), mask=work.cube.detector_mask)
        except InputError as error:
            work.said.append(f"no ellipse from a diffuse ring: {error}")
            return False
    fit.apply(work.cube.calibration)
    return True


def take_deflection(work: Work) -> None:
    """Take origin and rotation from the centre of mass."""
    import gpu4d

    c = work.cube.calibration
    if min(work.cube.scan_shape) < 8:
        work.said.append("no rotation: the scan has fewer than 8 positions along an axis")
        return
    try:
        gpu4d.calibrate.origin(work.com).apply(c)
        found = gpu4d.calibrate.rotation(work.com)
        phase = gpu4d.dpc(work.com, transpose=found.transpose)
    except InputError as error:
        work.said.append(f"no rotation: {error}")
        return
    if not found.decided or not found.error < SHARP_ROTATION:
        work.said.append(f"no rotation: the curl does not decide ({found})")
    elif phase.sign is None or not phase.sign.decided:
        work.said.append(f"no rotation: {found}, and the contrast of the phase does not decide about the 180°: give --rotation to the run")
    else:
        how = "least curl of the centre of mass; 180° by the contrast of the phase"
        c.measured(rotation=phase.rotation, transpose=phase.transpose, rotation_error=found.error, how=how)
