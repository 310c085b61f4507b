"""Backend of `gpu4d.device` on the host shim: a `.cu` is compiled by g++ behind `cuda_on_host.h`, its kernels called by ctypes.

NumPy arrays stand for device arrays. What a GPU would forgive is an error here: arrays that are not C-contiguous, scalars
without a NumPy type, more shared memory or threads than the card has. Fresh arrays are poisoned, with NaN or large numbers as the
seed says: a NaN nobody wrote must not pass for an answer. A guard zone behind them is checked after every launch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gpu4d.kernels import source

from gpu4d.device import backend

SHIM = Path(__file__).parent / "cuda_on_host.h"
KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)')
# Static variables of templates and inline functions are else one for all libraries of a process: a second compilation of a source
# would use the first one's shared memory, which is not poisoned before its blocks.
OWN_STATICS = "-fno-gnu-unique"
PLAIN = ("-O1", OWN_STATICS)
SANITIZE = (
    *("-O0", "-g", OWN_STATICS),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"),
)
FAST_TO_COMPILE = ("-O0", OWN_STATICS)  # half the time of PLAIN: for copies that run once or twice
POISON = (0xFF, 0x4B)  # NaN and -1; 1.3e7 and large: what is left of it differs from seed to seed
GUARD = 4096  # bytes behind every array from `empty`
EVERY_PIXEL = ("frame_reductions.cu", "pattern_sums.cu")  # have kernels that run for float32 alone: they are never compiled for one type


class OtherPixel(LookupError):
    """A kernel is asked for that was not compiled, because its pixel type is not the one that stands for all."""


class HostBackend:
    """Runs kernels of `gpu4d.kernels` on the CPU.

    Parameters
    ----------
    seed : int
        Order of threads: 0 forward, 1 backward; other even numbers mix all threads anew at every step, odd ones run each warp as far as it
        gets before the next, in an order drawn at every barrier.
    shared : int
        Bytes of shared memory a block may ask for: 227 kB is sm_90, 99 kB sm_86 and sm_120, 64 kB sm_75.
    flags : tuple of str
        For g++; `SANITIZE` by default where GPU4D_SANITIZE is set (run under LD_PRELOAD=libasan.so), `FAST_TO_COMPILE` with sources.
    sources : mapping of str to str, optional
        Text of files to use instead of the shipped ones: deliberately broken copies.
    first_block : int
        Blocks before it do not run: the far end of a large grid is reached at once.
    one_pixel : bool
        Compile uint16 kernels alone, which takes a quarter of the time; others raise `OtherPixel`.
    """

    def __init__(
        self,
        seed: int = 0,
        shared: int = 227 * 1024,
        flags: tuple[str, ...] | None = None,
        sources: dict[str, str] | None = None,
        first_block: int = 0,
        one_pixel: bool = False,
    ):
        self.seed, self.limit, self.first_block, self.one_pixel = seed, shared, first_block, one_pixel
        self.flags = flags or (SANITIZE if os.environ.get("GPU4D_SANITIZE") else FAST_TO_COMPILE if sources else PLAIN)
        self.sources = dict(sources or {})
        self.guarded: list[tuple[np.ndarray, str]] = []
        self.launched: list[tuple[str, tuple, tuple, int]] = []

    def view(self, array):
        from gpu4d.arrays import host_view

        return host_view(array)

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        raw = np.full(size + GUARD, POISON[self.seed % 2], np.uint8)
        raw[size:] = 0xFF
        self.guarded.append((raw, f"{shape} {dtype}"))
        return raw[:size].view(dtype).reshape(shape)

    def function(self, file, name, defines):
        text = self.sources.get(file) or backend.inlined(file)
        one = self.one_pixel and file not in EVERY_PIXEL and "FOR_EACH_PIXEL(" in source(file)
        if one and re.search(r"_(u8|u32|f32)$", name):
            raise OtherPixel(f"{file}: {name} is left out")
        library = self.library(text, file, tuple(f"-D{d}" for d in (*(["ONE_PIXEL"] if one else []), *defines)))
        try:
            entry = getattr(library, f"launch_{name}")
        except AttributeError:
            raise LookupError(f"{file} has no kernel {name}; it has {', '.join(kernel_names(text))}") from None
        entry.restype = ctypes.c_char_p
        entry.kernel_name, entry.library = name, library
        return entry

    def library(self, text: str, file: str, options: tuple[str, ...]) -> ctypes.CDLL:
        return compiled(text, file, options, self.flags)

    def launch(self, function, grid, block, args, shared):
        assert shared <= self.limit, f"{function.kernel_name} asks for {shared} bytes of shared memory, the card has {self.limit}"
        assert np.prod(block) <= 1024, f"{function.kernel_name}: {block} is more than 1024 threads"
        assert grid[0] < 2**31 and all(n < 65536 for n in grid[1:]), f"{function.kernel_name}: grid {grid} is too large"
        values = [_value(a, function.kernel_name) for a in args]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        size = [(ctypes.c_uint * 3)(*(*map(int, n), 1, 1, 1)[:3]) for n in (grid, block)]
        self.launched.append((function.kernel_name, grid, block, shared))
        function.library.leave_out_blocks_before(ctypes.c_uint(self.first_block))
        error = function(pointers, *size, ctypes.c_size_t(shared), ctypes.c_uint64(self.seed))
        if error:
            raise RuntimeError(f"{function.kernel_name}: {error.decode()}")
        for raw, what in self.guarded:
            assert (raw[-GUARD:] == 0xFF).all(), f"{function.kernel_name} wrote behind an array {what}"

    def shared_memory(self):
        return self.limit

    def multiprocessors(self):
        return 4

    def l2_cache(self):
        return 2 << 20


def _value(argument, name):
    if isinstance(argument, np.ndarray) and argument.ndim:
        assert argument.flags.c_contiguous, f"{name}: an argument {argument.shape} is not C-contiguous"
        return argument.ctypes.data_as(ctypes.c_void_p)
    assert isinstance(argument, np.generic | np.ndarray), f"{name}: {argument!r} has no NumPy type"
    if argument.dtype.kind in "cV":  # complex scalars and structs go as their bytes
        return (ctypes.c_char * argument.dtype.itemsize).from_buffer_copy(argument.tobytes())
    return np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item())


@functools.cache
def kernel_names(text: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """extern "C" kernels of a source, macros and templates expanded."""
    command = ["g++", "-E", "-P", "-std=c++17", "-DCUDA_ON_HOST=1", "-x", "c++", *options, "-"]
    expanded = subprocess.run(command, input=text, check=True, capture_output=True, text=True).stdout
    return tuple(KERNEL.findall(expanded))


@functools.cache
def compiled(text: str, file: str, options: tuple[str, ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    """Shared library of one source; kept on disk by the hash of everything that went into it."""
    launchers = "".join(f"HOST_LAUNCHER({name})\n" for name in kernel_names(text, options))
    whole = f"{text}\n{launchers}"
    quiet = ("-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unused-but-set-variable")
    command = ("g++", "-std=c++17", *flags, "-DCUDA_ON_HOST=1", "-fPIC", *quiet)

    def make(library: Path) -> None:
        source = library.with_suffix(".cpp")
        source.write_text(whole)
        gxx(file, *command, *options, "-shared", "-include", header(command), source, "-o", library)

    return ctypes.CDLL(str(built(f"{Path(file).stem}.so", (whole, SHIM.read_text(), command, options), make)))


@functools.cache
def header(command: tuple[str, ...]) -> Path:
    """The shim's header to include in a source that is compiled by `command`, with the precompiled one beside it, which g++ takes.

    g++ would else read the same 30 000 lines for each source, which takes a fifth of a second.
    """
    name = f"cuda_on_host-{hashlib.sha256(repr(command).encode()).hexdigest()[:8]}.h"

    def make(compiled_header: Path) -> None:
        plain = compiled_header.with_name(compiled_header.name.removeprefix("part-").removesuffix(".gch"))
        plain.write_text(SHIM.read_text())
        gxx(name, *command, "-x", "c++-header", plain, "-o", compiled_header)

    return built(f"{name}.gch", (SHIM.read_text(), command, gxx_version()), make).with_suffix("")


@functools.cache
def gxx_version() -> str:
    """What g++ says of itself: a precompiled header is read by the version that wrote it alone."""
    return subprocess.run(["g++", "--version"], check=True, capture_output=True, text=True).stdout


def gxx(what: str, *command: str | Path) -> None:
    """Run g++, and say what it says where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ does not take {what}:\n{done.stderr[-4000:]}")


def built(name: str, parts: tuple, make: Callable[[Path], None]) -> Path:
    """A file made from `parts`, kept on disk by their hash: `make` writes it once, though several processes ask for it together."""
    folder = Path(os.environ.get("GPU4D_HOST_BUILD", Path(tempfile.gettempdir()) / f"gpu4d-cuda-on-host-{os.getuid()}"))
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = os.path.splitext(name)
    kept = folder / f"{stem}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:20]}{suffix}"
    if not kept.exists():
        import fcntl  # not on Windows, where nothing is compiled either

        with open(kept.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, also by the death of its process
            if not kept.exists():
                part = kept.with_name(f"part-{kept.name}")
                make(part)
                part.replace(kept)
    return kept
