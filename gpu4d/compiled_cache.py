"""Keep compiled functions on disk, and compile one again only if what it is made from has changed.

numba's own cache looks at the file of a function. It does not see that a function of another file has changed whose code is compiled
into this one, and it compiles everything again after an edit of a comment. Here a function has a digest of its own code, of the
functions it calls, and of the constants they use. Where no folder can be written, functions are compiled in every process.
"""

from __future__ import annotations

import atexit
import hashlib
import inspect
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import llvmlite
import numpy as np
from numba.core import caching, config
from numba.core.dispatcher import Dispatcher
from numba.misc.appdirs import AppDirs

log = logging.getLogger("gpu4d")


def keep_on_disk(function: Any) -> Any:
    """Keep the code of a function that `numba.njit` made, and return the function. Without a compiler there is nothing to keep."""
    if isinstance(function, Dispatcher):
        function._cache = _KeptCode(function)
    return function


def is_kept(function: Any) -> bool:
    """Return True if compiled code of this function is on disk, for this computer. True if nothing is compiled at all."""
    if not isinstance(function, Dispatcher):
        return True
    return bool(function.overloads) or function._cache.is_filled(function.targetctx.codegen())


@lru_cache(maxsize=8)
def folder_for(sources: Path) -> Path:
    """Return the folder for compiled code of the sources in a folder: the first that can be written.

    They are NUMBA_CACHE_DIR, `__pycache__` beside the sources, and the user's folder for caches. Else it is a temporary folder, which
    is removed when the process ends.
    """
    own = f"{sources.name}_{hashlib.sha1(str(sources).encode(), usedforsecurity=False).hexdigest()[:16]}"
    users = Path(AppDirs(appname="gpu4d", appauthor=False).user_cache_dir) / own
    places = [Path(config.CACHE_DIR) / own] if config.CACHE_DIR else []
    for place in (*places, sources / "__pycache__", users):
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError:
            continue
        return place
    log.warning(
        "compiled code cannot be kept, because neither %s nor %s can be written: every run compiles it again. "
        "Set NUMBA_CACHE_DIR to a folder that can be written",
        sources / "__pycache__",
        users,
    )
    return _temporary()


@lru_cache(maxsize=1)
def _temporary() -> Path:
    place = Path(tempfile.mkdtemp(prefix="gpu4d-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


class _Place(caching._CacheLocator):
    """Where the code of one function is kept, and what it is made from."""

    def __init__(self, function: Dispatcher):
        self._py_file, self.function = inspect.getfile(function.py_func), function  # numba names the file in its warnings

    def get_cache_path(self) -> str:
        return str(folder_for(Path(self._py_file).parent))

    def get_source_stamp(self) -> str:
        return digest(self.function)

    def get_disambiguator(self) -> str:
        return ""


class _Code(caching.CompileResultCacheImpl):
    """The form that code is kept in. File names have no line numbers, which change with the lines above a function."""

    def __init__(self, function: Dispatcher):
        plain = function.py_func
        self._lineno, self._locator = plain.__code__.co_firstlineno, _Place(function)
        module = Path(inspect.getfile(plain)).stem
        self._filename_base = f"{module}.{plain.__qualname__}.py{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}"


class _Files(caching.IndexDataCacheFile):
    """The files of one function: an index, and one file for each combination of types. A damaged index counts as an empty one."""

    def _load_index(self) -> dict:
        try:
            return super()._load_index()
        except Exception as error:
            log.info("%s cannot be read (%s): functions are compiled again", self._index_path, error)
            return {}


class _KeptCode(caching.Cache):
    """Reads and writes the code of one function. Whatever goes wrong with the files, the function is compiled and runs."""

    _impl_class = _Code

    def __init__(self, function: Dispatcher):
        self._name, self._py_func, self._impl = repr(function.py_func), function.py_func, _Code(function)
        self.enable()

    @cached_property
    def _cache_path(self) -> str:
        return self._impl.locator.get_cache_path()

    @cached_property
    def _cache_file(self) -> _Files:  # when it is first used: the functions it calls may be defined later
        place = self._impl.locator
        return _Files(self._cache_path, self._impl.filename_base, place.get_source_stamp())

    def is_filled(self, codegen: Any) -> bool:
        """Return True if there is code for this processor."""
        return any(key[1] == codegen.magic_tuple() for key in self._cache_file._load_index())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # its file is damaged, or another process is replacing it
            log.info("compiled code of %s cannot be read (%s): it is compiled again", self._name, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            log.warning("compiled code cannot be kept in %s (%s): the next run compiles it again", self._cache_path, error.strerror)
            self.disable()


# ---------------------------------------------------------------- what code is made from


def digest(function: Callable) -> str:
    """Return the digest of everything that the code of a function is made from.

    It has the bytecode of the function and of functions of this package that it names, the options that these are compiled with, and
    the constants that they name. Comments, documentation and places in files do not count. Objects of other packages count by name,
    and numba by its version.
    """
    found = hashlib.sha256(f"{llvmlite.__version__} ".encode())
    package, seen = function.__module__.partition(".")[0], set[int]()
    todo: list[Any] = [function]
    while todo:
        thing = todo.pop()
        if isinstance(thing, Dispatcher):
            found.update(_options(thing))
        thing = getattr(thing, "py_func", getattr(thing, "_defn", thing))  # of a compiled function, and of an intrinsic one
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        ours = str(getattr(thing, "__module__", "")).partition(".")[0] == package
        if isinstance(thing, FunctionType) and ours:
            found.update(f"{thing.__qualname__} {thing.__defaults__!r} ".encode())
            for code in _codes(thing.__code__):
                found.update(code.co_code + _words(c for c in code.co_consts if not isinstance(c, CodeType) and c != thing.__doc__))
                found.update(_words((code.co_names, code.co_varnames)))
                todo += [thing.__globals__[name] for name in code.co_names if name in thing.__globals__]
        elif isinstance(thing, type) and ours:
            found.update(_words((thing.__qualname__, getattr(thing, "_fields", ()))))
            todo += [value for _, value in sorted(vars(thing).items()) if isinstance(value, FunctionType)]
        elif isinstance(thing, ModuleType) and thing.__name__.partition(".")[0] == package and thing.__file__:
            found.update(Path(thing.__file__).read_bytes())
        elif isinstance(thing, np.ndarray):
            found.update(_words((str(thing.dtype), thing.shape)) + thing.tobytes())
        elif isinstance(thing, bool | int | float | complex | str | bytes | tuple | list | np.generic):
            found.update(_words((thing,)))
        else:
            found.update(_words((type(thing).__qualname__, getattr(thing, "__name__", ""))))
    return found.hexdigest()


def _options(function: Dispatcher) -> bytes:
    """Return how numba is asked to compile a function. The order of flags in a set differs from process to process."""
    given = {name: sorted(value) if isinstance(value, set | frozenset) else value for name, value in function.targetoptions.items()}
    return _words((*sorted(given.items()), function._compiler.pipeline_class.__qualname__))


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function, and of the functions inside it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _codes(inner)


def _words(things: Any) -> bytes:
    return " ".join(repr(thing) for thing in things).encode(errors="backslashreplace") + os.linesep.encode()
