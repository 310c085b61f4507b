"""Compiles kernel sources for several architectures with NVRTC alone, and reads what ptxas says of them. Needs no GPU.

Results are kept on disk by the hash of all that went into them and the version of NVRTC.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import gpu4d.kernels

from cuda_on_host.backend import built

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")  # one of each generation: sm_86 and sm_89 are compiled as sm_80
# What CuPy 13.6 and 14.2 add to every RawModule, apart from folders of headers, of which the sources include none. Numbers below
# 1.2e-38 in magnitude count as zero in single precision.
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")

BUDGET = re.compile(r"^// budget(?:\((\S+)\))?: (\d+) registers, (\d+) bytes shared", re.MULTILINE)
PROPERTIES = re.compile(
    r"Function properties for (\w+)\nptxas[ .]*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
    r"ptxas info\s+: Used (\d+) registers([^\n]*)"
)


class Usage(NamedTuple):
    """What one kernel takes on one architecture."""

    registers: int
    stack: int
    spilled: int
    shared: int  # static, bytes


def usage_for(text: str, file: str, architecture: str, options: tuple[str, ...] = ()) -> dict[str, Usage]:
    """Compile a source (headers inlined) to machine code with the options CuPy gives: usage by kernel. Warnings are errors."""
    flags = (f"--gpu-architecture={architecture}", "--std=c++17", *CUPY_OPTIONS, *options)
    name = f"{file.removesuffix('.cu')}-{architecture}.log"
    said = built(name, (text, file, flags, version()), lambda log: log.write_text(log_of(text, file, flags))).read_text()
    found = {}
    for kernel, stack, stores, loads, registers, rest in PROPERTIES.findall(said):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[kernel] = Usage(int(registers), int(stack), int(stores) + int(loads), int(shared.group(1)) if shared else 0)
    return found


def version() -> tuple[int, int]:
    """The version of NVRTC."""
    from cuda.bindings import nvrtc

    return ok(nvrtc.nvrtcVersion())


def log_of(text: str, file: str, flags: tuple[str, ...]) -> str:
    """What NVRTC and ptxas say while they compile a source; an error where they refuse it or warn."""
    from cuda.bindings import nvrtc

    program = ok(nvrtc.nvrtcCreateProgram(text.encode(), file.encode(), 0, [], []))
    flags = (*flags, "--ptxas-options=-v", "--ptxas-options=--warn-on-spills")
    (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), [f.encode() for f in flags])
    log = b" " * ok(nvrtc.nvrtcGetProgramLogSize(program))
    ok(nvrtc.nvrtcGetProgramLog(program, log))
    ok(nvrtc.nvrtcDestroyProgram(program))
    said = log.decode(errors="replace")
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS or "warning" in said:
        raise RuntimeError(f"NVRTC does not take {file} with {' '.join(flags)}:\n{said}")
    return said


def ok(result):
    """The values of a call of NVRTC behind its error code, which must be success."""
    from cuda.bindings import nvrtc

    error, *rest = result
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(nvrtc.nvrtcGetErrorString(error)[1].decode())
    return rest[0] if len(rest) == 1 else tuple(rest)


def budget(file: str, kernel: str) -> tuple[int, int]:
    """Registers and static shared memory the head of a file allows one of its kernels."""
    lines = BUDGET.findall(gpu4d.kernels.source(file))
    assert lines, f"{file} declares no budget"
    for pattern, registers, shared in lines:
        if not pattern or re.fullmatch(pattern, kernel):
            return int(registers), int(shared)
    raise AssertionError(f"{file}: no budget line fits {kernel}")
