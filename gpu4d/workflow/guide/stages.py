"""List the stages A to W of the guide, and what does their work: stages of a run, settings, commands, calls."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from gpu4d.workflow.stages import known_stages


class GuideStage(NamedTuple):
    """A stage of the guide's section 16.1.

    Attributes
    ----------
    letter : str
        "A" to "W" and "T2"; "1" to "4" for the raw input.
    name : str
        The guide's name.
    beside : str
        What else does it: settings, commands, calls. Empty if the stages of a run do all of it.
    """

    letter: str
    name: str
    beside: str = ""


GUIDE_STAGES = (
    GuideStage("1", "Raw 4D-STEM data cube", "`gpu4d info`, `gpu4d convert`"),
    GuideStage("2", "Metadata", "[calibration], `--energy`, `--semiangle`, `--r-pixel`; `gpu4d plan` before a scan"),
    GuideStage("3", "Dark reference images", "corrections.dark, corrections.gain"),
    GuideStage("4", "Vacuum probe template", "probe.file, probe.vacuum_region"),
    GuideStage("A", "Background subtraction", "[corrections], made to each pattern as it is read"),
    GuideStage("B", "Hot pixel removal", "input.bad_pixels, input.detector_mask"),
    GuideStage("C", "Electron counting", "before a run: `gpu4d.preprocess.count_scan`"),
    GuideStage("D", "Binning / cropping", "input.bin_detector, input.bin_scan, input.crop_scan, `--preview`"),
    GuideStage("E", "Reshaping (3D → 4D)", "input.scan_shape, input.flyback; `gpu4d info --shapes`"),
    GuideStage("F", "Diffraction shift correction", "[origin]"),
    GuideStage("G", "Elliptical distortion fit", "[ellipse]; `gpu4d calibrate`"),
    GuideStage("H", "Elliptical distortion correction", "every stage that works with distances uses the calibrated ellipse"),
    GuideStage("I", "Rotational offset calibration", "calibration.rotation_degrees; `gpu4d calibrate`"),
    GuideStage("J", "Pixel size calibration", "`gpu4d calibrate STANDARD --standard Au`"),
    GuideStage("K", "Probe kernel generation", "[probe]"),
    GuideStage("L", "Cross-correlation", "bragg.power"),
    GuideStage("M", "Peak finding and thresholding", "bragg.min_significance, bragg.max_peaks"),
    GuideStage("N", "Subpixel refinement", "bragg.refine"),
    GuideStage("O", "Bragg vector map generation"),
    GuideStage("P", "Virtual imaging", "[images]"),
    GuideStage("Q", "Phase mapping", "[classification], [orientation]"),
    GuideStage("R", "Crystalline strain mapping", "[lattice], [strain]"),
    GuideStage("S", "Amorphous analysis", "[fem], [rdf], [amorphous_strain]"),
    GuideStage("T", "Phase retrieval", "[dpc], [phase], [ptychography]; `gpu4d export` for other engines"),
    GuideStage("T2", "Magnetic vector mapping", "[magnetic]"),
    GuideStage("U", "HDF5/EMD file", "every run writes result.h5; `gpu4d run --bundle` puts the raw scan into it"),
    GuideStage("V", "Visualization", "every run writes pictures with scale bars and axes, and report.html"),
    GuideStage("W", "Validation", "quality gates of all stages; `gpu4d demo` compares with truth"),
)
LETTERS = tuple(one.letter for one in GUIDE_STAGES)


def stages_by_letter() -> dict[str, tuple[str, ...]]:
    """Return the names of the stages of a run by the guide's letters, those of other packages among them."""
    return {letter: tuple(stage.name for stage in known_stages() if letter in stage.guide) for letter in LETTERS}


def stages_text(columns: int = 110) -> str:
    """Write the table for a terminal: letter, the guide's name, stages of a run, and what else does it."""
    found, lines = stages_by_letter(), []
    for one in GUIDE_STAGES:
        head = f"{one.letter:<3} {one.name:<34} "
        what = "; ".join(part for part in (", ".join(found[one.letter]), one.beside.replace("`", "")) if part)
        lines.append(textwrap.fill(what, columns, initial_indent=head, subsequent_indent=" " * len(head)))
    if others := [stage.name for stage in known_stages() if not set(stage.guide) & set(LETTERS)]:
        lines.append(f"    without a letter, of other packages: {', '.join(others)}")
    return "\n".join(lines)


def stages_table() -> str:
    """Return the table as Markdown."""
    found = stages_by_letter()
    lines = ["| | the guide's stage | stages of a run | beside them |", "| --- | --- | --- | --- |"]
    for one in GUIDE_STAGES:
        lines.append(f"| {one.letter} | {one.name} | {', '.join(found[one.letter])} | {one.beside} |")
    return "\n".join(lines)
