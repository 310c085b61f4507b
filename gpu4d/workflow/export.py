"""Hand a scan to another ptychography engine from the command line: `gpu4d export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu4d.ptychography import hand_over
from gpu4d.workflow.inputs import open_scan
from gpu4d.workflow.recipe import Recipe


def export_scan(
    file: str | Path, out: str | Path | None, *, engine: str, recipe: Recipe, defocus: float | None = None, **options: Any
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
    defocus : float, optional
        Å, positive is underfocus.
    **options
        slices, thickness, overwrite of `hand_over`.

    Returns
    -------
    list of Path
        Files that were written.
    """
    cube = open_scan(file, recipe)
    folder = Path(f"{Path(file).stem}-{engine}") if out is None else Path(out)
    return hand_over(cube, folder, engine=engine, aberrations=None if defocus is None else {"defocus": defocus}, **options)
