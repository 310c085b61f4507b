"""Builds kernel sources with every memory access reported to the race detector."""

from __future__ import annotations

import ctypes
import functools
import platform
import shutil
import sys
from pathlib import Path

from cuda_on_host.backend import OWN_STATICS, SHIM, built, gxx, header, kernel_names

DETECTOR = Path(__file__).parent / "detector.cpp"
# -g1 has lines and inlined calls, which is what reports name; -g takes twice as long
INSTRUMENTED = ("g++", "-std=c++17", "-O1", "-g1", OWN_STATICS, "-fsanitize=thread", "-DRACE_CHECK", "-DCUDA_ON_HOST=1", "-fPIC", "-w")


def why_not() -> str | None:
    """Why sources cannot be checked here; None where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the race check is made for Linux on x86-64"
    missing = [name for name in ("g++", "addr2line") if shutil.which(name) is None]
    return f"{' and '.join(missing)} of the compiler's packages are not installed" if missing else None


@functools.cache
def library(text: str, file: str, options: tuple[str, ...]) -> ctypes.CDLL:
    """Shared library of one source with the detector in it; kept on disk by the hash of all that went into it."""
    launchers = "".join(f"HOST_LAUNCHER({name})\n" for name in kernel_names(text, options))
    whole = f"{text}\n{launchers}"

    def make(target: Path) -> None:
        source, part = target.with_suffix(".cpp"), target.with_suffix(".o")
        source.write_text(whole)
        gxx(file, *INSTRUMENTED, *options, "-include", header(INSTRUMENTED), "-c", source, "-o", part)
        gxx(file, "g++", "-shared", part, detector(), "-o", target)  # without -fsanitize: the calls are answered by the detector
        part.unlink()

    parts = (whole, SHIM.read_text(), DETECTOR.read_text(), INSTRUMENTED, options)
    found = ctypes.CDLL(str(built(f"races-{Path(file).stem}.so", parts, make)))
    found.race_reports.restype, found.race_accesses.restype = ctypes.c_char_p, ctypes.c_uint64
    return found


def detector() -> Path:
    """Object file of the detector."""
    command = ("g++", "-std=c++17", "-O2", "-fPIC", "-c", DETECTOR)
    return built("detector.o", (DETECTOR.read_text(),), lambda o: gxx(DETECTOR.name, *command, "-o", o))
