"""From Bragg disks to strain: origin, vector map, lattice, local fits, strain, and the gates between them."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.workflow import gates, inputs
from gpu4d.workflow.analysis import Analysis

SINGLE = 0.6  # of the disks on one lattice: fewer tell of several grains


def strain(a: Analysis) -> None:
    """Everything that follows from the disks; each step that cannot be done ends the chain with a warning."""
    counts = np.asarray(a.disks.counts)
    gates.disk_counts(a, counts)
    if not _origin(a):
        return
    _vector_map(a)
    if not _lattice(a):
        return
    _strain(a)


def _origin(a: Analysis) -> bool:
    import gpu4d

    guess = a.trial.origin.fitted if a.trial.origin is not None else a.calibration.origin
    with a.record.stage("origin of every pattern"):
        try:
            a.origin = gpu4d.calibrate.origin(a.disks, guess=guess, fit=a.recipe.origin.fit, where=a.where)
        except InputError as error:
            a.record.warn(f"no origin, no lattice, no strain: {error}")
            return False
    a.origin.apply(a.calibration)
    gates.origin(a)
    drift = np.ptp(a.origin.fitted, axis=(0, 1))
    a.record.figure(
        "Descan", f"{np.hypot(*drift):.2f} px", f"over the scan; {a.origin.fit}, residual {np.hypot(*a.origin.residual):.3f} px rms"
    )
    return True


def _vector_map(a: Analysis) -> None:
    import gpu4d

    with a.record.stage("Bragg vector map"):
        a.products["bragg_vector_map"] = gpu4d.bragg_vector_map(
            a.disks, a.cube.detector_shape, origin=a.origin.fitted, calibration=a.calibration
        )
    gates.vector_map(a)


def _lattice(a: Analysis) -> bool:
    import gpu4d

    with a.record.stage("lattice and local fits"):
        a.lattice = gpu4d.find_lattice(a.disks, a.origin, where=a.where)
        if a.lattice is None:
            a.record.warn(
                "no lattice explains the Bragg disks better than chance: no strain. Look at the Bragg vector map and the thresholds"
            )
            return False
        a.fit = gpu4d.fit_lattice(a.disks, a.lattice, origin=a.origin)
    g1, g2 = a.lattice.lengths
    size = a.calibration.q_pixel
    spacings = f"d = {1 / (g1 * size):.3f} and {1 / (g2 * size):.3f} Å, " if size else ""
    a.record.figure(
        "Lattice",
        f"{g1:.2f}, {g2:.2f} px",
        f"{spacings}{math.degrees(a.lattice.angle):.1f}° apart; {100 * a.lattice.indexed_fraction:.0f} % of disks",
    )
    if a.lattice.indexed_fraction < SINGLE:
        share = f"{100 * a.lattice.indexed_fraction:.0f} %"
        a.record.warn(f"only {share} of the disks lie on the lattice: several grains or phases? Strain is that of the strongest lattice")
    lost = int((~np.asarray(a.fit.mask)).sum()) - (0 if a.where is None else int((~a.where).sum()))
    if lost:
        a.record.warn(f"{lost} positions have fewer than three disks that do not lie on a line: strain is NaN there")
    return bool(np.asarray(a.fit.mask).any())


def _strain(a: Analysis) -> None:
    import gpu4d

    given = a.recipe.strain
    region, how = a.where, "the median lattice of the scan"
    if not isinstance(given.reference, str):
        region = inputs.region_mask(given.reference, a.cube.scan_shape, "strain.reference")
        rx0, rx1, ry0, ry1 = given.reference
        how = f"the median lattice of rows {rx0}–{rx1 - 1}, columns {ry0}–{ry1 - 1}"
    with a.record.stage("strain"):
        a.strain = gpu4d.strain_map(
            a.fit,
            region=region,
            definition=given.definition,
            rotation=math.radians(given.axis_rotation_degrees) if given.axis_rotation_degrees else None,
            calibration=a.calibration,
            max_strain=given.max_strain,
        )
    why = (
        "set in the recipe"
        if not isinstance(given.reference, str)
        else "no unstrained region was named: strain is relative to the typical lattice"
    )
    a.record.decide(f"Reference of the strain: {how}", why)
    for line in a.strain.warnings:
        a.record.warn(line)
    a.products.update(("strain" if key == "" else f"strain_{key}", part) for key, part in a.strain.to_emd().items())
    a.products["lattice_residual"] = RealSlice(
        np.asarray(a.strain.residual), "lattice residual", "px", a.strain.exx.pixel_size, a.strain.exx.pixel_units
    )
    parts = [100 * np.asarray(getattr(a.strain, name)) for name in ("exx", "eyy", "exy")]
    spread = [float(np.nanstd(p)) for p in parts]
    a.record.figure("Strain, standard deviation", f"{spread[0]:.2f}, {spread[1]:.2f}, {spread[2]:.2f} %", "ε_xx, ε_yy, ε_xy over the scan")
    error = 100 * np.asarray(a.strain.uncertainty)[:3]
    if np.isfinite(error).any():
        a.record.figure(
            "Uncertainty of strain", f"{np.nanmedian(error):.3f} %", "median standard error of a component, from the disks' scatter"
        )
    gates.strain_magnitude(a)
