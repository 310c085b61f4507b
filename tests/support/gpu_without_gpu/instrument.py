"""The loaded stand-in for `libcuda.so.1` and what can be asked of it: counts, memory, complaints, the loss of the device."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

MOST_NOTED = 1 << 20  # launches whose names are kept inside one `counting` block; 8 bytes each

_library: ctypes.CDLL | None = None
_complaints: list[str] = []


@dataclass(frozen=True)
class Counts:
    """How often what was done since the start of the process. Kept in step with `struct counts` of cuda/device.h.

    `launches` are kernels, CuPy's own among them; `waits` are calls in which the host waits for the device (streams, events, the device,
    cudaMemcpy); `copies` are copies and fills on the device; `library_calls` are calls of cuFFT, cuBLAS, cuSOLVER and sorts, which on a GPU
    launch kernels of their own; `allocations` and `releases` are cudaMalloc and cudaFree.
    """

    launches: int = 0
    waits: int = 0
    uploads: int = 0
    upload_bytes: int = 0
    downloads: int = 0
    download_bytes: int = 0
    copies: int = 0
    allocations: int = 0
    releases: int = 0
    pinned_allocations: int = 0
    events: int = 0
    attributes_set: int = 0
    library_calls: int = 0

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(before, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Memory:
    """Bytes: of the device, taken of it, page-locked; `most_…` since `memory` was last asked. Kept in step with `struct memory`."""

    total: int = 0
    used: int = 0
    most_used: int = 0
    pinned: int = 0
    most_pinned: int = 0


@dataclass
class Block:
    """What was counted in a `counting` block; filled in when the block is left."""

    counts: Counts = field(default_factory=Counts)
    kernels: Counter[str] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> int:  # block.launches for block.counts.launches
        if name in Counts.__dataclass_fields__:
            return getattr(self.counts, name)
        raise AttributeError(name)


def load(folder: Path) -> ctypes.CDLL:
    """Load the stand-in libraries of a folder before CuPy asks for real ones."""
    global _library
    _library = ctypes.CDLL(str(folder / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    for path in sorted(folder.glob("lib*.so.*")):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    _library.instrument_noted.restype = ctypes.c_size_t
    _library.instrument_take_complaints(_note_complaint)
    return _library


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)
def _note_complaint(text: bytes) -> None:
    _complaints.append(text.decode(errors="replace"))


def library() -> ctypes.CDLL:
    if _library is None:
        raise RuntimeError("gpu_without_gpu is not active, or CuPy has not been imported yet: call gpu_without_gpu.activate() first")
    return _library


def complain(text: str) -> None:
    """Note what was done wrong; under pytest the test that did it fails."""
    _complaints.append(text)


def take_complaints() -> list[str]:
    """What was done wrong since this was last asked: copies outside of blocks, wrong frees, launches that no device takes, …"""
    taken = list(_complaints)
    _complaints.clear()
    return taken


def _read(function: Any, kind: type) -> Any:
    values = (ctypes.c_int64 * len(fields(kind)))()
    function(values)
    return kind(*values)


def counts() -> Counts:
    """What was done since the start of the process."""
    return _read(library().instrument_counts, Counts)


def memory() -> Memory:
    """Memory of the device, now and at most since this was last asked."""
    return _read(library().instrument_memory, Memory)


@contextlib.contextmanager
def counting() -> Iterator[Block]:
    """Count inside the block.

    Examples
    --------
    >>> with gpu_without_gpu.counting() as seen:
    ...     cupy.arange(10)
    >>> seen.launches, seen.waits, seen.kernels
    (1, 0, Counter({'cupy_arange__int_int_int64': 1}))
    """
    block, names = Block(), (ctypes.c_char_p * MOST_NOTED)()
    before = counts()
    library().instrument_note_launches(names, ctypes.c_size_t(MOST_NOTED))
    try:
        yield block
    finally:
        block.counts = counts() - before
        noted = library().instrument_noted()
        library().instrument_note_launches(None, ctypes.c_size_t(0))
        block.kernels = Counter(name.decode() for name in names[:noted])


def set_memory(nbytes: int) -> None:
    """Give the device this much memory; 6 GiB until told otherwise."""
    library().instrument_set_memory(ctypes.c_size_t(nbytes))


def lose_device(code: int) -> None:
    """Let every call fail with an error of CUDA (700 illegal address, 719 launch failure, 100 no device); 0 brings the device back."""
    library().instrument_lose_device(ctypes.c_int(code))


def set_order(seed: int) -> None:
    """Order of the threads in the library's own kernels, as `cuda_on_host.HostBackend(seed)` takes it."""
    library().instrument_set_seed(ctypes.c_uint64(seed))
