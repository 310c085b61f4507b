"""Read metadata of EMD 1.0 (emdfile, py4DSTEM), EMD 0.x and HDF5 dimension scales: calibration, dictionaries, names."""

from __future__ import annotations

import os
from typing import Any

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration, Measurement
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.source import Shape4
from gpu4d.io.units import detector_pixel, log, scan_step


def text(value: Any) -> str:
    """Return a string attribute or value, however it was stored."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else ""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def group_type(group: h5py.Group) -> str:
    """Return EMD 1.0's word for a group: root, array, custom, … ; "" for others."""
    value = group.attrs.get("emd_group_type", "")
    return text(value) if isinstance(value, str | bytes | np.bytes_) else ""


def cube_name(file: str, dataset: str) -> str:
    """Return the name of an array. EMD calls every array `data` and names its group; other files name the dataset."""
    parts = dataset.strip("/").split("/")
    if parts[-1] in ("data", "datacube") and len(parts) > 1:
        return parts[-2]
    return parts[-1] or os.path.basename(file)


# ---------------------------------------------------------------- dictionaries


def read_metadata(group: h5py.Group) -> dict[str, Any]:
    """Read an EMD 1.0 metadata group as a dictionary."""
    return {key: _item(value) for key, value in group.items()}


def _item(node: Any) -> Any:
    kind = text(node.attrs.get("type", ""))
    if isinstance(node, h5py.Group):
        if "_of_" in kind:
            values = [_item(node[str(i)]) for i in range(int(node.attrs["length"]))]
            if kind.endswith("_of_tuples"):
                values = [tuple(v.tolist()) if isinstance(v, np.ndarray) else v for v in values]
            return tuple(values) if kind.startswith("tuple") else values
        return read_metadata(node)
    value = node[()]
    if isinstance(value, bytes | str):
        value = text(value)
        return None if value == "_None" else value
    if kind in ("tuple", "list"):
        return tuple(value.tolist()) if kind == "tuple" else value.tolist()
    return value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value


def bundle(group: h5py.Group) -> dict[str, dict[str, Any]]:
    """Read all metadata dictionaries of an EMD 1.0 node."""
    held = group.get("metadatabundle")
    if not isinstance(held, h5py.Group):
        return {}
    return {name: read_metadata(item) for name, item in held.items() if isinstance(item, h5py.Group)}


def root_of(file: h5py.File, path: str) -> h5py.Group | None:
    """Return the EMD 1.0 root group above a path."""
    top = file.get(path.strip("/").split("/")[0])
    return top if isinstance(top, h5py.Group) and group_type(top) == "root" else None


def metadata_of(file: h5py.File, path: str, dataset: h5py.Dataset) -> dict[str, Any]:
    """Collect attributes from the file down to the dataset, and EMD dictionaries, as they are."""
    attributes = {}
    node: Any = file
    for part in ["", *path.strip("/").split("/")]:
        node = node[part] if part else node
        if len(node.attrs):
            attributes[node.name] = {key: _attribute(node, key) for key in node.attrs}
    out: dict[str, Any] = {"attributes": attributes}
    root = root_of(file, path)
    if root is not None:
        out["metadata"] = {**bundle(root), **bundle(parent_of(file, path))}
    return out


def parent_of(file: h5py.File, path: str) -> h5py.Group:
    """Return the group that contains a path, also if its last step is a link into another file."""
    return file[os.path.dirname(path) or "/"]


def _attribute(node: Any, key: str) -> Any:
    try:
        value = node.attrs[key]
    except (OSError, TypeError, ValueError):
        return None
    return text(value) if isinstance(value, bytes) else value


# ---------------------------------------------------------------- calibration


def calibration_of(file: h5py.File, path: str, dataset: h5py.Dataset, shape: Shape4, energy: float | None = None) -> Calibration:
    """Return the calibration a file states in a standard way: an EMD calibration first, then the units of its axes for what is missing.

    Parameters
    ----------
    energy : float, optional
        Beam energy in eV, if the caller knows it. It converts angles into 1/Å.
    """
    root = root_of(file, path)
    found = Calibration()
    if root is not None:
        held = bundle(parent_of(file, path)).get("calibration") or bundle(root).get("calibration")
        if held:
            found = from_keys(held, shape[:2], energy)
    if dataset.ndim == 4 and tuple(dataset.shape) == tuple(shape):
        _from_axes(found, axes_of(parent_of(file, path), dataset), found.energy or energy)
    return found


def from_keys(keys: dict[str, Any], scan: tuple[int, int] | None, energy: float | None = None) -> Calibration:
    """Make a Calibration from py4DSTEM's keys and ours.

    Parameters
    ----------
    scan : (Rx, Ry) or None
        Shape that maps of the origin must have; None takes what is there.
    """
    c = Calibration()
    how = "EMD calibration in the file"
    simple = {name: next((keys[k] for k in field.emd if keys.get(k)), None) for name, field in FIELDS.items() if field.emd}
    rotation, degrees = keys.get("QR_rotation"), _number(keys.get("QR_rotation_degrees"))
    simple["rotation"] = rotation if rotation is not None else None if degrees is None else np.deg2rad(degrees)
    # py4DSTEM writes QR_flip = False also if it was never measured: without a rotation it means nothing
    simple["transpose"] = keys.get("QR_flip") if simple["rotation"] is not None or keys.get("QR_flip") else None
    energy = _number(simple["energy"]) or energy
    simple["q_pixel"] = detector_pixel(keys.get("Q_pixel_size"), str(keys.get("Q_pixel_units")), energy)
    simple["r_pixel"] = scan_step(keys.get("R_pixel_size"), str(keys.get("R_pixel_units")))
    a, b, theta = (_number(keys.get(name)) for name in ("a", "b", "theta"))
    if a is not None and b is not None and theta is not None:
        simple["ellipse"] = (a, b, theta) if a >= b else (b, a, theta + np.pi / 2)
    for field, names in (("origin", ("qx0", "qy0")), ("origin_measured", ("qx0_meas", "qy0_meas"))):
        simple[field] = _origin(keys.get(names[0]), keys.get(names[1]), scan)
    if simple["origin"] is None:
        simple["origin"] = _origin(keys.get("qx0_mean"), keys.get("qy0_mean"), scan)
    for field, value in simple.items():
        _set(c, field, value, how)
    lines = [line.split(" | ", 3) for line in keys.get("history") or ()]
    c.history = [Measurement(field, value, told, when) for when, field, value, told in (x for x in lines if len(x) == 4)] or c.history
    return c


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _set(c: Calibration, field: str, value: Any, how: str) -> None:
    """Set a value of the file unless it is impossible. A wrong value must not prevent opening the scan."""
    if value is None:
        return
    try:
        if not np.isfinite(np.asarray(value, dtype=np.float64)).any():
            raise ValueError("not finite")
        c.set(**{field: value}, how=how)
    except (TypeError, ValueError) as error:  # InputError is a ValueError
        log.warning("the file's %s is left out: %s", field, error)


def _origin(qx: Any, qy: Any, scan: tuple[int, int] | None) -> np.ndarray | None:
    """Combine two numbers or two maps into an origin, (2,) or (Rx, Ry, 2)."""
    if qx is None or qy is None or np.shape(qx) != np.shape(qy):
        return None
    origin = np.stack([np.asarray(qx, np.float64), np.asarray(qy, np.float64)], axis=-1)
    if origin.ndim == 3 and scan is not None and origin.shape[:2] != tuple(scan):
        log.warning("the file's origin is for a scan of %s, the data have %s positions: the mean is used", origin.shape[:2], tuple(scan))
        return np.nanmean(origin, axis=(0, 1))
    return origin if origin.ndim in (1, 3) else None


Axis = tuple[str, str, float | None]  # name, units, distance of neighbours


def axes_of(group: h5py.Group, dataset: h5py.Dataset) -> list[Axis]:
    """Return name, units and step of every axis: EMD dimension vectors beside the dataset, or HDF5 dimension scales on it."""
    beside = [group.get(f"dim{n}") for n in range(dataset.ndim + 1)]
    first = 0 if isinstance(beside[0], h5py.Dataset) else 1  # EMD 0.x counts from one
    vectors = beside[first : first + dataset.ndim]
    if all(isinstance(v, h5py.Dataset) for v in vectors) and len(vectors) == dataset.ndim:
        return [(text(v.attrs.get("name", "")), text(v.attrs.get("units", "")), _step(v)) for v in vectors]
    out: list[Axis] = []
    for dim in dataset.dims:
        scale = dim[0] if len(dim) else None
        units = text(scale.attrs.get("units", "")) if scale is not None else ""
        out.append((dim.label, units, _step(scale) if scale is not None else None))
    return out


def _step(vector: h5py.Dataset) -> float | None:
    """Return the distance of neighbours on an even axis."""
    if vector.ndim != 1 or vector.dtype.kind not in "iuf" or vector.size < 2:
        return None
    steps = np.diff(vector[()].astype(np.float64))
    return float(steps.mean()) if np.allclose(steps, steps[0], rtol=1e-3, atol=1e-12) else None


def _from_axes(c: Calibration, axes: list[Axis], energy: float | None) -> None:
    r = [scan_step(step, units) for _, units, step in axes[:2]]
    q = [detector_pixel(step, units, energy) for _, units, step in axes[2:]]
    for field, both in (("r_pixel", r), ("q_pixel", q)):
        known = [v for v in both if v is not None]
        if getattr(c, field) is not None or not known:
            continue
        if len(known) == 2 and abs(known[0] - known[1]) > 0.01 * known[0]:
            log.warning("the file's axes have different steps (%g and %g): %s stays unknown", *known, field)
            continue
        found: dict[str, Any] = {field: float(np.mean(known))}
        c.set(**found, how="units of the axes in the file")
