"""Know in which files a scan lies, so that nothing that is written takes their place."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import h5py
import numpy as np

from gpu4d.data.datacube import DataCube
from gpu4d.io.foreign import FOREIGN
from gpu4d.io.formats import emd
from gpu4d.io.formats.choose_dataset import Contents
from gpu4d.io.formats.emd_events import is_counted
from gpu4d.io.opening import recognise
from gpu4d.io.sources.hdf5_dataset import files_of
from gpu4d.io.sources.hdf5_file import open_file
from gpu4d.io.sources.links import dataset_at

OURS = "gpu4d "  # the program that wrote a file begins so


def raw_files(cube: DataCube) -> set[str]:
    """Return the files and folders that the patterns of a scan are read from, as real paths. Empty for a scan in memory.

    Examples
    --------
    >>> raw_files(DataCube(np.zeros((2, 2, 4, 4))))
    set()
    """
    found: set[str] = set()
    waiting: list[Any] = [cube.source]
    while waiting:
        source = waiting.pop()
        waiting += getattr(source, "sources", ())
        if getattr(source, "source", None) is not None:
            waiting.append(source.source)
        found |= {os.path.realpath(stretch.path) for stretch in getattr(source, "stretches", ())}
        path, dataset = getattr(source, "path", None), getattr(source, "dataset", None)
        if path:
            found.add(os.path.realpath(path))
        if path and dataset and os.path.isfile(path) and h5py.is_hdf5(path):
            with contextlib.suppress(*FOREIGN), open_file(path) as file:
                held = dataset_at(file, dataset)
                found |= set() if held is None else {os.path.realpath(name) for name in files_of(held)}
    return found


def opened_file(cube: DataCube) -> str | None:
    """Return the real path of the file that a scan was opened by, which may only link to its patterns; None for a scan in memory."""
    path = cube.metadata.get("path")
    return os.path.realpath(path) if isinstance(path, str) and path else None


def is_ours(path: str) -> bool:
    """Say whether gpu4d wrote a file, so that what it holds beside a link to a scan are results."""
    try:
        with open_file(path) as file:
            return _names_us(file)
    except FOREIGN:
        return False


def is_replaced(path: str, files: set[str]) -> bool:
    """Say whether one of the files is gone, or is no longer whole, when something takes the place of `path`, a real path."""
    above = path.rstrip(os.sep) + os.sep
    return any(path == file or file.startswith(above) or (os.path.exists(path) and path.startswith(file + os.sep)) for file in files)


def holds_scan(path: str) -> bool:
    """Say whether an existing file holds patterns of a scan: not results alone, or links to patterns that are elsewhere."""
    try:
        known = recognise(path).name
        if known == "npy":
            return np.load(path, mmap_mode="r", allow_pickle=False).ndim > 2
        if known != "hdf5":
            return True  # of a detector, or another program
        with open_file(path) as file:
            if _names_us(file):
                return _holds_cube(file)
            return any(held.ndim > 3 and _is_here(held, path) for held in Contents.of(file).datasets.values() if held.shape)
    except FOREIGN:
        return False


def _names_us(file: h5py.File) -> bool:
    return emd.label(file, "authoring_program").startswith(OURS)


def _holds_cube(file: h5py.File) -> bool:
    """Say whether a file that gpu4d wrote has a scan. Results have arrays with four dimensions too."""

    def is_cube(_: str, item: h5py.Group | h5py.Dataset) -> bool | None:
        if not isinstance(item, h5py.Group):
            return None
        data = dataset_at(item, "data")
        cube = emd.label(item, "python_class") == "DataCube" or "gpu4d_name" in item.attrs
        whole = cube and data is not None and data.ndim == 4 and _is_here(data, file.filename)
        return True if whole or is_counted(item) else None

    return bool(file.visititems(is_cube))


def _is_here(dataset: h5py.Dataset, path: str) -> bool:
    return os.path.realpath(path) in {os.path.realpath(name) for name in files_of(dataset)}
