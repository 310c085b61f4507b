"""Read what of a result file can be compared: maps, labels, orientations, curves, numbers of the calibration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import ERRORS, FIELDS
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import Slice
from gpu4d.ptychography import Reconstruction
from gpu4d.workflow.comparing.quantity import CONSTANT, CURVE, LABEL, OBJECT, PHASE, ROTATION, SHARE, VALUE, Quantity

PHASES = ("dpc_phase", "ssb_phase", "wdd_phase", "dpc_potential")  # known up to a constant
CENTRES = {  # the descan that is subtracted is a constant, too, unless it was fitted where there is no field: by which section says so
    "dpc_com": "dpc", "dpc_field": "dpc", "induction": "magnetic", "electric_momentum": "magnetic"
}  # fmt: skip
POSITIONS = "positions"  # a shift of all of them is a shift of the specimen
FRACTIONS = "class_fractions"
LABELS = ("class_label", "which_lattice", "orientation_phase", "orientation_second_phase")
MATRICES = ("orientation_matrices", "orientation_second_matrices")
TURNS = 9  # elements of a rotation matrix
CURVES = {"structure_factor": "k", "pair_distribution": "r"}  # lists of points: the field along which the others are curves
NEAREST = 1.0  # Å: no two atoms but hydrogen are nearer. Below it g(r) = 1 + G(r) / (4πρr) is an error over r, and hides all shells
ERRORS_OF = {  # item with standard errors: the item that has them, and the planes of both
    "strain_uncertainty": "strain",
    "amorphous_strain_uncertainty": "amorphous_strain",
    "dpc_phase_error": "dpc_phase",
    "induction_error": "induction",
    "class_fraction_errors": "class_fractions",
    "orientation_error": "orientation_matrices",
    "orientation_second_error": "orientation_second_matrices",
}
LEFT_OUT = ("settings", "versions", "log", "gates")  # are no quantities
HAS_NO_VALUE = ("mask",)  # planes that say where others have values


def result_quantities(items: Mapping[str, Any]) -> list[Quantity]:
    """Return the quantities of a result file.

    Parameters
    ----------
    items : mapping
        As `gpu4d.io.read_emd` returns them.
    """
    fixed = {name for name, section in CENTRES.items() if _of_settings(items, section, "field_free") is not None}
    errors = {of: np.asarray(items[name]) for name, of in ERRORS_OF.items() if isinstance(items.get(name), Slice)}
    found: list[Quantity] = []
    for name, item in items.items():
        if name in LEFT_OUT or name in ERRORS_OF or name.rpartition("/")[2] in ERRORS_OF:
            continue
        if isinstance(item, Slice):
            found += _of_slice(name, item, errors.get(name), known=name in fixed)
        elif isinstance(item, PointListArray):
            found.append(Quantity(f"{name}/points", np.asarray(item.counts, np.float64), "points"))
        elif isinstance(item, PointList) and name in CURVES:
            found += _of_curves(name, item)
        elif isinstance(item, Calibration):
            found += _of_calibration(item)
        elif isinstance(item, Reconstruction):
            found += _of_reconstruction(name, item, f"{POSITIONS}/x" in items or POSITIONS in items)
    return found


def _of_settings(items: Mapping[str, Any], section: str, name: str) -> object:
    """Return a setting of the run. None if it was automatic, or there are no settings."""
    settings = items.get("settings")
    held = settings.get(section) if isinstance(settings, Mapping) else None
    return held.get(name) if isinstance(held, Mapping) else None


def _of_slice(name: str, item: Slice, errors: np.ndarray | None, known: bool = False) -> Iterator[Quantity]:
    values = np.asarray(item)
    if values.dtype.kind == "c" and values.ndim == 2:
        yield Quantity(name, values.astype(np.complex128), item.units, PHASE)
    if values.dtype.kind not in "biuf":
        return
    if name in MATRICES and values.ndim == 3 and len(values) == TURNS:
        matrices = np.moveaxis(values, 0, -1).reshape(*values.shape[1:], 3, 3).astype(np.float64)
        yield Quantity(name, matrices, "", ROTATION, errors)
        return
    open_to = name in PHASES or name in CENTRES or name == POSITIONS
    kind = CONSTANT if open_to and not known else LABEL if name in LABELS else SHARE if name == FRACTIONS else VALUE
    if values.ndim == 2:
        yield Quantity(name, values.astype(np.float64), item.units, kind, errors)
        return
    labels = item.labels or tuple(map(str, range(len(values))))
    for i, label in enumerate(labels):
        if label in HAS_NO_VALUE or i >= len(values):
            continue
        own = None if errors is None or errors.ndim != values.ndim or i >= len(errors) else errors[i]
        yield Quantity(f"{name}/{label}", values[i].astype(np.float64), "rad" if label == "theta" else item.units, kind, own)


def _of_reconstruction(name: str, item: Reconstruction, positions: bool) -> Iterator[Quantity]:
    """Return the phase and the transmission of every slice, and the positions if they were corrected and nothing else gives them."""
    grid: dict[str, Any] = {"pixel": item.phase.pixel_size, "corner": item.corner}
    yield Quantity(f"{name}/phase", np.asarray(item.phase, np.float64), "rad", OBJECT, **grid)
    for i, part in enumerate(np.asarray(item.transmission)):
        yield Quantity(f"{name}/slice {i}", part.astype(np.complex128), "1", OBJECT, **grid)
    if not positions and np.nanmax(np.abs(item.corrections)) > 0:
        for i, axis in enumerate("xy"):
            yield Quantity(f"{POSITIONS}/{axis}", np.asarray(item.positions[..., i], np.float64), "Å", CONSTANT)


def _of_curves(name: str, item: PointList) -> Iterator[Quantity]:
    place = CURVES[name]
    at = np.asarray(item[place], np.float64)
    for field in item.fields:
        if field in (place, "error"):
            continue
        own = np.asarray(item["error"], np.float64) if "error" in item.fields and field in ("structure_factor", "reduced") else None
        values = np.asarray(item[field], np.float64)
        if field == "pair_distribution":
            values = np.where(at < NEAREST, np.nan, values)
        yield Quantity(f"{name}/{field}", values, item.units.get(field, "1"), CURVE, own, at)


def _of_calibration(c: Calibration) -> Iterator[Quantity]:
    """Return numbers of the calibration with their errors, and the origin of every pattern where it was measured."""
    for name, field in FIELDS.items():
        value = getattr(c, name)
        if isinstance(value, float) and not field.error_of:
            error = getattr(c, ERRORS[name]) if name in ERRORS else None
            errors = None if error is None else np.asarray(float(error))
            yield Quantity(f"calibration/{name}", np.asarray(value), field.units, VALUE, errors)
    if c.ellipse is not None:
        yield from ellipse_quantities(*c.ellipse)
    if c.origin is not None and np.ndim(c.origin) == 3:
        for i, axis in enumerate(("qx", "qy")):
            yield Quantity(f"origin/{axis}", np.asarray(c.origin, np.float64)[..., i], "px")


def ellipse_quantities(a: float, b: float, theta: float) -> Iterator[Quantity]:
    """Return the ratio of the semi-axes and the direction of the first one between −π/2 and π/2."""
    yield Quantity("calibration/ellipse a/b", np.asarray(a / b), "1")
    yield Quantity("calibration/ellipse angle", np.asarray((theta + np.pi / 2) % np.pi - np.pi / 2), "rad")
