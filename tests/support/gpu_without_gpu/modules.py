"""Compiles for the host what CuPy gives to NVRTC: its own kernels, and the sources of `RawModule` and `RawKernel`.

CuPy's own kernels (they include its headers) are compiled behind `cuda/cupy_kernels.h`, which is read as a precompiled header: some 0.06 s
of a processor each, and a suite of tests uses hundreds. Other sources are compiled behind the project's host shim, `cuda_on_host.h`, as the
other tests do it, so that uneven barriers and reads of shared memory that was not written are found here too.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

from cuda_on_host.backend import KERNEL, SHIM

from gpu_without_gpu import build

IMAGE = b"HOST LIBRARY:"  # what cuda/driver.c knows a module by
FLAGS = ("-std=c++17", "-O1", "-w", "-fpermissive", "-fPIC", "-fno-gnu-unique")
NO_START_FILES = "-nostartfiles"  # CuPy's kernels have nothing that is set up when a library is opened
SHIM_DEFINES = ("-DCUDA_ON_HOST=1", "-DSHARED_STACKS=1")
DYNAMIC_SHARED = re.compile(r"extern\s+__shared__\s+(?:__align__\([^)]*\)\s*)?([^;]*?)\s*(\w+)\s*\[\]\s*;")


def replace_nvrtc() -> None:
    """Let CuPy compile with g++."""
    from cupy.cuda import compiler, function

    def compile_with_gxx(source: str, options: tuple[str, ...] = (), *, name_expressions: Any = None, **_: Any) -> Any:
        if name_expressions:
            raise NotImplementedError("gpu_without_gpu does not compile modules with name_expressions")
        module = function.Module()
        module.load(IMAGE + str(library(source, tuple(options))).encode() + b"\0")
        return module

    if not hasattr(compiler, "_compile_module_with_cache"):
        raise RuntimeError("this CuPy has no cupy.cuda.compiler._compile_module_with_cache: see docs/reference/kernels.md")
    compiler._compile_module_with_cache = compile_with_gxx


def library(source: str, options: tuple[str, ...]) -> Path:
    """Shared library of a source; kept on disk by the hash of all that goes into it."""
    defines = tuple(option for option in options if option.startswith("-D"))
    return _cupys(source, defines) if "<cupy/" in source else _ours(source, defines)


def _cupys(source: str, defines: tuple[str, ...]) -> Path:
    text = DYNAMIC_SHARED.sub(r"DYNAMIC_SHARED(\1, \2);", source)
    barriers = "true" if "sync" in text else "false"
    launchers = "".join(f"LAUNCHER({name}, {barriers})\n" for name in KERNEL.findall(text))
    return _compiled(text + "\n" + launchers, (NO_START_FILES, *defines), _cupy_header())


def _ours(source: str, defines: tuple[str, ...]) -> Path:
    without_includes = re.sub(r"^\s*#\s*include.*$", "", source, flags=re.MULTILINE)
    expanded = build.run("g++", "-E", "-P", "-std=c++17", "-x", "c++", *SHIM_DEFINES, *defines, "-", text=without_includes)
    launchers = "".join(f"HOST_LAUNCHER({name})\n" for name in KERNEL.findall(expanded))
    return _compiled(source + "\n" + launchers, (*SHIM_DEFINES, *defines), _shim_header())


def _compiled(text: str, options: tuple[str, ...], header: Path) -> Path:
    key = build.hash_of(text, *options, header.parent.name)
    made = build.folder() / f"{key}.so"
    if made.exists():
        return made
    with build.locked(f"compile-{key[:2]}"):  # workers that want the same kernel at the same time: one of them compiles it
        if not made.exists():
            source, part = build.folder() / f"{key}.cpp", build.folder() / f"{key}.{os.getpid()}.so"
            source.write_text(text)
            build.run("g++", *FLAGS, "-shared", *_includes(), "-include", header, *options, "-o", part, source)
            build.publish(part, made)
    return made


# ---------------------------------------------------------------- precompiled headers


@functools.cache
def _cupy_header() -> Path:
    return _precompiled("cupy_kernels.h", (build.SOURCES / "cupy_kernels.h").read_text(), ())


@functools.cache
def _shim_header() -> Path:
    return _precompiled("shim.h", SHIM.read_text(), SHIM_DEFINES)


def _precompiled(name: str, text: str, defines: tuple[str, ...]) -> Path:
    """Path to include a header by; g++ finds the compiled one beside it."""
    import cupy

    key = build.hash_of(text, *FLAGS, *defines, cupy.__version__, build.run("g++", "--version"))
    made = build.folder() / f"header-{key}"
    with build.locked("headers"):
        if not (made / f"{name}.gch").exists():
            made.mkdir(exist_ok=True)
            (made / name).write_text(text)
            part = made / "part"
            build.run("g++", *FLAGS, *_includes(), *defines, "-x", "c++-header", "-o", part, made / name)
            build.publish(part, made / f"{name}.gch")
    return made / name


@functools.cache
def _includes() -> tuple[str, ...]:
    import cupy

    return (f"-I{build.SOURCES}", f"-I{Path(cupy.__file__).parent / '_core' / 'include'}")
