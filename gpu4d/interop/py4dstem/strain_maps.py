"""Strain maps of py4DSTEM in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.crystal.fit_lattice import LatticeFit
from gpu4d.crystal.lattice import Lattice
from gpu4d.crystal.strain import Strain, strain_map
from gpu4d.errors import InputError
from gpu4d.interop.py4dstem._library import check_kind, library

if TYPE_CHECKING:
    import py4DSTEM

COMPONENTS = {"e_xx": "exx", "e_yy": "eyy", "e_xy": "exy", "theta": "theta"}  # py4DSTEM's label -> our field


def from_strainmap(strainmap: py4DSTEM.StrainMap) -> Strain:
    """Return a strain map of py4DSTEM as a `Strain`, computed anew from its local lattice vectors and its reference.

    Parameters
    ----------
    strainmap : py4DSTEM.StrainMap
        After `fit_basis_vectors` and `get_strain`.

    Returns
    -------
    Strain
        With definition="first_order", in the axes that py4DSTEM used. Positions without a fit are NaN. Standard errors are NaN, because
        py4DSTEM's vectors have none, and `residual` is its fit error.

    Raises
    ------
    InputError
        It is no StrainMap, or its lattice was not fitted yet.

    Examples
    --------
    >>> gpu4d.interop.py4dstem.from_strainmap(strainmap).exx  # doctest: +SKIP
    """
    check_kind(strainmap, "StrainMap", "strainmap")
    fitted, reference = getattr(strainmap, "g1g2_map", None), getattr(strainmap, "strainmap_g1g2", None)
    if fitted is None or reference is None:
        raise InputError("the StrainMap has no strain yet: call its fit_basis_vectors() and get_strain() first")
    if not fitted.get_slice("mask").data.any():
        raise InputError("the StrainMap has no position with a fit: choose other basis vectors, or a larger max_peak_spacing")
    found = {label: np.array(fitted.get_slice(label).data, dtype=np.float64) for label in fitted.slicelabels}
    mask = found["mask"] > 0
    pair = lambda name: np.where(mask[..., None], np.stack([found[name + "x"], found[name + "y"]], -1), np.nan)  # noqa: E731
    g1, g2 = pair("g1"), pair("g2")
    origin = np.where(mask[..., None], np.stack([found["x0"], found["y0"]], -1), np.nan)
    nothing = np.full(mask.shape, np.nan)
    covariance = np.full((*mask.shape, 2, 2, 2), np.nan)
    mean = Lattice(np.asarray(strainmap.g1, dtype=np.float64), np.asarray(strainmap.g2, dtype=np.float64))
    residual = np.where(mask, found["error"], np.nan)
    counts = np.array([len(strainmap.bragg_vectors_indexed[i, j].data) for i, j in np.ndindex(*mask.shape)]).reshape(mask.shape)
    make: Any = LatticeFit  # its arrays may be of any library, which type checkers do not know of NumPy's
    fit = make(g1, g2, origin, covariance, residual, counts, nothing, mask, mean, "py4dstem", float("nan"))
    unstrained = _reference(reference, g1, g2)
    return strain_map(fit, reference=unstrained, definition="first_order", rotation=_turn(strainmap), max_strain=np.inf)


def _reference(unrotated: py4DSTEM.RealSlice, g1: np.ndarray, g2: np.ndarray) -> np.ndarray:
    """Return the reference vectors that lead from local vectors to a strain: g = β g_ref at every position, with β from the strain."""
    part = {label: np.asarray(unrotated.get_slice(label).data, dtype=np.float64) for label in ("e_xx", "e_yy", "e_xy", "theta")}
    beta = np.empty((*g1.shape[:2], 2, 2))
    beta[..., 0, 0], beta[..., 1, 1] = 1 - part["e_xx"], 1 - part["e_yy"]
    beta[..., 0, 1], beta[..., 1, 0] = -part["e_xy"] + part["theta"], -part["e_xy"] - part["theta"]
    local = np.stack([g1, g2], -1)
    fitted = np.isfinite(local).all((-2, -1))  # elsewhere β is singular
    return np.median(np.linalg.solve(beta[fitted], local[fitted]), axis=0).T


def _turn(strainmap: py4DSTEM.StrainMap) -> float:
    return float(getattr(strainmap, "coordinate_rotation_radians", 0.0))


def to_strainmap(strain: Strain, braggvectors: py4DSTEM.BraggVectors, *, name: str = "strainmap") -> py4DSTEM.StrainMap:
    """Return a strain as a StrainMap of py4DSTEM, which shows and saves it.

    Parameters
    ----------
    strain : Strain
        In its own axes and definition: nothing is converted. `strain_map(..., definition="first_order")` has py4DSTEM's definition.
    braggvectors : py4DSTEM.BraggVectors
        Those that the strain comes from: a StrainMap of py4DSTEM belongs to some (see `to_braggvectors`). Their origin must be known.
    name : str

    Returns
    -------
    py4DSTEM.StrainMap
        With the slices e_xx, e_yy, e_xy, theta, mask and error. Where there is no strain, all of them are 0.

    Raises
    ------
    InputError
        An argument has another type, the scans differ, or py4DSTEM is not installed.

    Examples
    --------
    >>> gpu4d.interop.py4dstem.to_strainmap(strain, braggvectors).get_slice("e_xx")  # doctest: +SKIP
    """
    py4dstem = library()
    if not isinstance(strain, Strain):
        raise InputError(f"strain is a {type(strain).__name__}: need a Strain, as gpu4d.strain_map gives")
    check_kind(braggvectors, "BraggVectors", "braggvectors")
    mask = arrays.to_numpy(strain.mask)
    if tuple(braggvectors.Rshape) != mask.shape:
        raise InputError(f"the strain has {mask.shape} positions, the Bragg vectors {tuple(braggvectors.Rshape)}: need the same scan")
    made = py4dstem.StrainMap(braggvectors=braggvectors, name=name)
    parts = {label: arrays.to_numpy(getattr(strain, field).data) for label, field in COMPONENTS.items()}
    parts |= {"mask": mask, "error": arrays.to_numpy(strain.residual.data)}
    made.data = np.stack([np.where(mask, parts[label], 0.0) for label in made.slicelabels])
    made.g1, made.g2 = (tuple(map(float, g)) for g in strain.reference.matrix)
    made.coordinate_rotation_radians = strain.axes.angle
    made.coordinate_rotation_degrees = float(np.rad2deg(strain.axes.angle))
    return made
