"""Define what launchers of CUDA kernels see of a device: `empty`, `kernel`, `launch`, and a few numbers that launch shapes need.

Two backends provide it: CuPy on a CUDA device, and, in the tests, a host shim that runs the same sources on the CPU. Launchers cannot
tell them apart. So their arguments and grids are tested without a GPU.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from gpu4d.arrays import DType, ReturnedArray
from gpu4d.errors import InputError
from gpu4d.operation import device_view

INCLUDE = re.compile(r'^[ \t]*#include "([^"]+)"[^\n]*$', re.MULTILINE)
OPTIONS = ("--std=c++17",)
SHARED_BY_DEFAULT = 48 * 1024  # bytes of dynamic shared memory that a kernel gets without opting in


class Backend(Protocol):
    """Runs kernels. Arrays are CuPy arrays, or NumPy arrays on the host shim."""

    def view(self, array: Any) -> Any:
        """Return the backend's view of an array, without a copy if it is on the device already."""
        ...

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any: ...

    def function(self, file: str, name: str, defines: tuple[str, ...]) -> Any: ...

    def launch(self, function: Any, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared: int) -> None: ...

    def shared_memory(self) -> int:
        """Return the bytes of shared memory that a block may ask for (the opt-in limit)."""
        ...

    def multiprocessors(self) -> int: ...

    def l2_cache(self) -> int:
        """Return the bytes of the device's second-level cache."""
        ...


class CupyBackend:
    """The current CUDA device, through CuPy."""

    def __init__(self) -> None:
        self._asked: dict[Any, int] = {}  # bytes of shared memory each kernel opted in to: opting in calls the driver

    def view(self, array: Any) -> Any:
        from gpu4d.arrays import cupy_view

        return cupy_view(array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    def function(self, file: str, name: str, defines: tuple[str, ...]) -> Any:
        import cupy

        return _function(cupy.cuda.Device().id, file, name, defines)

    def launch(self, function: Any, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared: int) -> None:
        if shared > SHARED_BY_DEFAULT and shared > self._asked.get(function, 0):
            function.max_dynamic_shared_size_bytes = shared
            # Give shared memory all that L1 and shared memory divide. Else the driver chooses, and fewer blocks may fit.
            function.preferred_shared_memory_carveout = 100
            self._asked[function] = shared
        function(grid, block, tuple(args), shared_mem=shared)

    def shared_memory(self) -> int:
        return _attribute("MaxSharedMemoryPerBlockOptin")

    def multiprocessors(self) -> int:
        return _attribute("MultiProcessorCount")

    def l2_cache(self) -> int:
        return _attribute("L2CacheSize")


_CUPY = CupyBackend()
_backend: contextvars.ContextVar[Backend] = contextvars.ContextVar("gpu4d_backend", default=_CUPY)


@contextlib.contextmanager
def using_backend(other: Backend) -> Iterator[None]:
    """Run kernels on another backend inside the block."""
    token, view = _backend.set(other), device_view.set(other.view)
    try:
        yield
    finally:
        _backend.reset(token)
        device_view.reset(view)


KernelArgument = Any  # a device array, or a number with the exact NumPy type that the kernel takes
Kernel = Any  # a compiled function of CuPy, or that of what stands for CuPy in tests


def empty(shape: Sequence[int], dtype: DType) -> ReturnedArray:
    """Return an uninitialised array on the device."""
    return _backend.get().empty(tuple(int(n) for n in shape), np.dtype(dtype))


def kernel(file: str, name: str, *defines: str) -> Kernel:
    """Return a compiled kernel of one source file. It is compiled once for each device, file and set of defines.

    Parameters
    ----------
    file : str
        Name of a file in `gpu4d.kernels`, "masked_sums.cu".
    name : str
        Name of its extern "C" function.
    *defines : str
        "NAME=value" for the preprocessor.
    """
    return _backend.get().function(file, name, tuple(defines))


def launch(
    function: Kernel, grid: Sequence[int] | int, block: Sequence[int] | int, args: Sequence[KernelArgument], shared: int = 0
) -> None:
    """Run a kernel. A grid without blocks does nothing.

    Parameters
    ----------
    function : from `kernel`
    grid, block : int or sequence of int
    args : sequence
        Device arrays (C-contiguous), and scalars with a NumPy type: ``np.int32(n)``, never a Python number, whose width a
        kernel could not know.
    shared : int
        Bytes of dynamic shared memory.
    """
    grid, block = ((v,) if isinstance(v, int) else tuple(int(i) for i in v) for v in (grid, block))
    for argument in args:
        if isinstance(argument, int | float | complex) and not isinstance(argument, np.generic):
            raise InputError(f"a kernel argument is the Python number {argument!r}: give it a NumPy type")
        if getattr(argument, "ndim", 0) and not argument.flags.c_contiguous:
            raise InputError(f"a kernel argument of shape {argument.shape} is not C-contiguous: copy it first")
    if min(grid) > 0:
        _backend.get().launch(function, grid, block, args, int(shared))


def shared_memory() -> int:
    """Return the bytes of shared memory a block may ask for on this device: 64 kB on sm_75, 163 kB on sm_80, 227 kB on sm_90."""
    return _backend.get().shared_memory()


def multiprocessors() -> int:
    """Return the number of multiprocessors of this device: 108 on an A100, 132 on an H100 (SXM)."""
    return _backend.get().multiprocessors()


def l2_cache() -> int:
    """Return the bytes of the second-level cache of this device: 4 MB on sm_75, 40 MB on sm_80, 50 MB on sm_90."""
    return _backend.get().l2_cache()


def inlined(file: str) -> str:
    """Return the source of a kernel file with our own headers inserted, each once. CuPy's cache does not see included files.

    `#line` keeps the compiler's messages pointing into the original files.
    """
    from gpu4d.kernels import source

    seen: set[str] = set()

    def expand(name: str) -> str:
        seen.add(name)
        out, line, text = [], 1, source(name)
        at = 0
        for match in INCLUDE.finditer(text):
            out.append(text[at : match.start()])
            line += text.count("\n", at, match.end())
            if match.group(1) not in seen:
                out.append(f'{expand(match.group(1))}\n#line {line + 1} "{name}"')  # number of the line after the include
            at = match.end()
        return f'#line 1 "{name}"\n' + "".join(out) + text[at:]

    return expand(file).replace("#pragma once", "")


def _attribute(name: str) -> int:
    import cupy

    return int(_attributes(cupy.cuda.Device().id)[name])


@functools.cache
def _attributes(device: int) -> dict[str, Any]:
    """Return the attributes of a card. They are read once, because CuPy reads all of them each time, which takes longer than a kernel."""
    import cupy

    return dict(cupy.cuda.Device(device).attributes)


@functools.cache
def _function(device: int, file: str, name: str, defines: tuple[str, ...]) -> Any:
    return _module(device, file, defines).get_function(name)


@functools.cache
def _module(device: int, file: str, defines: tuple[str, ...]) -> Any:
    import logging

    import cupy

    logging.getLogger("gpu4d").info("compiling %s %s for device %d", file, " ".join(defines), device)
    with cupy.cuda.Device(device):
        return cupy.RawModule(code=inlined(file), options=(*OPTIONS, *(f"-D{d}" for d in defines)))
