"""The two passes over the scan, and what the mean pattern says of the probe."""

from __future__ import annotations

import numpy as np

from gpu4d.data.datacube import diffraction_slice
from gpu4d.errors import InputError
from gpu4d.workflow import bad_pixels, probes
from gpu4d.workflow.analysis import Analysis

ROUND = 0.15  # of the radius: an edge that lies farther from a circle belongs to no bright-field disk
DESCAN = 0.5  # px over the scan: less does not show in a virtual image
FEW_COUNTS = 50  # a float pattern with a smaller total is not in counts: Poisson statistics do not apply


def first_pass(a: Analysis) -> None:
    """Mean and maximum pattern, centre of mass, counts; and which positions hold nothing."""
    _sums(a, "pass 1: mean, maximum, centre of mass")
    if bad_pixels.leave_out(a):
        _sums(a, "pass 1 again, without bad pixels")
    _valid_patterns(a)


def _sums(a: Analysis, name: str) -> None:
    import gpu4d

    everything = gpu4d.detectors.from_array(np.ones(a.cube.detector_shape, bool))
    reductions = {
        "mean_pattern": gpu4d.MeanPattern(),
        "max_pattern": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "total": gpu4d.VirtualImage(everything),
    }
    with a.record.stage(name, a.patterns, a.pass_bytes) as progress:
        a.products.update(a.sweep(reductions, progress))


def _valid_patterns(a: Analysis) -> None:
    """Warn of patterns that hold nothing or nonsense; refuse a scan of nothing else."""
    counts = np.asarray(a.products["total"])
    visited = np.ones(counts.shape, bool) if a.where is None else a.where
    a.unusable = np.zeros(counts.shape, bool)
    kinds = {"with NaN or infinite values": ~np.isfinite(counts), "without any counts": counts == 0, "negative in all": counts < 0}
    for kind, found in kinds.items():
        found &= visited
        a.unusable |= found
        if found.any():
            first = ", ".join(f"({x}, {y})" for x, y in np.argwhere(found)[:3])
            a.record.warn(f"{int(found.sum())} of {int(visited.sum())} patterns are {kind}, the first at {first}: results are NaN there")
    good = counts[visited & ~a.unusable]
    if good.size == 0:
        raise InputError(f"{a.cube.name}: no pattern has finite counts: is this the right dataset?")
    if float(np.nanmin(np.asarray(a.products["mean_pattern"]))) < 0:
        a.record.warn("some values are negative: subtracting a background in advance biases centres of mass and significances")
    middle = float(np.median(good))
    a.record.figure("Counts per pattern", f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}", f"median of {good.size:,} patterns")


def in_counts(a: Analysis) -> bool:
    """Whether values are electron counts, as far as one can see: whole-number types, or floats of a plausible size."""
    kind = getattr(np.dtype(str(a.cube.dtype).split(".")[-1]), "kind", "f")
    return kind in "iu" or float(np.nanmedian(np.asarray(a.products["total"]))) >= FEW_COUNTS


def bright_field_disk(a: Analysis) -> None:
    """Centre, radius and edge of the bright-field disk of the mean pattern; radius and edge of the vacuum probe where there is one."""
    import gpu4d

    with a.record.stage("bright-field disk"):
        image = probes.measured(a)
        try:
            a.disk = gpu4d.probe.measure_disk(a.products["mean_pattern"], a.cube.detector_mask)
        except ValueError as error:  # InputError, or a fit that did not go
            a.record.warn(
                f"the mean pattern shows no bright-field disk ({error}): virtual detectors stand about the middle of the detector"
            )
        if image is not None:
            try:
                probes.use(a, image)
                vacuum = gpu4d.probe.measure_disk(image)
            except InputError as error:
                raise InputError(f"the vacuum probe ({a.probe_origin}) cannot be used: {error}") from error
            if a.disk is not None:
                a.disk = a.disk._replace(radius=vacuum.radius, edge=vacuum.edge)
    if a.disk is not None and a.disk.residual > max(1.0, ROUND * a.disk.radius):
        a.record.warn(
            f"the brightest region of the mean pattern is no round disk (its edge is {a.disk.residual:.1f} px rms from a circle of "
            f"{a.disk.radius:.1f} px): it is not used"
        )
        a.disk = None


def complete_calibration(a: Analysis) -> None:
    """Origin and radius of the disk, and the detector pixel from it where energy and semi-angle are known."""
    from gpu4d import physics

    c, disk = a.calibration, a.disk
    if disk is None:
        return
    vacuum = a.given_probe is not None or a.recipe.probe.vacuum_region is not None
    c.set(probe_radius=disk.radius, how=f"edge of the {'vacuum probe' if vacuum else 'bright-field disk'}")
    if c.origin is None:
        moves = a.trial is not None and a.trial.descan > DESCAN
        if moves:
            c.set(origin=a.trial.origin.fitted, how=f"unscattered disk of the trial patterns, {a.trial.origin.fit}")
        else:
            c.set(origin=(disk.qx, disk.qy), how="centre of the mean pattern's disk")
    known = c.q_pixel
    c.complete()
    if c.q_pixel:
        for name in ("mean_pattern", "max_pattern", "probe"):
            if name in a.products:
                a.products[name] = diffraction_slice(a.products[name].data, a.products[name].name, "counts", c)
    a.record.figure(
        "Bright-field disk radius", f"{disk.radius:.2f} px", f"centre ({disk.qx:.2f}, {disk.qy:.2f}) px, edge {disk.edge:.1f} px"
    )
    if c.q_pixel:
        a.record.figure("Detector pixel", f"{c.q_pixel:.5g} Å⁻¹", "given" if known else "from energy, semi-angle and disk radius")
    if known and c.energy and c.semiangle:
        expected = physics.pixel_from_disk(disk.radius, c.semiangle, c.energy)
        if abs(expected / known - 1) > 0.05:
            a.record.warn(
                f"q_pixel is {known:.4g} 1/Å, but energy, semi-angle and the disk's radius say {expected:.4g} 1/Å: one of them is wrong"
            )


def radii(a: Analysis) -> tuple[float, float, float]:
    """Bright-field radius, and inner and outer radius of the annular dark field, pixels."""
    given, center = a.recipe.images, np.asarray(a.cube.detector_shape) / 2
    unit = a.disk.radius if a.disk is not None else min(a.cube.detector_shape) / 8
    if a.disk is not None:
        center = np.array([a.disk.qx, a.disk.qy])
    reach = float(min(center.min() + 0.5, (np.asarray(a.cube.detector_shape) - center).min() - 0.5))
    outer = unit * given.adf_outer if given.adf_outer else reach
    return unit * given.bf_radius, unit * given.adf_inner, outer


def second_pass(a: Analysis) -> None:
    """Virtual images about the measured beam, and Bragg disks where they were chosen."""
    import gpu4d

    bright, inner, outer = radii(a)
    reductions = {"bf": gpu4d.VirtualImage(gpu4d.detectors.disk(bright))}
    if outer > inner * 1.05:
        reductions["adf"] = gpu4d.VirtualImage(gpu4d.detectors.annulus(inner, outer))
    else:
        a.record.warn(f"no annular dark-field image: the annulus would start at {inner:.1f} px, the detector ends at {outer:.1f} px")
    name = "pass 2: virtual images"
    if a.technique in ("bragg", "both"):
        if a.trial.fit:
            a.record.decide(f"Fit of a disk: {a.trial.options['parameters']} free parameters", a.trial.fit)
        reductions["braggvectors"] = gpu4d.BraggDisks(a.template, **a.trial.options, expected_peaks=1.25 * float(a.trial.counts.mean()) + 1)
        name += ", Bragg disks"
    with a.record.stage(name, a.patterns, a.pass_bytes) as progress:
        out = a.sweep(reductions, progress)
    assert a.unusable is not None
    for image in (out[n] for n in ("bf", "adf") if n in out):
        image.data = np.where(a.unusable, np.nan, np.asarray(image))
    a.disks = out.get("braggvectors")
    a.products.update(out)
