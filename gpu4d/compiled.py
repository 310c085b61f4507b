"""Say how numba compiles a function: an entry that Python calls, a helper or a routine of compiled code, or a part of its callers.

Only entries can be called from Python, and only they are kept on disk: they contain what they call. In versions of numba that this was
tried with, helpers and routines become machine code only inside an entry (see `compiled_pieces`). So all code is optimised once for
each entry, and a process that compiles runs the same code as one that reads it from disk. Helpers are always inlined by LLVM, parts by
numba, routines where LLVM finds it worth it.

numba's way of inlining copies all variables of the caller each time. It is fast for functions of a few lines, and slow for long ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from gpu4d.compiled_cache import keep_on_disk
from gpu4d.compiled_pieces import OF_ENTRIES, OF_PIECES, UNCOUNTED, one_version_of_constants

# What may be assumed of floats. A part has no assumptions of its own: those of its callers hold for it.
ALL = True  # sums in any order, and no NaN: only for patterns that were checked
KEEPS_NAN = {"reassoc", "contract", "arcp", "nsz"}  # sums in any order; a NaN keeps its meaning
NOTHING = False

_njit: Any = numba.njit  # its types do not know all of its options
ENTRIES: dict[str, Any] = {}  # "module.function", without the package -> entry


def entry(assume: Any = NOTHING, *, allocates: bool = False) -> Callable[[Callable], Any]:
    """Compile a function that Python calls. It runs without Python's lock, and its compiled code is kept on disk.

    Only a function that says so may make new arrays. An expression of whole arrays, as `a[:n] *= 2`, makes one too.
    """

    def compiled(function: Callable) -> Any:
        made = keep_on_disk(_njit(nogil=True, fastmath=assume, no_cfunc_wrapper=True, **OF_ENTRIES, **_counting(allocates))(function))
        ENTRIES[f"{function.__module__.rpartition('.')[2]}.{function.__name__}"] = made
        return made

    return compiled


def helper(assume: Any = NOTHING, *, allocates: bool = False) -> Callable[[Callable], Any]:
    """Compile a function that only compiled functions call. It must not call itself, and returns numbers, not arrays."""
    return _piece(assume, allocates, forceinline=True)


def routine(assume: Any = NOTHING) -> Callable[[Callable], Any]:
    """Compile a long function that only compiled functions call, where LLVM may inline it or not.

    Long helpers that call long helpers would be optimised as one very long function, which takes twice as long.
    """
    return _piece(assume, allocates=False)


def _piece(assume: Any, allocates: bool, **options: Any) -> Callable[[Callable], Any]:
    options |= {"no_cfunc_wrapper": True, "no_cpython_wrapper": True, **OF_PIECES, **_counting(allocates)}

    def compiled(function: Callable) -> Any:
        return one_version_of_constants(_njit(nogil=True, fastmath=assume, **options)(function))

    return compiled


def _counting(allocates: bool) -> dict[str, Any]:
    """Return the option that turns off counts of references to arrays.

    Python keeps the arrays that it gives to an entry, so nothing has to be counted. A count is an atomic operation for each slice,
    which takes longer than the work on a short row.
    """
    return {} if allocates else UNCOUNTED


def part(function: Callable) -> Any:
    """Make a small function a part of the compiled functions that call it."""
    return _njit(nogil=True, inline="always", no_cfunc_wrapper=True, no_cpython_wrapper=True)(function)


@part
def address(array):  # type: ignore[no-untyped-def]
    """Return where an array begins. All addresses are signed: a function would be compiled once for each combination of both."""
    return np.int64(array.ctypes.data)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view of an array that compiled code only reads.

    For numba, an array that may be written and one that may not are of two types, and it compiles a function for each. With these views
    there is one type, whether the patterns come from memory or from a mapped file.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def contiguous(array: np.ndarray | None, dtype: Any = None) -> np.ndarray | None:
    """Return an array that compiled code only reads, its rows one after the other: numba has one type for all layouts. None stays None."""
    return None if array is None else read_only(np.ascontiguousarray(array, dtype))
