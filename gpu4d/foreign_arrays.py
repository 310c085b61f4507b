"""Arrays of libraries that gpu4d does not know: viewed by DLPack without a copy, or refused in one line that says what to give.

A library is recognised by the name of the module of the object's type. None is imported for it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpu4d.errors import InputError

# What to give in place of an object, by the module of its type. All these would be computed, read or filled up as a whole, without a word.
REFUSED = {
    "dask": "a Dask array, which is computed later: give {name}.compute(), or open a scan with gpu4d.interop.from_dask({name})",
    "h5py": "a dataset of h5py, which lies in a file: give {name}[...], or open the file with gpu4d.open(file, dataset=…)",
    "zarr": "an array of zarr, which lies in a store: give {name}[...], or open the store with gpu4d.open",
    "sparse": "a sparse array: give {name}.todense(), or counted events as gpu4d.data.EventSource",
    "scipy.sparse": "a sparse array of SciPy: give {name}.toarray(), or counted events as gpu4d.data.EventSource",
    "cupyx.scipy.sparse": "a sparse array of CuPy: give {name}.toarray()",
}
AXES = ("Rx", "Ry", "Qx", "Qy")  # names and order of the axes of a scan
ON_HOST, ON_CUDA = (1, 3), (2, 13)  # kinds of devices in DLPack: memory of the CPU, plain or page-locked; of CUDA, plain or managed


def refuse_foreign(x: Any, name: str) -> None:
    """Raise InputError for an array that is computed later, lies in a file, or is sparse. Its text says what to give.

    Examples
    --------
    >>> import scipy.sparse
    >>> refuse_foreign(scipy.sparse.eye_array(3), "mask")
    Traceback (most recent call last):
    ...
    gpu4d.errors.InputError: mask is a sparse array of SciPy: give mask.toarray(), or counted events as gpu4d.data.EventSource
    """
    why = _why_not(type(x))
    if why is None:
        inside = getattr(x, "data", None) if _is_labelled(type(x)) else None
        why = None if inside is None else _why_not(type(inside))  # an xarray of Dask, as xarray.open_dataset(chunks=…) makes them
    if why is not None:
        raise InputError(f"{name} is {why.format(name=name if name.isidentifier() else 'array')}")


def refuse_other_order(x: Any, name: str) -> None:
    """Raise InputError for an xarray whose axes have the names of a scan's axes, in another order."""
    if _is_labelled(type(x)):
        found = [axis for axis in map(str, x.dims) if axis in AXES]
        right = [axis for axis in AXES if axis in found]
        if found != right:
            wanted = ", ".join(repr(axis) for axis in _reordered(list(map(str, x.dims)), right))
            raise InputError(f"{name} has the axes ({', '.join(map(str, x.dims))}): give {name}.transpose({wanted})")


def _reordered(dims: list[str], right: list[str]) -> list[str]:
    """Return names of axes with those of a scan in their own order, and the others in their places."""
    known = iter(right)
    return [next(known) if axis in AXES else axis for axis in dims]


@functools.lru_cache(maxsize=256)
def _why_not(kind: type) -> str | None:
    """Return what an object of a type is and what to give in its place, or None where nothing is wrong with it."""
    for one in kind.__mro__:
        for module, what in REFUSED.items():
            if one.__module__ == module or one.__module__.startswith(f"{module}."):
                return what if _is_an_array(one) else None
    return None


def _is_an_array(kind: type) -> bool:
    """Return True for types with a shape and a dtype, as arrays have; libraries have other objects, too."""
    return hasattr(kind, "shape") and hasattr(kind, "dtype")


@functools.lru_cache(maxsize=256)
def _is_labelled(kind: type) -> bool:
    return any(one.__module__.partition(".")[0] == "xarray" for one in kind.__mro__) and hasattr(kind, "dims")


def has_dlpack(x: Any) -> bool:
    """Return True for an object, not a type, that shows its memory by DLPack."""
    return hasattr(type(x), "__dlpack__") and hasattr(type(x), "__dlpack_device__")


def viewed(x: Any, name: str) -> Any:
    """Return a view of an object with DLPack, without a copy: a NumPy array of memory of the CPU, a CuPy array of memory of CUDA.

    Raises
    ------
    InputError
        It lies elsewhere, CuPy is absent, or the library cannot show its values: a gradient, half floats of another format.

    Examples
    --------
    >>> class Shown:
    ...     def __init__(self, array): self.array = array
    ...     def __dlpack__(self, **options): return self.array.__dlpack__(**options)
    ...     def __dlpack_device__(self): return self.array.__dlpack_device__()
    >>> array = np.arange(3)
    >>> np.shares_memory(viewed(Shown(array), "counts"), array)
    True
    """
    kind = int(x.__dlpack_device__()[0])
    if kind not in ON_HOST + ON_CUDA:
        raise InputError(f"{name} lies on a device of kind {kind} of DLPack: need memory of the CPU (1) or of CUDA (2)")
    try:
        if kind in ON_HOST:
            return np.from_dlpack(x)
        import cupy

        return cupy.from_dlpack(x)
    except ImportError as error:
        raise InputError(f"{name} lies on a CUDA device, and CuPy is not installed: pip install 'gpu4d[cuda13]', or [cuda12]") from error
    except Exception as error:  # each library has types of its own for what it cannot show
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{name} is a {type(x).__name__} that cannot be shown by DLPack ({reason[:120]}): give a NumPy array") from error
