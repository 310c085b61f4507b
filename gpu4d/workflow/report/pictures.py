"""The pictures of an analysis, with captions: what is shown, in which units, and what to look for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d import plot
from gpu4d.workflow.analysis import Analysis
from gpu4d.workflow.report.report import Picture
from gpu4d.workflow.survey import radii

IMAGES, DETECTOR, DISKS, STRAIN, PHASE = "Images", "Diffraction", "Bragg disks and lattice", "Strain", "Phase"
Drawn = tuple[Picture, Any]


def draw(a: Analysis, folder: Path, prefix: str = "") -> list[Picture]:
    """Draw everything an analysis found as PNG files in a folder.

    Parameters
    ----------
    prefix : str
        Of the file names, and of the sections ("phase_object_").

    Returns
    -------
    list of Picture
    """
    done = []
    for picture, figure in _all(a):
        if prefix:
            section = f"{prefix.replace('_', ' ').strip().capitalize()}: {picture.section.lower()}"
            picture = Picture(prefix + picture.name, section, picture.title, picture.caption, picture.wide)
        plot.save(figure, folder / f"{picture.name}.png")
        done.append(picture)
    return done


def _all(a: Analysis) -> Iterator[Drawn]:
    if a.strain is not None:
        yield from _strain(a)
    if a.dpc is not None:
        yield from _phase(a)
    yield from _images(a)
    yield from _detector(a)
    if a.disks is not None:
        yield from _bragg(a)


def _images(a: Analysis) -> Iterator[Drawn]:
    bright, inner, outer = radii(a)
    caption = f"Bright field: counts within {bright:.1f} px of the beam at every position."
    yield Picture("bf", IMAGES, "Bright field", caption), plot.image(a.products["bf"], "Bright field")
    if "adf" in a.products:
        caption = f"Annular dark field: counts between {inner:.1f} and {outer:.1f} px from the beam."
        yield Picture("adf", IMAGES, "Annular dark field", caption), plot.image(a.products["adf"], "Annular dark field")
    if a.dpc is None:
        caption = "Centre of mass of every pattern, relative to its mean: hue is the direction, lightness the length."
        if a.technique == "bragg":
            caption += " In a crystal it follows the diffracted beams and the descan: no phase is made of it."
        yield Picture("com", IMAGES, "Centre of mass", caption), plot.com(a.products["com"])


def _detector(a: Analysis) -> Iterator[Drawn]:
    mean = a.products["mean_pattern"]
    circles = []
    if a.disk is not None:
        bright, inner, outer = radii(a)
        circles = [(a.disk.qx, a.disk.qy, bright, "bright field")]
        if "adf" in a.products:
            circles += [(a.disk.qx, a.disk.qy, inner, "annular dark field"), (a.disk.qx, a.disk.qy, outer, "")]
    caption = "Mean of all patterns, with the virtual detectors drawn in."
    yield Picture("mean_pattern", DETECTOR, "Mean pattern", caption), plot.diffraction(mean, "Mean pattern", circles=circles)
    caption = "Largest value of every pixel over the scan: rare reflections, hot pixels."
    yield Picture("max_pattern", DETECTOR, "Maximum pattern", caption), plot.diffraction(a.products["max_pattern"], "Maximum pattern")
    if "probe" in a.products and a.disks is not None:
        caption = f"The vacuum probe the template is made of (radius {a.template.radius:.2f} px)."
        yield Picture("probe", DETECTOR, "Probe", caption), plot.diffraction(a.products["probe"], "Probe", scale="linear")


def _bragg(a: Analysis) -> Iterator[Drawn]:
    from gpu4d.bragg import explain_disks

    counts = np.asarray(a.disks.counts)
    if "bragg_vector_map" in a.products:
        vectors = a.products["bragg_vector_map"]
        caption = "All Bragg disks of the scan in one diffraction plane, about their own origins"
        caption += ", with the lattice vectors that were found." if a.lattice is not None else "; no lattice was found in them."
        yield Picture("bragg_vector_map", DISKS, "Bragg vector map", caption), plot.bragg_vector_map(vectors, a.lattice)
    rx, ry = _typical(a, counts)
    pattern = a.cube[rx, ry]
    found = explain_disks(pattern, a.template, detector_mask=a.cube.detector_mask, **a.trial.options)
    title = f"Position ({rx}, {ry}): accepted and rejected"
    caption = "A pattern with a typical number of disks: every maximum of its correlation with the template, and why it counts or not."
    yield Picture("disks", DISKS, title, caption), plot.disks(pattern, found, title, radius=a.template.radius)
    caption = f"Bragg disks of every pattern; the guide recommends 5 to 30, {int((counts < 3).sum())} patterns have fewer than 3."
    made = plot.histogram(counts, "Disks per pattern", label="Bragg disks", recommended=(5, 30))
    yield Picture("disk_counts", DISKS, "Disks per pattern", caption), made
    if a.origin is not None:
        moved = a.origin.fitted - np.nanmean(a.origin.fitted, axis=(0, 1))
        size = {"pixel_size": a.products["bf"].pixel_size, "pixel_units": a.products["bf"].pixel_units}
        miss = float(np.hypot(*a.origin.residual))
        caption = (
            f"Unscattered beam over the scan, {a.origin.fit} ({miss:.3f} px rms residual), relative to its mean; taken off every pattern."
        )
        yield Picture("origin", DISKS, "Descan", caption), plot.vectors(moved[..., 0], moved[..., 1], "Descan", units="px", **size)


def _typical(a: Analysis, counts: np.ndarray) -> tuple[int, int]:
    """The trial position whose number of disks is nearest to the median."""
    tried = counts[a.trial.positions[:, 0], a.trial.positions[:, 1]]
    rx, ry = a.trial.positions[int(np.argmin(np.abs(tried - np.median(tried))))]
    return int(rx), int(ry)


def _strain(a: Analysis) -> Iterator[Drawn]:
    caption = f"Strain relative to the {a.strain.reference.how} ({a.strain.definition} definition), tension positive, and the lattice's θ. "
    caption += "Axes of the tensor are drawn beside every map."
    yield Picture("strain", STRAIN, "Strain", caption, wide=True), plot.strain(a.strain)
    size = {"pixel_size": a.strain.exx.pixel_size, "pixel_units": a.strain.exx.pixel_units}
    error = 100 * np.asarray(a.strain.uncertainty)[:3].mean(axis=0)
    caption = (
        "Standard error of a strain component (mean of the three), from the disks' counting noise and their scatter about the lattice."
    )
    made = plot.image(error, "Standard error of strain", units="%", cmap="viridis", **size)
    yield Picture("strain_uncertainty", STRAIN, "Standard error of strain", caption), made
    caption = "How far disks lie from the local lattice (rms): high where grains overlap or disks are misplaced."
    made = plot.image(a.strain.residual, "Distance of disks from the lattice", cmap="viridis")
    yield Picture("lattice_residual", STRAIN, "Distance of disks from the lattice", caption), made


def _phase(a: Analysis) -> Iterator[Drawn]:
    phase = a.products["dpc_phase"]
    caption = "Phase from the integrated centre of mass, up to a constant. For a thin specimen it is σ times the projected potential."
    yield Picture("dpc_phase", PHASE, "Phase", caption), plot.image(phase, "DPC phase", cmap="inferno")
    caption = "Centre of mass in the scan's axes, descan taken off: hue is the direction, lightness the length."
    yield Picture("com", PHASE, "Centre of mass", caption), plot.com(a.dpc.com, "Mean momentum transfer", remove_mean=False)
