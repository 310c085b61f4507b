"""What `gpu4d info` and `gpu4d devices` say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gpu4d.device.memory import available_memory, default_budget
from gpu4d.sizes import format_bytes, parse_memory
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.report import calibration_rows


def describe_file(path: str | Path, dataset: str | None = None, scan_shape: Any = None, memory: str | None = None) -> str:
    """Shape, type, layout, size and calibration of a scan, and how a sweep cuts it."""
    import gpu4d
    from gpu4d.streaming.plan import plan

    cube = gpu4d.open(path, dataset=dataset, scan_shape=tuple(scan_shape) if scan_shape else None)
    budget = parse_memory(memory) if memory is not None else parse_memory(Recipe().compute.memory)
    todo = plan(cube, {"mean_pattern": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()}, memory=budget)
    rx, ry, qx, qy = cube.shape
    blocks = "any" if tuple(cube.source.blocks) == (1, 1) else f"{cube.source.blocks[0]}×{cube.source.blocks[1]} positions"
    lines = [
        ("file", str(path)),
        ("dataset", str(cube.metadata.get("dataset") or "the whole file")),
        ("shape", f"{rx}×{ry} scan positions, {qx}×{qy} detector pixels"),
        ("type", f"{cube.dtype}, {format_bytes(itemsize(cube) * qx * qy)} a pattern, {format_bytes(cube.nbytes)} in all"),
        ("layout", f"{cube.source.description}; natural blocks: {blocks}"),
        *(("cut" if i == 0 else "", text) for i, text in enumerate(todo.describe())),
    ]
    lists = gpu4d.BraggDisks.list_bytes((rx, ry), peaks=20)
    lines.append(
        ("", f"lists of 20 Bragg disks a pattern would take {format_bytes(lists)} more: `run` raises its default memory where they must")
    )
    known = [f"{what}: {value} {unit}".rstrip() + f"   [{how}]" for what, value, unit, how in calibration_rows(cube.calibration) if value]
    lines += [
        ("calibration" if i == 0 else "", text) for i, text in enumerate(known or ["nothing is known: give --energy, --semiangle, …"])
    ]
    return "\n".join(f"{name:<12} {text}" for name, text in lines)


def itemsize(cube: Any) -> int:
    return cube.nbytes // max(1, math.prod(cube.shape))


def describe_devices() -> str:
    """CPU threads, memory, and CUDA devices."""
    from gpu4d.device.choose import choose, cpu_threads, cuda_devices

    memory = f"{format_bytes(available_memory())} of memory free, a sweep may take {format_bytes(default_budget())} by default"
    lines = [f"cpu       {cpu_threads()} threads, {memory}"]
    for index in range(cuda_devices()):
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(index)
        free, total = cupy.cuda.Device(index).mem_info
        name = properties["name"].decode() if isinstance(properties["name"], bytes) else properties["name"]
        capability = f"{properties['major']}.{properties['minor']}"
        lines.append(f"cuda:{index}    {name}, compute {capability}, {format_bytes(free)} of {format_bytes(total)} free")
    if len(lines) == 1:
        lines.append("cuda      none (gpu4d[cuda12] or gpu4d[cuda13] installs CuPy)")
    lines.append(f"auto      {choose('auto')}")
    return "\n".join(lines)
