"""Puts the stand-in between Python and CuPy: its parts are loaded when CuPy is imported, and not before."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from gpu_without_gpu import build, instrument

TRIED = (14,)  # major versions of CuPy whose calls the stand-in knows
DISTRIBUTION = "cupy-cuda13x"  # CUDA 13's layout of structures is in cuda/runtime.c
TOOLS = ("g++", "gcc", "nm", "readelf")
AT_START = Path(__file__).parent / "at_start"  # a sitecustomize for child processes


class Unavailable(ImportError):
    """Why this machine or this CuPy cannot run the GPU path without a GPU."""


def cupy_version() -> str | None:
    """Version of the installed CuPy for CUDA 13, without importing it; None without it."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def why_not() -> str | None:
    """Why it cannot be activated here; None where it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it writes x86-64 code into CuPy's runtime on Linux; this is {sys.platform} on {platform.machine()}"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not found: install g++ and binutils"
    version = cupy_version()
    if version is None:
        return f"{DISTRIBUTION} is not installed: pip install '{DISTRIBUTION}=={TRIED[-1]}.*'"
    if int(version.partition(".")[0]) not in TRIED:
        accepted = " or ".join(f"{major}.x" for major in TRIED)
        return f"it has been tried with CuPy {accepted}, {version} is installed: see docs/reference/kernels.md for what to do"
    return None


def active() -> bool:
    """Whether CuPy runs, or will run when it is imported, without a GPU in this process."""
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def activate() -> None:
    """Let the CuPy that is imported after this run without a GPU. Called again, it does nothing."""
    if active():
        return
    if (reason := why_not()) is not None:
        raise Unavailable(f"gpu_without_gpu: {reason}")
    if "cupy" in sys.modules or "cupy_backends" in sys.modules:
        raise RuntimeError("gpu_without_gpu must be activated before CuPy is imported")
    os.environ.setdefault("CUPY_ACCELERATORS", "")  # CUB's reductions come as templates of its own headers
    sys.meta_path.insert(0, _Finder())


def environment(**more: str) -> dict[str, str]:
    """Environment for child processes in which CuPy runs without a GPU from their start."""
    paths = [str(AT_START), str(build.HERE.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)} | more


class _Finder(importlib.abc.MetaPathFinder):
    """Finds CuPy where it is, and has the stand-in loaded before it and its compiler replaced after it."""

    def __init__(self) -> None:
        self.looking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "cupy" or self.looking:
            return None
        self.looking = True  # what follows asks all finders, this one too
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.looking = False
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, cupys: Any):
        self.cupys = cupys

    def create_module(self, spec: Any) -> ModuleType | None:
        return self.cupys.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        from gpu_without_gpu import libraries, modules, runtime  # they need NumPy: conftest.py sets its threads before it is imported

        folder = build.libraries(str(cupy_version()))
        stand_in = instrument.load(folder)
        import cupy_backends.cuda.api.runtime as cupys_runtime

        runtime.hook(cupys_runtime.__file__, folder, stand_in)
        self.cupys.exec_module(module)
        modules.replace_nvrtc()
        libraries.replace_libraries()
