"""`gpu4d.open`: a file by its content, as a lazy DataCube."""

from __future__ import annotations

import builtins
import os
from typing import Any

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError

ACCEPTED = "accepted are HDF5 (EMD, py4DSTEM, or any file with a 4D dataset) and .npy"


def open(
    path: Any, *, dataset: str | None = None, scan_shape: tuple[int, int] | None = None, calibration: Calibration | None = None
) -> DataCube:
    """Open a scan without loading it. What the file is follows from its content, not its name; it stays read-only.

    Parameters
    ----------
    path : str or path
        HDF5 (EMD 1.0 as py4DSTEM writes it, EMD 0.x, any other with a dataset of four dimensions, or three and `scan_shape`)
        or `.npy`. Contiguous data are mapped, chunks are read whole, once.
    dataset : str, optional
        Path inside an HDF5 file, needed where several datasets could be the scan.
    scan_shape : (int, int), optional
        (Rx, Ry), whose product is the number of frames; needed for a dataset (frames, Qx, Qy).
    calibration : Calibration, optional
        What is known better than the file says: its fields win, the file fills in the rest.

    Returns
    -------
    DataCube
        (Rx, Ry, Qx, Qy). Integers and floats keep their type, in this machine's byte order; bool arrives as uint8, float16
        as float32. Calibrated as far as the file says it in a standard way: py4DSTEM's calibration, EMD dimension vectors,
        HDF5 dimension scales with units. Attributes of other kinds are only passed on in `metadata`.

    Raises
    ------
    InputError
        Missing, damaged, truncated or unsupported file; unknown or ambiguous dataset; wrong scan shape; values that are
        not real numbers. A mapped file that is cut short later raises it when patterns are read.

    Examples
    --------
    >>> import numpy as np, tempfile, os
    >>> name = os.path.join(tempfile.mkdtemp(), "scan.npy")
    >>> np.save(name, np.ones((6, 8, 8), "uint16"))
    >>> open(name, scan_shape=(2, 3)).shape
    (2, 3, 8, 8)
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"open takes the path of a file, got {type(path).__name__}; an array in memory becomes a cube by gpu4d.DataCube(array)"
        )
    path = os.fspath(path)
    kind = recognise(path)
    if kind == "npy":
        from gpu4d.io.formats.npy import open_npy

        if dataset is not None:
            raise InputError(f"{path}: a .npy file holds one array, there is no dataset {dataset!r}: leave --dataset away")
        source: Any = open_npy(path, scan_shape)
        found, metadata, name = Calibration(), {}, os.path.splitext(os.path.basename(path))[0]
    else:
        from gpu4d.io.formats import emd, hdf5

        with hdf5.open_file(path) as file:
            name, chosen = hdf5.choose(file, dataset, scan_shape)
            source = hdf5.source_of(file, name, chosen, scan_shape)
            energy = calibration.energy if calibration is not None else None
            found = emd.calibration_of(file, name, chosen, source.shape, energy)
            metadata = emd.metadata_of(file, name, chosen)
            name = emd.cube_name(path, name)
    if calibration is not None:
        for field, value in calibration.known().items():
            found._values[field] = value
        found.history.extend(calibration.history)
    found.complete()
    mask = metadata.get("metadata", {}).get("detector", {}).get("mask")
    return DataCube(source, found, {"path": path, "dataset": getattr(source, "dataset", None), **metadata}, mask, name)


def recognise(path: str) -> str:
    """ "hdf5" or "npy" by the file's first bytes; one clear line for anything else."""
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file; give the path of a scan ({ACCEPTED})")
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory; give one file ({ACCEPTED})")
    if not os.path.isfile(path):
        raise InputError(f"{path} is no regular file; {ACCEPTED}")
    try:
        with builtins.open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if _has_hdf5_signature(path):
        return "hdf5"
    if not head:
        raise InputError(f"{path} is empty; {ACCEPTED}")
    text = all(c in b"\t\n\r\f\b" or c >= 32 for c in head[:64])
    raise InputError(f"{path} is {'a text file' if text else 'of an unknown format'}, whatever its name says; {ACCEPTED}")


def _has_hdf5_signature(path: str) -> bool:
    """HDF5's signature stands at byte 0, or behind a user block of 512, 1024, 2048 … bytes."""
    size, at = os.path.getsize(path), 0
    with builtins.open(path, "rb") as file:
        while at < size:
            file.seek(at)
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                return True
            at = max(512, 2 * at)
    return False
