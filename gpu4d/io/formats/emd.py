"""Read metadata of EMD 1.0 (emdfile, py4DSTEM), EMD 0.x and HDF5 dimension scales: calibration, dictionaries, names."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np

from gpu4d.data.calibration import Calibration, Measurement
from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.formats.attributes import attributes_above
from gpu4d.io.formats.emd_nodes import KEY
from gpu4d.io.formats.emd_values import decoded
from gpu4d.io.sources import hdf5_text
from gpu4d.io.sources.links import dataset_at, follow, group_at, names, path_of
from gpu4d.io.units import detector_pixel, log, scan_step

DEEPEST = 32  # groups of metadata inside each other
LARGEST_ENTRY = 256 << 20  # bytes: larger arrays among the metadata are left out, because opening must not load a scan
LEGACY = "4DSTEM_experiment/metadata"  # where py4DSTEM before version 0.13 keeps its dictionaries
LEGACY_KEYS = {
    "Q_pixel_size_units": "Q_pixel_units",
    "R_pixel_size_units": "R_pixel_units",
    "beam_energy": "energy",
    "convergence_semiangle_mrad": "semiangle",
}
LONGEST_VALUE = 200  # letters of a number or a few numbers in a history
LONGEST_AXIS = 1 << 16  # positions of a dimension vector that are looked at


def text(value: Any) -> str:
    """Return a string attribute or value, however it was stored."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else ""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def label(node: Any, key: str, default: str = "") -> str:
    """Return a text attribute of a group or dataset; the default if there is none, or if it is no text."""
    try:
        value = hdf5_text.attribute(node, key) if key in node.attrs else default
    except FOREIGN:
        return default
    return text(value) if isinstance(value, str | bytes | np.bytes_) else default


def group_type(group: h5py.Group) -> str:
    """Return EMD 1.0's word for a group: root, array, custom, … ; "" for others."""
    return label(group, "emd_group_type")


def cube_name(file: str, dataset: str) -> str:
    """Return the name of an array. EMD calls every array `data` and names its group; other files name the dataset."""
    parts = dataset.strip("/").split("/")
    if parts[-1] in ("data", "datacube") and len(parts) > 1:
        return parts[-2]
    return parts[-1] or os.path.basename(file)


# ---------------------------------------------------------------- dictionaries


def read_metadata(group: h5py.Group, seen: set[int] | None = None, depth: int = 0) -> dict[str, Any]:
    """Read an EMD 1.0 metadata group as a dictionary. An entry that cannot be read is left out with a warning.

    Parameters
    ----------
    group : h5py.Group
    seen : set of int, optional
        Marks of the groups that were read before. A group that several names lead to is read once, under the first of them.
    depth : int
        Number of groups that it lies in; those inside more than `DEEPEST` are left out.
    """
    seen = set() if seen is None else seen
    read: dict[str, Any] = {}
    if hash(group) in seen or depth > DEEPEST:
        log.warning("%s: %s is left out: metadata inside themselves, or twice", shown(group.file.filename), shown(path_of(group)))
        return read
    seen.add(hash(group))
    for name in names(group):
        try:
            held = follow(group, name)
            read[label(held, KEY, name)] = _item(held, seen, depth + 1)
        except (*FOREIGN, MemoryError) as error:
            log.warning("%s: the entry %s is left out: %s", shown(group.file.filename), shown(name), reason(error))
    return read


def _item(node: Any, seen: set[int], depth: int) -> Any:
    kind = label(node, "type")
    if isinstance(node, h5py.Group):
        if "_of_" in kind:
            values = [_item(follow(node, str(i)), seen, depth) for i in range(min(int(node.attrs["length"]), len(node)))]
            if kind.endswith("_of_tuples"):
                values = [tuple(v.tolist()) if isinstance(v, np.ndarray) else v for v in values]
            return tuple(values) if kind.startswith("tuple") else values
        return read_metadata(node, seen, depth)
    if not isinstance(node, h5py.Dataset):
        raise InputError("it is a type, and no value")
    if node.shape is not None and node.nbytes > LARGEST_ENTRY:
        raise InputError(f"it has {node.nbytes} bytes, more than {LARGEST_ENTRY}")
    value = hdf5_text.value(node)
    if isinstance(value, bytes | str):
        value = text(value)
        return None if value == "_None" else value
    if kind in ("tuple", "list") and isinstance(value, np.ndarray):
        return tuple(value.tolist()) if kind == "tuple" else value.tolist()
    return value.item() if isinstance(value, np.generic) else value


def bundle(group: h5py.Group) -> dict[str, dict[str, Any]]:
    """Read all metadata dictionaries of an EMD 1.0 node."""
    held = group_at(group, "metadatabundle")
    if held is None:
        return {}
    inside = {name: group_at(held, name) for name in names(held)}
    return {name: read_metadata(item) for name, item in inside.items() if item is not None}


def root_of(file: h5py.File, path: str) -> h5py.Group | None:
    """Return the EMD 1.0 root group above a path."""
    top = group_at(file, path.strip("/").split("/")[0])
    return top if top is not None and group_type(top) == "root" else None


def metadata_of(file: h5py.File, path: str) -> dict[str, Any]:
    """Collect attributes from the file down to the dataset, and EMD dictionaries, as they are."""
    out: dict[str, Any] = {"attributes": attributes_above(file, path)}
    root = root_of(file, path)
    if root is not None:
        own = {name: held for name, held in bundle(parent_of(file, path)).items() if held}
        earlier = own.pop("scan_metadata", {})
        out["metadata"] = {**bundle(root), **own}
        if "source" in out["metadata"]:  # of the file that this one was converted from
            out["source"] = out["metadata"].pop("source")
        try:
            out = _with_earlier(out, {key: decoded(value) for key, value in earlier.items()})
        except FOREIGN as error:
            log.warning("%s: what it says of the scan's first file is left out: %s", shown(file.filename), reason(error))
    legacy = group_at(file, LEGACY)
    if root is None and legacy is not None and path.strip("/").startswith(LEGACY.split("/")[0]):
        held = read_metadata(legacy)
        out["metadata"] = {**held, "calibration": _legacy_keys(held)}
    return out


def _legacy_keys(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the calibration in py4DSTEM's metadata before version 0.13, by the names of later ones."""
    microscope, calibration = ({**part} if isinstance(part := held.get(name), Mapping) else {} for name in ("microscope", "calibration"))
    keys = {**microscope, **calibration}
    renamed = {new: keys[old] for old, new in LEGACY_KEYS.items() if old in keys}
    return {**keys, **renamed}


def _with_earlier(found: dict[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Add what was known of a scan when gpu4d saved it. What a file says of itself comes first."""
    both = {key: {**value, **found.get(key, {})} for key, value in earlier.items() if key in ("attributes", "metadata")}
    return {**earlier, **found, **both}


def mask_of(metadata: Mapping[str, Any], shape: Shape4) -> np.ndarray | None:
    """Return the detector mask among the metadata of a file; None without one, or with a warning if it cannot be one."""
    held = metadata.get("metadata", {}).get("detector")
    mask = held.get("mask") if isinstance(held, Mapping) else None
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != tuple(shape[2:]) or mask.dtype.kind not in "biu" or not mask.any():
        log.warning("the file's detector mask is left out: it is %s %s, the detector is %s", mask.shape, mask.dtype, tuple(shape[2:]))
        return None
    return mask


def parent_of(file: h5py.File, path: str) -> h5py.Group:
    """Return the group that contains a path, also if its last step is a link into another file."""
    return follow(file, os.path.dirname(path) or "/")


# ---------------------------------------------------------------- calibration


def calibration_of(
    file: h5py.File, path: str, dataset: h5py.Dataset, shape: Shape4, metadata: Mapping[str, Any], energy: float | None = None
) -> Calibration:
    """Return the calibration a file states in a standard way: an EMD calibration first, then the units of its axes for what is missing.

    Parameters
    ----------
    metadata : mapping
        Of the dataset, as `metadata_of` read them.
    energy : float, optional
        Beam energy in eV, if the caller knows it. It converts angles into 1/Å.
    """
    held = metadata.get("metadata", {}).get("calibration")
    found = from_keys(held, shape[:2], energy) if held else Calibration()
    if dataset.ndim == 4 and tuple(dataset.shape) == tuple(shape):
        try:
            from_axes(found, axes_of(parent_of(file, path), dataset), found.energy or energy)
        except FOREIGN as error:
            log.warning("%s: the units of its axes are left out: %s", shown(file.filename), reason(error))
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
    simple = {name: next((keys[k] for k in field.emd if _is_given(keys.get(k))), None) for name, field in FIELDS.items() if field.emd}
    rotation, degrees = keys.get("QR_rotation"), _number(keys.get("QR_rotation_degrees"))
    simple["rotation"] = rotation if rotation is not None else None if degrees is None else np.deg2rad(degrees)
    # py4DSTEM writes QR_flip = False also if it was never measured: without a rotation it means nothing
    simple["transpose"] = keys.get("QR_flip") if simple["rotation"] is not None or _is_given(keys.get("QR_flip")) else None
    energy = _number(simple["energy"]) or energy
    simple["q_pixel"] = _tried("q_pixel", detector_pixel, keys.get("Q_pixel_size"), str(keys.get("Q_pixel_units")), energy)
    simple["r_pixel"] = _tried("r_pixel", scan_step, keys.get("R_pixel_size"), str(keys.get("R_pixel_units")))
    simple["ellipse"] = _ellipse(*(keys.get(name) for name in ("a", "b", "theta")))
    for field, pair in (("origin", ("qx0", "qy0")), ("origin_measured", ("qx0_meas", "qy0_meas"))):
        simple[field] = _tried(field, _origin, keys.get(pair[0]), keys.get(pair[1]), scan)
    if simple["origin"] is None:
        simple["origin"] = _tried("origin", _origin, keys.get("qx0_mean"), keys.get("qy0_mean"), scan)
    simple["positions"] = _tried("positions", _of_this_scan, simple["positions"], scan)
    for field, value in simple.items():
        set_field(c, field, value, how)
    written = keys.get("history")
    lines = [line.split(" | ", 3) for line in (written if isinstance(written, list | tuple) else ()) if isinstance(line, str)]
    entries = [Measurement(field, _told(value), told, when) for when, field, value, told in (x for x in lines if len(x) == 4)]
    c.history = entries or c.history
    return c


def _ellipse(*axes: Any) -> tuple[float, float, float] | None:
    """Return (a, b, theta) with a ≥ b, or None."""
    if any(np.ndim(value) for value in axes):
        log.warning("the file's ellipse is left out: it is one for each position")
    a, b, theta = map(_number, axes)
    if a is None or b is None or theta is None:
        return None
    if a >= b or b <= 0:  # what is impossible is refused where it is set
        return a, b, theta
    log.warning("the file's ellipse has a < b: with its axes exchanged, corrected vectors are %.4g times as long as py4DSTEM's", a / b)
    return b, a, theta + np.pi / 2


def _told(text: str) -> object:
    """Return the value in a line of the history: a number, a bool or a tuple where it is one, else its text."""
    if len(text) > LONGEST_VALUE:
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _is_given(value: Any) -> bool:
    """Say whether an entry of a file has a value. 0, False and empty text mean that it was never measured."""
    return value is not None and (np.ndim(value) > 0 or bool(value))


def _tried(field: str, make: Callable[..., Any], *given: Any) -> Any:
    """Return what `make` makes of entries of the file, or None with a warning if they are impossible."""
    try:
        return make(*given)
    except FOREIGN as error:
        log.warning("the file's %s is left out: %s", field, reason(error))
        return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def set_field(c: Calibration, field: str, value: Any, how: str) -> None:
    """Set a value of the file unless it is impossible. A wrong value must not prevent opening the scan."""
    if value is None:
        return
    try:
        if not np.isfinite(np.asarray(value, dtype=np.float64)).any():
            raise ValueError("not finite")
        c.set(**{field: value}, how=how)
    except (TypeError, ValueError, ArithmeticError) as error:  # InputError is a ValueError
        log.warning("the file's %s is left out: %s", field, error)


def _of_this_scan(positions: Any, scan: tuple[int, int] | None) -> Any:
    """Return positions that the file has, or None. Those of another scan are an error."""
    if positions is not None and scan is not None and np.shape(positions)[:2] != tuple(scan):
        raise InputError(f"it has shape {np.shape(positions)}, need {(*scan, 2)}")
    return positions


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
    beside = [dataset_at(group, f"dim{n}") for n in range(dataset.ndim + 1)]
    first = 0 if beside[0] is not None else 1  # EMD 0.x counts from one
    vectors = [v for v in beside[first : first + dataset.ndim] if v is not None]
    if len(vectors) == dataset.ndim:
        return [(label(v, "name"), label(v, "units"), step_of(v)) for v in vectors]
    out: list[Axis] = []
    for dim in dataset.dims:
        scale = dim[0] if len(dim) else None
        out.append((dim.label, label(scale, "units") if scale is not None else "", step_of(scale) if scale is not None else None))
    return out


def step_of(vector: h5py.Dataset) -> float | None:
    """Return the distance of neighbours on an even axis; None for an axis that is not even, or not of numbers."""
    if vector.shape is None or vector.ndim != 1 or vector.dtype.kind not in "iuf" or vector.size < 2:
        return None
    steps = np.diff(vector[:LONGEST_AXIS].astype(np.float64))
    return float(steps.mean()) if np.allclose(steps, steps[0], rtol=1e-3, atol=1e-12) else None


def from_axes(c: Calibration, axes: list[Axis], energy: float | None) -> None:
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
