"""Writes jumps into the CUDA runtime that CuPy has linked into its own module: each function goes to its stand-in."""

from __future__ import annotations

import ctypes
import json
import mmap
from pathlib import Path

JUMP = b"\x48\xb8%s\xff\xe0"  # mov rax, target; jmp rax
WRITABLE_CODE = 1 | 2 | 4  # PROT_READ | PROT_WRITE | PROT_EXEC


def hook(module: str, folder: Path, stand_in: ctypes.CDLL) -> int:
    """Redirect every runtime function of a loaded module; how many there are.

    Parameters
    ----------
    module : str
        Path of CuPy's `runtime` module, loaded.
    folder : Path
        Of the stand-in libraries, with the offsets of the functions in `runtime.json`.
    stand_in : CDLL
        Has `host_<name>` for each.
    """
    base, libc = _base_of(module), ctypes.CDLL(None, use_errno=True)
    functions = json.loads((folder / "runtime.json").read_text())
    for name, offset in functions.items():
        target = ctypes.cast(getattr(stand_in, f"host_{name}"), ctypes.c_void_p).value
        code = JUMP % target.to_bytes(8, "little")
        address = base + offset
        page = address & -mmap.PAGESIZE
        if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(address + len(code) - page), WRITABLE_CODE):
            raise OSError(ctypes.get_errno(), f"Linux does not allow to write into the code of {module}")
        ctypes.memmove(address, code, len(code))
    return len(functions)


def _base_of(module: str) -> int:
    """Address a loaded module begins at."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return min(int(line.split("-")[0], 16) for line in maps if line.endswith(module))
