"""Turn the unstrained lattice that a recipe names into what `gpu4d.strain_map` takes, and keep it for other runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu4d.crystal.fit_lattice import FROM_CEPSTRUM, LatticeFit
from gpu4d.crystal.reference import Reference
from gpu4d.data.calibration import Calibration
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.pointlist import PointList
from gpu4d.errors import InputError
from gpu4d.io import read_emd
from gpu4d.structures import Structure
from gpu4d.workflow.recipe.recipe import Recipe
from gpu4d.workflow.reference_text import Vectors, is_path, vectors_in
from gpu4d.workflow.report import output
from gpu4d.workflow.structure_names import structure_named

NAME = "strain_reference"  # of the item in a result file
WORDS = ("median", "mean", "auto", "crystal")
SAME_PIXEL = 0.01  # relative: detector pixels that differ by more are not those of the same camera length and binning


class Kept(NamedTuple):
    """The unstrained lattice of an earlier run.

    Attributes
    ----------
    rows : (2, 2) float64
        g1 and g2, px on the detector as measured.
    cepstral : bool
        True if the lattice is from a cepstrum.
    q_pixel : float or None
        Size of the detector pixel of that run, 1/Å.
    """

    rows: np.ndarray
    cepstral: bool
    q_pixel: float | None


def check_reference(given: str | list[int], recipe: Recipe) -> None:
    """Refuse a reference that cannot be used, before any work: a file without a lattice, or a crystal that is not named.

    Raises
    ------
    InputError
    """
    if given == "crystal":
        _crystal(recipe)
    elif isinstance(given, str) and given not in WORDS and is_path(given):
        read_reference_lattice(given)


def reference_for(given: str | list[int], recipe: Recipe, fit: LatticeFit, calibration: Calibration) -> str | np.ndarray | Structure:
    """Return a reference as `gpu4d.strain_map` takes it. A region of the scan is no business of this function.

    Parameters
    ----------
    given : str
        A word of `WORDS`, two vectors with their unit, or the path of a result.
    recipe : Recipe
        Names the crystal.
    fit : LatticeFit
        Whose strain is computed.
    calibration : Calibration
        Its pixel size and ellipse turn vectors in 1/Å into places on the detector.

    Returns
    -------
    str, (2, 2) float64 in px on the detector as measured, or Structure

    Raises
    ------
    InputError
        The pixel size is not known, or the earlier run had another one; or that lattice is from a cepstrum and this one is not.
    """
    if given == "crystal":
        return _crystal(recipe)
    if given in WORDS:
        return str(given)
    named = vectors_in(str(given))
    if named is not None:
        return _on_detector(named, calibration)
    kept = read_reference_lattice(str(given))
    if kept.cepstral != (fit.weights == FROM_CEPSTRUM):
        first, second = ("a cepstrum", "Bragg disks") if kept.cepstral else ("Bragg disks", "a cepstrum")
        raise InputError(
            f"the lattice in {given} is from {first}, and this one from {second}: lengths of a cepstrum are up to 2 % short, so set "
            "strain.method alike in both runs"
        )
    if kept.q_pixel and calibration.q_pixel and abs(kept.q_pixel / calibration.q_pixel - 1) > SAME_PIXEL:
        raise InputError(
            f"the detector pixel of {given} is {kept.q_pixel:.4g} 1/Å, and here it is {calibration.q_pixel:.4g} 1/Å: name a result of the "
            "same camera length and binning"
        )
    return kept.rows


def _on_detector(named: Vectors, calibration: Calibration) -> np.ndarray:
    """Return vectors in px on the detector as measured."""
    if named.units == "px":
        return named.rows
    if not calibration.q_pixel:
        raise InputError("strain.reference has vectors in 1/Å, and the pixel size is not known: give --q-pixel, or the vectors in px")
    rows = named.rows / calibration.q_pixel
    return rows if calibration.ellipse is None else rows @ np.linalg.inv(ellipse_matrix(calibration.ellipse)).T


def _crystal(recipe: Recipe) -> Structure:
    """Return the one structure that the recipe names."""
    names = recipe.orientation.structures or []
    if len(names) != 1:
        said = f"{len(names)} are named ({', '.join(names)})" if names else "none is named"
        raise InputError(f"strain.reference = crystal needs one structure, and {said}: give --structure Au, or a CIF file, once")
    return structure_named(names[0])


def kept_reference(reference: Reference, fit: LatticeFit) -> PointList:
    """Return the unstrained lattice as an item of the result file: g1 and g2, px on the detector as measured."""
    rows = reference.matrix if reference.ellipse is None else reference.matrix @ np.linalg.inv(ellipse_matrix(reference.ellipse)).T
    cepstral = np.full(2, float(fit.weights == FROM_CEPSTRUM))
    return PointList({"qx": rows[:, 0].copy(), "qy": rows[:, 1].copy(), "cepstral": cepstral}, {"qx": "px", "qy": "px", "cepstral": "1"})


def read_reference_lattice(path: str) -> Kept:
    """Read the unstrained lattice of an earlier run.

    Parameters
    ----------
    path : str
        Its result file, or its folder.

    Raises
    ------
    InputError
        There is no such file, or it holds no lattice.
    """
    file = Path(path) / output.RESULT if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"strain.reference = {path}: there is no such result; name the folder or the {output.RESULT} of another run")
    try:
        items: dict[str, Any] = read_emd(file, only=(NAME,))
    except InputError as error:
        raise InputError(f"strain.reference = {path} is no result of gpu4d ({error}); name the {output.RESULT} of another run") from error
    found = items.get(NAME)
    if not isinstance(found, PointList) or len(found) != 2 or not {"qx", "qy"} <= set(found.fields):
        raise InputError(f"strain.reference = {path}: this result has no lattice ({NAME}); name that of a run that measured strain")
    calibration = items.get("calibration")
    rows = np.stack([np.asarray(found["qx"]), np.asarray(found["qy"])], axis=-1).astype(np.float64)
    cepstral = "cepstral" in found.fields and bool(np.asarray(found["cepstral"])[0])
    return Kept(rows, cepstral, calibration.q_pixel if isinstance(calibration, Calibration) else None)


def said_of(given: Any, how: str) -> tuple[str, str]:
    """Return what strain is relative to, and why, for the report.

    Parameters
    ----------
    given : str or list of int
    how : str
        `Reference.how` of the strain.
    """
    if given == "median":
        why = "the recipe names no unstrained region: strain is relative to the typical lattice"
        return "Reference of the strain: the median lattice of the scan", why
    if given == "auto":
        return f"Reference of the strain: {how}", "the recipe asks for it: look whether it is unstrained"
    if given == "crystal":
        why = "the recipe asks for it: strain is absolute, and no more exact than the pixel size"
        return f"Reference of the strain: {how}", why
    if isinstance(given, str):
        what = how if given in WORDS else f"two vectors, {given}" if vectors_in(given) is not None else f"the lattice of {given}"
        return f"Reference of the strain: {what}", "set in the recipe"
    rx0, rx1, ry0, ry1 = given
    return f"Reference of the strain: the median lattice of rows {rx0}–{rx1 - 1}, columns {ry0}–{ry1 - 1}", "set in the recipe"
