"""Turn the unstrained lattice that a recipe names into what `gpu4d.strain_map` takes, and keep it for other runs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
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
LARGEST_MISFIT = 0.15  # of the lengths: a lattice that differs by more, whatever its vectors are called, is another one or in other px
NAMINGS = 2  # largest number in the combination of two given vectors that is tried: (10) and (21) span the lattice, too
PARALLEL = 1e-3  # rad, about: smallest angle between two vectors of a lattice; real ones are far above
SAME_PIXEL = 0.01  # relative: detector pixels that differ by more are not those of the same camera length and binning


Remarks = tuple[tuple[str, str], ...]  # what was done to a reference, and why


class Detector(NamedTuple):
    """The detector on whose pixels lattice vectors are given.

    Attributes
    ----------
    shape : (Qx, Qy) int
        As analysed.
    binning : int
        Pixels of the file along one side of an analysed pixel.
    """

    shape: tuple[int, int]
    binning: int

    def same_file_pixels(self, other: Detector) -> bool:
        """Return True if both have the same number of pixels before binning, which leaves out rows that fill no pixel."""
        least = [(n * self.binning, m * other.binning) for n, m in zip(self.shape, other.shape)]
        return all(max(a, b) < min(a + self.binning, b + other.binning) for a, b in least)


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
    detector : Detector or None
        That of that run. None if the result does not say it.
    """

    rows: np.ndarray
    cepstral: bool
    q_pixel: float | None
    detector: Detector | None = None


class Unstrained(NamedTuple):
    """A reference for `gpu4d.strain_map`.

    Attributes
    ----------
    reference : str, (2, 2) float64 in px on the detector as measured, or Structure
    remarks : tuple of (what, why)
        What was done to it.
    """

    reference: str | np.ndarray | Structure
    remarks: Remarks = ()


def not_two_vectors(given: Any) -> str | None:
    """Say what is wrong with vectors that span no lattice: zero or parallel ones. None for all other references.

    Examples
    --------
    >>> not_two_vectors("12,0,0,12 px"), not_two_vectors("12,0,24,0 px")
    (None, 'reference = 12,0,24,0 px: need two vectors that are not zero and not parallel, as 12.1, 0.3, -0.3, 12.1 px')
    """
    named = vectors_in(given) if isinstance(given, str) else None
    if named is None or abs(np.linalg.det(named.rows)) > PARALLEL * np.prod(np.linalg.norm(named.rows, axis=1)):
        return None
    return f"reference = {given}: need two vectors that are not zero and not parallel, as 12.1, 0.3, -0.3, 12.1 {named.units}"


def check_reference(given: str | list[int], recipe: Recipe) -> None:
    """Refuse a reference that cannot be used, before any work: a file without a lattice, parallel vectors, or a crystal that is not named.

    Raises
    ------
    InputError
    """
    wrong = not_two_vectors(given)
    if wrong is not None:
        raise InputError(f"strain.{wrong}")
    if given == "crystal":
        _crystal(recipe)
    elif isinstance(given, str) and given not in WORDS and is_path(given):
        read_reference_lattice(given)


def reference_for(given: str | list[int], recipe: Recipe, fit: LatticeFit, calibration: Calibration, here: Detector) -> Unstrained:
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
    here : Detector
        That of this scan. Lengths of a result with another binning are converted to its pixels.

    Returns
    -------
    Unstrained

    Raises
    ------
    InputError
        The pixel size is not known, or the earlier run had another one; or that lattice is from a cepstrum and this one is not.
    """
    if given == "crystal":
        return Unstrained(_crystal(recipe))
    if given in WORDS:
        return Unstrained(str(given))
    named = vectors_in(str(given))
    if named is not None:
        return Unstrained(_on_detector(named, calibration))
    kept = read_reference_lattice(str(given))
    if kept.cepstral != (fit.weights == FROM_CEPSTRUM):
        first, second = ("a cepstrum", "Bragg disks") if kept.cepstral else ("Bragg disks", "a cepstrum")
        raise InputError(
            f"the lattice in {given} is from {first}, and this one from {second}: lengths of a cepstrum are up to 2 % short, so set "
            "strain.method alike in both runs"
        )
    return _in_pixels_of(here, kept, str(given), calibration.q_pixel)


def _in_pixels_of(here: Detector, kept: Kept, path: str, q_pixel: float | None) -> Unstrained:
    """Return the lattice of another run in the pixels of this scan.

    Raises
    ------
    InputError
        The pixel sizes of both runs are known, and say that the camera length was another one.
    """
    then, factor = kept.detector, 1.0
    remarks: list[tuple[str, str]] = []
    if then is not None and then.binning != here.binning and then.same_file_pixels(here):
        factor = then.binning / here.binning
        what = f"Reference of the strain: lengths of {path} times {factor:g}"
        remarks.append((what, f"that run summed {_squares(then)}, and this one {_squares(here)}, of a detector with as many pixels"))
    if kept.q_pixel and q_pixel:
        expected = kept.q_pixel / factor
        if abs(expected / q_pixel - 1) > SAME_PIXEL:
            binned = "" if factor == 1.0 else f" ({expected:.4g} 1/Å with the binning of this run)"
            raise InputError(
                f"the detector pixel of {path} is {kept.q_pixel:.4g} 1/Å{binned}, and here it is {q_pixel:.4g} 1/Å: name a result of the "
                "same camera length and binning"
            )
    elif then is not None and factor == 1.0 and then.shape != here.shape:
        shapes = [f"{n}×{m}" for n, m in (then.shape, here.shape)]
        what = f"Reference of the strain: px of {path} are taken for px of this scan"
        remarks.append((what, f"a pixel size is not known; the detectors have {shapes[0]} and {shapes[1]} pixels, and lengths agree"))
    return Unstrained(kept.rows * factor, tuple(remarks))


def _squares(detector: Detector) -> str:
    """Say how pixels were binned."""
    return f"squares of {detector.binning}×{detector.binning} pixels" if detector.binning > 1 else "no pixels"


def as_named_here(given: str, rows: np.ndarray, fit: LatticeFit, largest: float) -> tuple[np.ndarray, Remarks]:
    """Return a reference with its vectors named as the lattice of this scan: which one is g1, and which sign they have.

    Any two vectors with whole-number combinations of determinant ±1 span the same lattice. Of all such combinations whose stretch from
    the median lattice of the scan is small enough, the nearest one is taken: that with the smallest element of |F − 1|.

    Parameters
    ----------
    given : str
        What the recipe says, for texts.
    rows : (2, 2) float64
        g1 and g2 of the reference, px on the detector as measured.
    fit : LatticeFit
        Lattices of this scan. If no position has one, `rows` is returned as it is.
    largest : float
        Largest stretch: singular value of F minus one, in magnitude.

    Returns
    -------
    (2, 2) float64, and pairs of what was done and why

    Raises
    ------
    InputError
        None of the combinations is near: it is another lattice, or in other pixels.
    """
    seen = np.stack([arrays.to_numpy(fit.g1), arrays.to_numpy(fit.g2)], axis=-2).astype(np.float64)
    seen = seen[np.isfinite(seen).all(axis=(-2, -1))]
    if not len(seen):
        return rows, ()
    here = np.median(seen, axis=0)
    numbers = range(-NAMINGS, NAMINGS + 1)
    every = np.array(list(itertools.product(numbers, repeat=4)), dtype=np.float64).reshape(-1, 2, 2)
    every = every[np.abs(np.rint(np.linalg.det(every))) == 1]
    f = np.linalg.solve(here, every @ rows)
    stretch = np.abs(np.linalg.svd(f, compute_uv=False) - 1).max(axis=-1)
    fits = (np.linalg.det(f) > 0) & (stretch <= largest)  # a negative determinant exchanges left and right: no deformation does
    if not fits.any():
        raise InputError(
            f"strain.reference = {given} is no lattice like that of this scan: its vectors are {_described(rows)}, and here they are "
            f"{_described(here)}; under no names of its vectors does it come within {100 * largest:.3g} %. Give two vectors of the "
            "lattice in px of this scan's detector, or in 1/Å with the right --q-pixel; or a result of the same camera length, whose "
            "report says the same detector binning"
        )
    away = np.where(fits, np.abs(f - np.eye(2)).max(axis=(-2, -1)), np.inf)
    change = every[int(np.argmin(away))]
    if (change == np.eye(2)).all():
        return rows, ()
    names = ", ".join(f"{g} = {_combination(row)}" for g, row in zip(("g1", "g2"), change.astype(int)))
    why = "they span the same lattice, and these names are nearest to those of this scan"
    return change @ rows, ((f"Vectors of the reference: {names}, of its first and second vector v1 and v2", why),)


def in_real_space(given: str | list[int], fit: LatticeFit, q_pixel: float | None) -> str:
    """Say, as the end of a message, if a reference has the spacings d of this scan where its lattice vectors g = 1/d belong. Else empty."""
    named = vectors_in(given) if isinstance(given, str) else None
    if named is None or not q_pixel:
        return ""
    seen = np.stack([arrays.to_numpy(fit.g1), arrays.to_numpy(fit.g2)], axis=-2).astype(np.float64)
    spacings = np.sort(1 / (np.linalg.norm(np.nanmedian(seen, axis=(0, 1)), axis=1) * q_pixel))
    if not np.allclose(np.sort(np.linalg.norm(named.rows, axis=1)), spacings, rtol=LARGEST_MISFIT):
        return ""
    return (
        f". Its numbers are the spacings of this scan in Å, d = {spacings[0]:.3g} and {spacings[1]:.3g}: a reference has the vectors "
        "g = 1/d of the reciprocal lattice"
    )


def _described(rows: np.ndarray) -> str:
    """Say lengths of two vectors, and the angle between them."""
    lengths = np.linalg.norm(rows, axis=1)
    angle = math.degrees(math.acos(np.clip(rows[0] @ rows[1] / max(np.prod(lengths), 1e-300), -1, 1)))
    return f"{lengths[0]:.2f} and {lengths[1]:.2f} px long, {angle:.1f}° apart"


def _combination(row: np.ndarray) -> str:
    """Write a combination of v1 and v2.

    Examples
    --------
    >>> _combination(np.array([0, -1])), _combination(np.array([1, 2])), _combination(np.array([-1, 1]))
    ('−v2', 'v1 + 2 v2', '−v1 + v2')
    """
    text = ""
    for number, name in zip(row, ("v1", "v2")):
        if number:
            sign = ("−" if number < 0 else "") if not text else (" − " if number < 0 else " + ")
            text += sign + (f"{abs(number)} " if abs(number) > 1 else "") + name
    return text


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


def kept_reference(reference: Reference, fit: LatticeFit, detector: Detector) -> PointList:
    """Return the unstrained lattice as an item of the result file: g1 and g2, px on the detector as measured, and that detector.

    The pixel size is in the calibration of the same file.
    """
    rows = reference.matrix if reference.ellipse is None else reference.matrix @ np.linalg.inv(ellipse_matrix(reference.ellipse)).T
    both = {
        "cepstral": float(fit.weights == FROM_CEPSTRUM), "detector_qx": float(detector.shape[0]),
        "detector_qy": float(detector.shape[1]), "binning": float(detector.binning),
    }  # fmt: skip
    units = {"qx": "px", "qy": "px", "cepstral": "1", "detector_qx": "px", "detector_qy": "px", "binning": "1"}
    return PointList({"qx": rows[:, 0].copy(), "qy": rows[:, 1].copy()} | {k: np.full(2, v) for k, v in both.items()}, units)


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
    return Kept(rows, cepstral, calibration.q_pixel if isinstance(calibration, Calibration) else None, _detector_of(found))


def _detector_of(found: PointList) -> Detector | None:
    """Return the detector of a kept lattice. None if it is not written there, or is no detector."""
    if not {"detector_qx", "detector_qy", "binning"} <= set(found.fields):
        return None
    qx, qy, binning = (float(np.asarray(found[name])[0]) for name in ("detector_qx", "detector_qy", "binning"))
    return Detector((int(qx), int(qy)), int(binning)) if min(qx, qy, binning) >= 1 else None


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
