"""Compiles kernel sources for several architectures with NVRTC alone, and reads what ptxas says of them. Needs no GPU."""

from __future__ import annotations

import re
from typing import NamedTuple

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")

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


def compile_for(text: str, file: str, architecture: str, options: tuple[str, ...] = ()) -> tuple[dict[str, Usage], str]:
    """Compile a source (headers inlined) to machine code: usage by kernel, and the PTX. Warnings are errors."""
    from cuda.bindings import nvrtc

    def ok(result):
        error, *rest = result
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(nvrtc.nvrtcGetErrorString(error)[1].decode())
        return rest[0] if rest else None

    program = ok(nvrtc.nvrtcCreateProgram(text.encode(), file.encode(), 0, [], []))
    flags = [f"--gpu-architecture={architecture}", "--std=c++17", "--ptxas-options=-v", "--ptxas-options=--warn-on-spills", *options]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), [f.encode() for f in flags])
    log = b" " * ok(nvrtc.nvrtcGetProgramLogSize(program))
    ok(nvrtc.nvrtcGetProgramLog(program, log))
    said = log.decode(errors="replace")
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC does not take {file} for {architecture}:\n{said}")
    ptx = b" " * ok(nvrtc.nvrtcGetPTXSize(program))
    ok(nvrtc.nvrtcGetPTX(program, ptx))
    usage = {}
    for name, stack, stores, loads, registers, rest in PROPERTIES.findall(said):
        shared = re.search(r"(\d+) bytes smem", rest)
        usage[name] = Usage(int(registers), int(stack), int(stores) + int(loads), int(shared.group(1)) if shared else 0)
    return usage, ptx.decode(errors="replace")
