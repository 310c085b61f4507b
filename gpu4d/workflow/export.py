"""Hand a scan to another ptychography engine from the command line: `gpu4d export`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu4d.errors import InputError
from gpu4d.ptychography import fit_aberrations, hand_over
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.recipe import Recipe

log = logging.getLogger("gpu4d")


def export_scan(
    file: str | Path,
    out: str | Path | None,
    *,
    engine: str,
    recipe: Recipe,
    aberrations: Mapping[str, float] | None = None,
    fit: bool = False,
    **options: Any,
) -> list[Path]:
    """Open a scan as a recipe says, and write it for an engine.

    Parameters
    ----------
    file, out : path
        Scan, and folder for the files. By default the file's name with the engine's, in the current folder.
    engine : str
        As of `gpu4d.ptychography.hand_over`.
    recipe : Recipe
        With the scan's dataset, shape and calibration.
    aberrations : mapping, optional
        What the probe begins with: Krivanek coefficients in Å and radians. Without them, and without a fit, a probe in focus.
    fit : bool
        Fit the aberrations to the scan.
    **options
        slices, thickness, overwrite of `hand_over`.

    Returns
    -------
    list of Path
        Files that were written.

    Raises
    ------
    InputError
        As `hand_over`, or aberrations that are both given and to be fitted.
    """
    if fit and aberrations:
        raise InputError(f"aberrations {', '.join(aberrations)} are given, and --fit asks to find them: give one of the two")
    cube = open_scan(file, recipe)
    folder = Path(f"{Path(file).stem}-{engine}") if out is None else Path(out)
    if fit:
        found = fit_aberrations(cube)
        log.info("export: %s", found)
        aberrations = found.aberrations
    elif not aberrations:
        log.warning("export: no aberrations are given: the probe begins in focus; give --defocus or --aberrations, or --fit them")
    return hand_over(cube, folder, engine=engine, aberrations=aberrations, **options)
