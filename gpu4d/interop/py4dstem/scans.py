"""Scans and calibrations of py4DSTEM in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.source import ArraySource, below_views
from gpu4d.errors import InputError
from gpu4d.interop.py4dstem._library import check_kind, library
from gpu4d.io.formats.emd import from_keys
from gpu4d.io.formats.emd_nodes import calibration_keys

if TYPE_CHECKING:
    import py4DSTEM

NOT_FOR_IT = ("history", "_root_treepath", "_target_paths")  # keys of a file that py4DSTEM's calibration does not need


def from_datacube(datacube: py4DSTEM.DataCube) -> DataCube:
    """Return a scan of py4DSTEM as a `DataCube`, with its calibration.

    Parameters
    ----------
    datacube : py4DSTEM.DataCube
        Its data may be an array in memory, or mapped from a file. They are not copied.

    Returns
    -------
    DataCube

    Raises
    ------
    InputError
        It is no DataCube of py4DSTEM, or its data are no array: read a lazy HDF5 dataset with `gpu4d.open` instead.

    Examples
    --------
    >>> import py4DSTEM  # doctest: +SKIP
    >>> gpu4d.interop.py4dstem.from_datacube(py4DSTEM.import_file("scan.dm4", mem="MEMMAP"))  # doctest: +SKIP
    """
    check_kind(datacube, "DataCube", "datacube")
    data = datacube.data
    if not isinstance(data, np.ndarray):
        raise InputError(f"the data of the DataCube are a {type(data).__name__}: open the file with gpu4d.open, or load them")
    return DataCube(data, from_calibration(datacube.calibration, data.shape[:2]), name=str(datacube.name))


def to_datacube(cube: DataCube) -> py4DSTEM.DataCube:
    """Return a scan as a DataCube of py4DSTEM, with its calibration.

    Patterns that lie in a NumPy array, also a mapped one, are not copied. Others are read into memory.

    Parameters
    ----------
    cube : DataCube

    Returns
    -------
    py4DSTEM.DataCube

    Raises
    ------
    InputError
        It is no DataCube, or py4DSTEM is not installed.
    MemoryBudgetError
        Patterns that must be read do not fit into the memory that is free.

    Examples
    --------
    >>> gpu4d.interop.py4dstem.to_datacube(gpu4d.open("scan.h5"))  # doctest: +SKIP
    """
    py4dstem = library()
    if not isinstance(cube, DataCube):
        raise InputError(f"cube is a {type(cube).__name__}: need a gpu4d.DataCube")
    source = cube.source
    whole = isinstance(source, ArraySource) and below_views(source) is source and isinstance(source.array, np.ndarray)
    data = source.array if whole and source.resident else np.asarray(cube)  # type: ignore[attr-defined]
    made = py4dstem.DataCube(data=data, name=cube.name)
    to_calibration(cube.calibration, made.calibration)
    return made


def from_calibration(calibration: py4DSTEM.Calibration, scan_shape: tuple[int, int] | None = None) -> Calibration:
    """Return a calibration of py4DSTEM as a `Calibration`.

    Lengths become Å and 1/Å. Sizes in pixels count as not known. The ellipse has a ≥ b afterwards: where it had a < b, py4DSTEM stretches
    one axis, and gpu4d shrinks the other one, so that vectors are a/b times as long (the log says so). An ellipse for each position is
    left out, with a warning. `QR_flip` counts where there is a rotation, because py4DSTEM's is False also if it was never measured.

    Parameters
    ----------
    calibration : py4DSTEM.Calibration
    scan_shape : (int, int), optional
        Shape that maps of the origin must have. Others are left out, with a warning in the log.

    Returns
    -------
    Calibration

    Examples
    --------
    >>> gpu4d.interop.py4dstem.from_calibration(datacube.calibration).q_pixel  # doctest: +SKIP
    0.0217
    """
    check_kind(calibration, "Calibration", "calibration")
    keys = {key: calibration[key] for key in calibration.keys}
    found = from_keys(
        {key: float(v) if isinstance(v, int | np.number) and not isinstance(v, bool) else v for key, v in keys.items()}, scan_shape
    )
    for entry in list(found.history):
        found.history[found.history.index(entry)] = type(entry)(entry.field, entry.value, "calibration of py4DSTEM", entry.when)
    return found


def to_calibration(calibration: Calibration, target: py4DSTEM.Calibration | None = None) -> py4DSTEM.Calibration:
    """Return a calibration as one of py4DSTEM, or write it into an existing one.

    Parameters
    ----------
    calibration : Calibration
    target : py4DSTEM.Calibration, optional
        Its entries that `calibration` knows are replaced. By default a new one is made.

    Returns
    -------
    py4DSTEM.Calibration

    Raises
    ------
    InputError
        An argument has another type, or py4DSTEM is not installed.

    Examples
    --------
    >>> gpu4d.interop.py4dstem.to_calibration(gpu4d.Calibration(q_pixel=0.02)).get_Q_pixel_units()  # doctest: +SKIP
    'A^-1'
    """
    if not isinstance(calibration, Calibration):
        raise InputError(f"calibration is a {type(calibration).__name__}: need a gpu4d.Calibration")
    made = library("py4DSTEM.data").Calibration() if target is None else target
    check_kind(made, "Calibration", "target")
    for key, value in calibration_keys(calibration, ()).items():
        if key not in NOT_FOR_IT and value is not None:
            made[key] = value
    return made
