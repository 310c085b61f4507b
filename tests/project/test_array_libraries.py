"""Every function that says it keeps data in their library does so, with torch and JAX on the CPU, and gives the numbers of NumPy.

The functions are those without a mark of `gpu4d.on_host`; the calls are those of `test_array_arguments.py`, with all data in the library.
JAX compiles every step of array code for every shape, minutes for all functions: `pytest -m exhaustive` tries all, usual runs a few.
"""

import functools
import importlib
import warnings

import numpy as np
import pytest
from data_elsewhere import data_moved, moved
from project import test_array_arguments as table

import gpu4d
from gpu4d import arrays

ROWS = [row.name for row in gpu4d.capabilities().functions if not row.on_host and row.name in table.CALLS]
WITH_JAX = ("center_of_mass", "rings.radial_sums", "polar_transform", "preprocess.bin", "hybrid_correlation")
# Their results are masks, on the host for every input.
ON_HOST = {
    "preprocess.find_nan_pixels",
    "detectors.from_array",
    "detectors.bragg_spots",
}


def called(name, make):
    """The arrays of a result, point lists by their columns."""
    call = table.CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return leaves(call.function(**{key: moved(value, make) for key, value in call.given.items()}))


def leaves(result):
    if isinstance(result, gpu4d.PointListArray):
        return [result.offsets, *(result.flat(name) for name in result.fields)]
    if isinstance(result, dict):
        return [leaf for value in result.values() for leaf in leaves(value)]
    if isinstance(result, tuple):
        return [leaf for value in result for leaf in leaves(value)]
    if isinstance(result, gpu4d.data.Slice | gpu4d.PointList):
        return [result.data] if isinstance(result, gpu4d.data.Slice) else [getattr(result, name) for name in result.fields]
    return [result]


@functools.cache
def with_numpy(name):
    """What a call gives with NumPy arrays, kept for the next library."""
    return called(name, np.asarray)


@functools.cache
def maker(library):
    """What makes an array of a library of one in NumPy; None where the library is not installed."""
    try:
        xp = importlib.import_module("jax.numpy" if library == "jax" else "torch")
    except ImportError:
        return None
    if library == "jax":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
        return xp.asarray
    return lambda array: xp.from_numpy(np.ascontiguousarray(array).copy())


CASES = [
    pytest.param(library, name, marks=[pytest.mark.exhaustive] * (library == "jax" and name not in WITH_JAX))
    for library in ("torch", "jax")
    for name in ROWS
]


@pytest.mark.parametrize(("library", "name"), CASES)
def test_data_stay_in_their_library_and_numbers_are_those_of_numpy(library, name, need):
    need(library)
    make, right = maker(library), with_numpy(name)
    with data_moved(table, make, results=False):
        found = called(name, make)
    home = type(make(np.zeros(1))).__module__.partition(".")[0]
    assert len(found) == len(right)
    for one, other in zip(found, right):
        if not arrays.is_array(other):
            assert one == other
            continue
        if name not in ON_HOST:
            assert type(one).__module__.partition(".")[0] == home, f"{type(one)} came out"
        np.testing.assert_allclose(arrays.to_numpy(one), other, rtol=2e-5, atol=2e-5 * float(np.nanmax(np.abs(other), initial=0.0)))
