"""Carry what is known of a scan in files that have no place for it: calibration, metadata and detector mask as one JSON document.

`gpu4d convert` writes it: as an attribute of zarr groups and HyperSpy's files, and as a file `NAME.json` beside `.npy` and raw files.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from gpu4d import arrays
from gpu4d._version import __version__
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import Shape4
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.formats import emd
from gpu4d.io.formats.emd_cube import earlier_corrections
from gpu4d.io.formats.emd_nodes import calibration_keys
from gpu4d.io.sources.links import dataset_at
from gpu4d.io.units import log
from gpu4d.io.writing import hyperspy

MARK, VERSION = "gpu4d_scan", 1
ENDING = ".json"  # of the file beside a scan
DEEPEST = 64  # dictionaries inside each other
MOST_BYTES = 256 << 20  # of a document
STRUCTURE = ("DIMENSION_LIST", "REFERENCE_LIST")  # attributes of HDF5 that point into their own file
MARKS = {"__dict__", "__array__", "__tuple__", "__float__", "__complex__", "__bytes__"}  # keys of values that JSON does not have
OWN = ("path", "dataset", "opened_as")  # entries that `gpu4d.open` adds

Document = dict[str, Any]
Known = tuple[Calibration, dict[str, Any], str, np.ndarray | None]  # what `Opened` takes after the source


def document(cube: DataCube, checksum: str, kind: str, with_metadata: bool = True) -> Document:
    """Return what is known of a scan.

    Parameters
    ----------
    checksum, kind : str
        Of its patterns, and how it was computed.
    with_metadata : bool
        Keep also what the file said in words of its own.
    """
    applied = [text for text in (earlier_corrections(cube), cube.corrections.description) if text]
    found: Document = {
        MARK: VERSION,
        "gpu4d": __version__,
        "name": cube.name,
        "shape": list(cube.shape),
        "dtype": np.dtype(str(cube.dtype).rpartition(".")[2]).newbyteorder("<").str,
        "checksum": checksum,
        "checksum_kind": kind,
        "calibration": coded(calibration_keys(cube.calibration, [])),
    }
    if cube.detector_mask is not None:
        found["detector_mask"] = coded(np.asarray(cube.detector_mask))
    if applied:
        found["corrections"] = ", ".join(applied)
    if with_metadata:
        found["metadata"] = coded(kept(cube))
    return found


def kept(cube: DataCube) -> dict[str, Any]:
    """Return the metadata of a cube that belong to the experiment. Of a scan that was converted before, those of its first file."""
    held = cube.metadata
    if isinstance(held.get("source"), Mapping):
        return dict(held["source"])
    found = {key: value for key, value in held.items() if key not in OWN}
    attributes = found.get("attributes")
    if isinstance(attributes, Mapping):
        found["attributes"] = {path: _without(held, STRUCTURE) for path, held in attributes.items()}
    return found


def opened(given: Any, shape: Shape4, where: str) -> Known | None:
    """Return what `Opened` takes after the source: calibration, metadata, name and detector mask.

    Parameters
    ----------
    given : dict or None
        A document. None if there is none.
    shape : (Rx, Ry, Qx, Qy)
        Of the patterns it belongs to. What is known of another detector is left out, with a warning, and so is a damaged document.
    where : str
        Name of the file, in warnings.
    """
    if not isinstance(given, Mapping) or given.get(MARK) != VERSION:
        return None
    try:
        calibration = emd.from_keys(decoded(given.get("calibration", {})), shape[:2])
        metadata: dict[str, Any] = {"converted": {key: given[key] for key in ("gpu4d", "checksum", "checksum_kind") if key in given}}
        if isinstance(given.get("metadata"), Mapping):
            metadata["source"] = decoded(given["metadata"])
        if isinstance(given.get("corrections"), str):
            metadata["metadata"] = {"corrections": {"applied": given["corrections"]}}
        mask = emd.mask_of({"metadata": {"detector": {"mask": decoded(given.get("detector_mask"))}}}, shape)
        return calibration, metadata, str(given.get("name", "datacube")), mask
    except (*FOREIGN, RecursionError) as error:
        log.warning("%s: the description of the scan that gpu4d wrote is left out: %s", where, reason(error))
        return None


def in_hdf5(file: h5py.File, name: str, shape: Shape4) -> Known | None:
    """Return what `gpu4d convert` wrote of a scan beside its patterns in an HDF5 file.

    Parameters
    ----------
    name : str
        Path of the dataset with the patterns.
    """
    held = dataset_at(file, f"{os.path.dirname(name)}/{hyperspy.OURS}/json")
    if held is None or held.dtype != "uint8" or held.ndim != 1 or held.nbytes > MOST_BYTES:
        return None
    return opened(read_text(held[()].tobytes()), shape, shown(file.filename))


def read_text(text: str | bytes) -> Document | None:
    """Return the document in a text; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and MARK in found else None


def beside(path: str) -> Document | None:
    """Return the document in the file NAME.json beside a file; None if there is none."""
    try:
        with open(path + ENDING, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, ValueError):
        return None
    return None if len(text) > MOST_BYTES else read_text(text)


# ---------------------------------------------------------------- values that JSON does not have


def coded(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON has it. Values of other types are marked, so that `decoded` gives them back; unknown ones become text."""
    if depth > DEEPEST:
        raise InputError("the metadata have dictionaries inside themselves: leave them out with drop_metadata=True or --drop-metadata")
    if isinstance(value, Mapping):
        found = {str(key): coded(inner, depth + 1) for key, inner in value.items()}
        return {"__dict__": found} if len(found) == 1 and MARKS & set(found) else found
    if isinstance(value, np.generic):
        value = value.item()
    if arrays.is_array(value):
        host = np.asarray(arrays.to_numpy(value))
        if host.dtype.kind in "biufc":
            return {"__array__": [host.dtype.str, list(host.shape), base64.b64encode(host.tobytes()).decode()]}
        value = host.tolist()
    if isinstance(value, list | tuple):
        items = [coded(inner, depth + 1) for inner in value]
        return {"__tuple__": items} if isinstance(value, tuple) else items
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": str(value)}
    if isinstance(value, complex):
        return {"__complex__": str(value)}
    if isinstance(value, bytes):
        return {"__bytes__": base64.b64encode(value).decode()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def decoded(value: Any) -> Any:
    """Return a value that `coded` made into JSON."""
    if isinstance(value, list):
        return [decoded(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if len(value) == 1:
        ((mark, inner),) = value.items()
        if mark == "__dict__":
            return {key: decoded(held) for key, held in inner.items()}
        if mark == "__array__":
            return _array(*inner)
        if mark == "__tuple__":
            return tuple(decoded(item) for item in inner)
        if mark == "__float__":
            return float(inner)
        if mark == "__complex__":
            return complex(inner)
        if mark == "__bytes__":
            return base64.b64decode(inner)
    return {key: decoded(inner) for key, inner in value.items()}


def _array(kind: str, shape: list[int], text: str) -> np.ndarray:
    dtype, values = np.dtype(kind), base64.b64decode(text)
    if dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize != len(values):
        raise InputError(f"an array of {kind} with the shape {shape} has {len(values)} bytes")
    return np.frombuffer(values, dtype).reshape(shape).copy()


def _without(held: Any, names: tuple[str, ...]) -> Any:
    return {key: held[key] for key in held if key not in names} if isinstance(held, Mapping) else held
