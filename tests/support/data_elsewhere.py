"""The data of the calls in `tests/project/test_array_arguments.py`, in arrays of another library or on a device."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import gpu4d

DATA = ("PATTERNS", "FRAMES", "DISKS", "SHAKEN", "GLASS", "SMALL_DISKS")  # scans and lists that calls use and are not given


def moved(given: Any, make: Callable[[np.ndarray], Any]) -> Any:
    """Return the same array, lists, cube or simulation, its arrays made by `make`."""
    if isinstance(given, np.ndarray):
        return make(given)
    if isinstance(given, gpu4d.PointListArray):
        fields = {name: make(given.flat(name)) for name in given.fields}
        return gpu4d.PointListArray(make(given.offsets), fields, given.shape, given.units)
    if isinstance(given, gpu4d.DataCube):
        return gpu4d.DataCube(make(given.source.array), given.calibration, given.metadata, given.detector_mask, given.name)
    return dataclasses.replace(given, cube=moved(given.cube, make))  # what a simulation gives


@contextlib.contextmanager
def data_moved(table: ModuleType, make: Callable[[np.ndarray], Any], *, results: bool) -> Iterator[None]:
    """Let the calls of the table use data made by `make` inside the block. `results`: what calls are given is made of them, too."""
    kept = (table.cepstrum, table.glass_ring, table.statistics, table.aligned)
    with pytest.MonkeyPatch.context() as patch:
        for name in DATA:
            patch.setattr(table, name, moved(getattr(table, name), make))
        for made in kept:
            made.cache_clear()
        if results:
            patch.setattr(table, "FIT", gpu4d.fit_lattice(table.DISKS, table.BASIS, origin=(11.5, 9.5)))
            for made in kept:
                made()
        yield
    for made in kept:
        made.cache_clear()
