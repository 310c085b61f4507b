"""Compile faster: functions of compiled code as pieces of their callers, one version of each, and fewer collections of garbage.

numba makes machine code of every function, also of one that only compiled functions call, and optimises it once for itself and again
in each caller. Here a piece stays LLVM's intermediate code until an entry contains it. numba has no option for that: the code below
replaces some steps inside numba, only in versions that it was tried with. Other versions compile as they always do, which takes about
twice as long. Their results agree within rounding: the last bits may differ, because LLVM optimises other code.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any

import numba
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.dispatcher import Dispatcher

TRIED = ((0, 61), (0, 68))  # the first and the last version of numba that this was tried with
# Thresholds of Python's garbage collector, as `gc.set_threshold` takes them. numba makes millions of small objects that live until a
# function is compiled. Looking for garbage among them as often as Python does takes a tenth of the time.
COLLECTIONS = (50_000, 20, 100)


class _Piece(JITCodeLibrary):  # type: ignore[misc]  # numba has no types
    """The code of one function, for its callers only. An entry that contains it optimises it, and makes the machine code."""

    @property
    def codegen(self) -> Any:
        return _WithoutEnvironment(self._codegen)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0  # what numba gives for a function without a wrapper for Python


class _WithoutEnvironment:
    """numba's compiler without Python objects of a function: they belong to machine code, and a piece has none."""

    def __init__(self, codegen: Any):
        self._codegen = codegen

    def set_env(self, name: str, environment: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)


class _OfPieces(Compiler):  # type: ignore[misc]
    """numba's compiler, which writes into a `_Piece`."""

    def define_pipelines(self) -> Any:
        self.state.library = _Piece(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
        return super().define_pipelines()


class _OfEntry(Compiler):  # type: ignore[misc]
    """numba's compiler, which looks for garbage seldom. What an entry calls is compiled meanwhile."""

    def compile_extra(self, function: Any) -> Any:
        with _less_collecting():
            return super().compile_extra(function)


@contextlib.contextmanager
def _less_collecting() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTIONS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(".")[:2])


_WAS_TRIED = TRIED[0] <= _version(numba.__version__) <= TRIED[1]
OF_ENTRIES: dict[str, Any] = {"pipeline_class": _OfEntry} if _WAS_TRIED else {}  # options of `numba.njit`
OF_PIECES: dict[str, Any] = {"pipeline_class": _OfPieces} if _WAS_TRIED else {}
UNCOUNTED: dict[str, Any] = {"_nrt": False} if _WAS_TRIED else {}  # references to arrays are not counted


def one_version_of_constants(function: Any) -> Any:
    """Compile one version of a function for an integer constant and for a variable, where numba makes two.

    A variable that begins as a constant is one of these cases: numba tries the constant first. A version of numba that this was not
    tried with makes both.
    """
    if _WAS_TRIED and isinstance(function, Dispatcher):
        ask = function.get_call_template

        def without_constants(given: Any, named: Any) -> Any:
            return ask(tuple(types.unliteral(kind) for kind in given), {name: types.unliteral(kind) for name, kind in named.items()})

        function.get_call_template = without_constants
    return function
