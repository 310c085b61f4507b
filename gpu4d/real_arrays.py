"""Take arguments of public functions that are arrays of real numbers, in any of the forms that users have, or refuse them in one line."""

from __future__ import annotations

import math
import os
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gpu4d import arrays
from gpu4d.errors import Gpu4dError, InputError


@runtime_checkable
class HasDetectorMask(Protocol):
    """A scan: pixels outside of its detector mask must not count."""

    @property
    def detector_mask(self) -> np.ndarray | None: ...


def real_array(given: Any, name: str, need: str = "an array of real numbers") -> Any:
    """Return an argument of a public function as an array of real numbers, of the library and on the device where it is.

    Parameters
    ----------
    given : array of any library, labelled array, or nested sequence
        A labelled array gives the array in it. An array of an unknown library with DLPack alone is viewed, as a NumPy array or, on CUDA,
        as a CuPy array. What is no array becomes a NumPy array: lists, tables of pandas, objects with `__array__`.
    name : str
        Name of the argument, for errors.
    need : str
        What is accepted, for errors.

    Returns
    -------
    array
        Not copied, except from a sequence or another byte order. Its dtype is bool, integer, or a float of at most 64 bits.

    Raises
    ------
    InputError
        The rows of a list differ in length, or the values are no real numbers: complex, text, dates, objects. Or it is a masked
        array with masked values, an array that is computed later (Dask), lies in a file (h5py, zarr), or is sparse.

    Examples
    --------
    >>> real_array([[1, 2]], "patterns").shape
    (1, 2)
    """
    if type(given) is np.ndarray and given.dtype.kind in "biuf" and given.dtype.itemsize <= 8 and given.dtype.isnative:
        return given  # the usual case, without the time of what follows
    if isinstance(given, str | bytes):
        file = "; a file is opened with gpu4d.open" if os.path.splitext(given)[1] else ""
        raise InputError(f"{name} is the text {given!r}: need {need}{file}")
    if not isinstance(given, list | tuple) and isinstance(given, HasDetectorMask) and given.detector_mask is not None:
        raise InputError(f"{name} has a detector mask, which an array does not keep: sweep the scan, or give its array and mask=")
    x = arrays.unwrapped(given, name)
    if not arrays.is_array(x):
        x = arrays.without_mask(_host_array(x, name, need), name)
    if isinstance(x, np.ndarray):
        fits = x.dtype.kind in "biuf" and x.dtype.itemsize <= 8
        x = np.asarray(x)  # subclasses, such as numpy.matrix, have rules of their own
        x = x if x.dtype.isnative or not fits else x.astype(x.dtype.newbyteorder("="))
    else:
        fits = arrays.is_real(x)
    if not fits:
        one = x.ndim == 0 and not arrays.is_array(given)
        raise InputError(f"{name} {f'is a {type(given).__name__}' if one else f'holds {x.dtype}'}: need {need}")
    return x


def beside(given: Any, name: str, like: Any) -> Any:
    """Return an argument as an array of real numbers in the library and on the device of another array.

    Masks, and small arrays of numbers, may come from any library: this copies them where it must.
    """
    x = real_array(given, name)
    if arrays.namespace(x) is arrays.namespace(like) and arrays.device(x) == arrays.device(like):
        return x
    return arrays.from_numpy(arrays.to_numpy(x), like)


def _host_array(x: Any, name: str, need: str) -> np.ndarray:
    """Return a NumPy array of a sequence, or of an object that gives one."""
    try:
        parts = [arrays.unwrapped(one) for one in x] if isinstance(x, list | tuple) else []
        return np.asarray([arrays.to_numpy(one) for one in parts] if any(map(arrays.is_array, parts)) else x)
    except Gpu4dError:
        raise
    except Exception as error:  # whatever an object of another library raises here says that it gives no array
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{name} is no array ({type(x).__name__}: {reason[:120]}): need {need}") from error


def real_number(value: Any, name: str, whole: bool = False) -> Any:
    """Return a number as Python's float or int; an array without axes, of any library, is returned as it is.

    Raises
    ------
    InputError
        It is no real number, or not whole where that is needed.

    Examples
    --------
    >>> real_number(np.float32(2), "n_r", whole=True)
    2
    """
    value = value.item() if isinstance(value, np.generic) else value
    if arrays.is_array(value) and value.ndim == 0 and arrays.is_real(value) and not whole:
        return value
    real = isinstance(value, int | float | np.integer | np.floating)
    if not real or (whole and not float(value).is_integer()):
        raise InputError(f"{name} is {value!r}: need a {'whole ' * whole}number")
    return int(value) if whole else value


def radians(angle: Any, name: str) -> float:
    """Return an angle in radians as a Python float. One of more than a turn is refused: it is in degrees.

    Raises
    ------
    InputError
        It is no real number, not finite, or beyond ± 2π.

    Examples
    --------
    >>> radians(0.5, "rotation")
    0.5
    """
    found = float(real_number(angle, name))
    if not math.isfinite(found):
        raise InputError(f"{name} is {found}: need an angle in radians")
    if abs(found) > 2 * math.pi * (1 + 1e-9):
        turns = f"{found / (2 * math.pi):.1f} turns"
        raise InputError(f"{name} is {found:g} rad, {turns}: is it in degrees? Give radians (numpy.deg2rad({found:g}))")
    return found


def floats(given: Any, count: int | None = None, name: str = "the value", need: str = "") -> tuple[float, ...]:
    """Return a sequence of numbers (a position, radii, an ellipse), or an array of any library, as Python floats.

    Raises
    ------
    InputError
        It holds no numbers, or not as many as `count`.
    """
    need = need or f"{'numbers' if count is None else f'{count} numbers'}, as a tuple, a list or an array"
    found = real_array(given, name, need)
    values = found if isinstance(found, np.ndarray) else arrays.to_numpy(found)
    if values.ndim != 1 or len(values) != (len(values) if count is None else count):
        raise InputError(f"{name} has shape {values.shape}: need {need}")
    return tuple(float(value) for value in values)
