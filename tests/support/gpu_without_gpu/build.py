"""Builds what stands in for CUDA's libraries, once for each version of CuPy and of the sources here.

CuPy's modules name the libraries and the functions they want; each library gets every one of them. What the C files here do not have is
a function that says its name when it is called.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "cuda"
PARTS = ("memory.c", "runtime.c", "driver.c", "blocks.c", "math_libraries.c")
STANDS_FOR = re.compile(r"lib(cuda|cublas|cufft|curand|cusparse|cusolver)\w*\.so\.\d+")
# CuPy has the loader of NVIDIA's packages load these before cuBLAS and cuSOLVER, though it calls nothing in them.
LOADED_BESIDE = ("libcublasLt.so.13", "libnvJitLink.so.13")


class CompileError(RuntimeError):
    """g++ or gcc refuses a source: what it says, shortened."""


@functools.cache
def folder() -> Path:
    """Where compiled things are kept; tests that run side by side share it."""
    given = os.environ.get("GPU4D_HOST_BUILD")
    made = Path(given) / "gpu-without-gpu" if given else Path(tempfile.gettempdir()) / f"gpu4d-gpu-without-gpu-{os.getuid()}"
    made.mkdir(parents=True, exist_ok=True)
    return made


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time into the block."""
    import fcntl  # not on Windows, where this package can be imported but not activated

    with open(folder() / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(*command: str | Path, text: str | None = None) -> str:
    """What a compiler or binutils prints; CompileError with the head of its messages where it fails."""
    done = subprocess.run([str(c) for c in command], input=text, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise CompileError(f"{' '.join(map(str, command[:1]))} fails on {command[-1]}:\n{done.stderr[:4000]}")
    return done.stdout


def hash_of(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def publish(make: str | Path, at: Path) -> None:
    """Give a finished file its name: others see all of it or nothing."""
    Path(make).replace(at)


# ---------------------------------------------------------------- what CuPy asks for


def cupy_modules() -> list[Path]:
    """Compiled modules of the installed CuPy."""
    site = Path(importlib.util.find_spec("cupy_backends").origin).parents[1]
    return sorted([*site.glob("cupy/**/*.so"), *site.glob("cupy_backends/**/*.so")])


def wanted_functions() -> dict[str, set[str]]:
    """Functions of CUDA's libraries that CuPy's modules name, by library."""
    wanted: dict[str, set[str]] = {}
    for module in cupy_modules():
        undefined = run("nm", "-D", "--undefined-only", module)
        for name, library in re.findall(r" U (\w+)@(lib\w+\.so\.\d+)", undefined):
            wanted.setdefault(library, set()).add(name)
        for library in re.findall(r"\[(lib\w+\.so\.\d+)\]", run("readelf", "-d", module)):
            wanted.setdefault(library, set()).update(re.findall(r" U (cu\w+)$", undefined, re.MULTILINE))
    return {library: names for library, names in wanted.items() if STANDS_FOR.fullmatch(library)}


def runtime_functions() -> dict[str, int]:
    """Functions of the CUDA runtime that is linked into CuPy's `runtime` module, and their offsets in that file."""
    (module,) = [m for m in cupy_modules() if m.match("cuda/api/runtime.*.so")]
    found = re.findall(r"^([0-9a-f]+) t (cuda[A-Z]\w+)$", run("nm", module), re.MULTILINE)
    return {name: int(at, 16) for at, name in found if not name.endswith(("_ptsz", "_ptds"))}


# ---------------------------------------------------------------- libraries


def libraries(version: str) -> Path:
    """Folder of the stand-in libraries and of `runtime.json`, built where it is absent."""
    key = hash_of(version, *(path.read_text() for path in sorted(SOURCES.glob("*.[ch]"))), Path(__file__).read_text())
    made = folder() / f"libraries-{key}"
    with locked("libraries"):
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=folder()) as temporary:
                part = Path(temporary) / "libraries"
                part.mkdir()
                _build_libraries(part)
                publish(part, made)
    return made


def _build_libraries(into: Path) -> None:
    runtime, wanted = runtime_functions(), wanted_functions()
    ours = "".join((SOURCES / part).read_text() for part in PARTS)
    have = set(re.findall(r"^(?:int|const char\*) (?:host_)?(cu\w+)\(", ours, re.MULTILINE))
    have |= {f"cublas{letter}{name}" for letter in "SDCZ" for name in ("gemm_v2", "gemmStridedBatched", "gemmBatched")}
    missing = {f"host_{name}" for name in set(runtime) - have} | wanted.get("libcuda.so.1", set()) - have
    _compile(into / "libcuda.so.1", [SOURCES / part for part in PARTS], _say_their_names(missing), "-O1")
    for library, names in ({name: set() for name in LOADED_BESIDE} | wanted).items():
        if library != "libcuda.so.1":
            _compile(into / library, [], _say_their_names(names - have), "-O0", "-Wl,--no-as-needed", into / "libcuda.so.1")
    (into / "runtime.json").write_text(json.dumps(runtime))


def _say_their_names(functions: set[str]) -> str:
    calls = (f'int {name}(void) {{ return instrument_missing("{name.removeprefix("host_")}"); }}\n' for name in sorted(functions))
    return "int instrument_missing(const char* name);\n" + "".join(calls)


def _compile(library: Path, files: list[Path], more: str, *options: str | Path) -> None:
    generated = library.with_name(library.name.partition(".")[0] + "-missing.c")
    generated.write_text(more)
    flags = ("-std=gnu11", "-w", "-g", "-fPIC", "-shared", f"-Wl,-soname,{library.name}")
    run("gcc", *flags, *options, "-I", SOURCES, "-o", library, "-ldl", "-lpthread", *files, generated)
