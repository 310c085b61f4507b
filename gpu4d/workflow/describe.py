"""Write the texts of `gpu4d info` and `gpu4d devices`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.device.choose import auto, why_no_cuda
from gpu4d.device.listing import DeviceInfo, devices
from gpu4d.device.memory import default_budget, parse_memory
from gpu4d.io.foreign import shown
from gpu4d.io.raw_layout import RawLayout
from gpu4d.io.timing import ScanTiming
from gpu4d.sizes import format_bytes
from gpu4d.streaming.plan import Plan, plan
from gpu4d.workflow.read_rate import read_rate
from gpu4d.workflow.rechunk import rechunking
from gpu4d.workflow.recipe import Recipe
from gpu4d.workflow.report.report import calibration_rows

SMALLEST_SCAN = 8  # positions along an axis, for a phase
ASKED = {  # fields of the calibration that an operator knows -> what they are good for
    "energy": "with the semi-angle, it gives the pixel of the detector",
    "semiangle": "with the energy, it gives the pixel of the detector, which a phase in rad needs",
    "r_pixel": "gives maps a scale in Å",
}
LISTED = 12  # shapes of a scan


def describe_file(
    path: str | Path,
    dataset: str | None = None,
    scan_shape: Any = None,
    memory: str | None = None,
    device: Any = "auto",
    with_plan: bool = False,
    layout: RawLayout | None = None,
    timing: ScanTiming | None = None,
) -> str:
    """Describe a scan: what it is, what is known and what is missing, and the command that analyses it.

    Parameters
    ----------
    path, dataset, scan_shape
        As for `gpu4d.open`.
    memory, device
        As for `gpu4d.sweep`. The default memory is that of a recipe.
    with_plan : bool
        Describe also how a pass over the scan will be divided, and measure how long it takes at least.
    layout : RawLayout, optional
        Of a file of plain numbers.
    timing : ScanTiming, optional
        Of a file of events.

    Raises
    ------
    InputError, DeviceError
        No such scan, no such device.
    MemoryBudgetError
        The memory is too small. The error says how much is needed, free and allowed.
    """
    import gpu4d

    shape = tuple(scan_shape) if scan_shape else None
    cube = gpu4d.open(path, dataset=dataset, scan_shape=shape, layout=layout, timing=timing)
    budget = parse_memory(memory) if memory is not None else parse_memory(Recipe().compute.memory)
    todo = plan(cube, {"mean_pattern": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()}, device=device, memory=budget)
    rx, ry, qx, qy = cube.shape
    inside = cube.metadata.get("dataset")
    known = [f"{what}: {value} {unit}".rstrip() + f"   [{how}]" for what, value, unit, how in calibration_rows(cube.calibration) if value]
    missing = [field for field in ASKED if getattr(cube.calibration, field) is None]
    said = {
        "file": [shown(f"{path}, dataset {inside}" if inside else str(path))],
        "scan": [
            f"{rx}×{ry} scan positions, {qx}×{qy} detector pixels, {cube.dtype}",
            f"{format_bytes(itemsize(cube.dtype) * qx * qy)} a pattern, {format_bytes(cube.nbytes)} in all; {cube.source.description}",
        ],
        "analysis": [
            "gpu4d can analyse it" + ("" if min(rx, ry) >= SMALLEST_SCAN else f"; for a phase it has too few positions ({rx}×{ry})")
        ],
        "known": known or ["nothing: the file has no calibration that gpu4d reads"],
        "missing": [f"--{field.replace('_', '-')}: {ASKED[field]}" for field in missing] or ["nothing"],
        "chunks": rechunking(cube, todo, path, dataset, scan_shape),
        "command": [_command(path, dataset, scan_shape, layout, timing, missing)],
    }
    if missing:
        said["command"].append("Put in the values of your experiment. If you leave flags out, results are in pixels")
    if with_plan:
        lists = format_bytes(gpu4d.BraggDisks.list_bytes((rx, ry), peaks=20))
        more = f"lists of 20 Bragg disks a pattern would take {lists} more: `run` raises its default memory if needed"
        said |= {"plan": todo.describe(), "time": _expected(cube, todo), "memory": [more]}
    return "\n".join(f"{name if i == 0 else '':<10} {line}" for name, lines in said.items() for i, line in enumerate(lines))


def describe_shapes(path: str | Path, dataset: str | None = None, layout: RawLayout | None = None, timing: ScanTiming | None = None) -> str:
    """List the shapes that the frames of a file may have as a scan, with the evidence for each, and the command that uses the best.

    Raises
    ------
    InputError
        No such scan.
    """
    import gpu4d

    found = gpu4d.preprocess.scan_shapes(gpu4d.open(path, dataset=dataset, scan_shape="frames", layout=layout, timing=timing))
    lines = [f"{found.frames} frames, {found.why}"]
    lines += [f"{'fits: ' if found.clear and i == 0 else 'may fit: '}{shape}" for i, shape in enumerate(found.candidates[:LISTED])]
    if not found.clear:
        return "\n".join([*lines, "the frames alone do not tell: give --scan-shape Rx,Ry from your notes"])
    best = found.candidates[0]
    shape = 'input.flyback_at = "start" in a recipe with ' if best.flyback and best.flyback_at == "start" else ""
    flyback = f" --flyback {best.flyback}" if best.flyback else ""
    return "\n".join([*lines, f"use it with {shape}--scan-shape {best.scan_shape[0]},{best.scan_shape[1]}{flyback}"])


def _command(
    path: str | Path,
    dataset: str | None,
    scan_shape: Any,
    layout: RawLayout | None,
    timing: ScanTiming | None,
    missing: Sequence[str],
) -> str:
    """Return the command line that analyses the scan, with a word for each value that is missing."""
    words = ["gpu4d", "run", str(path)]
    words += [] if dataset is None else ["--dataset", dataset]
    words += [] if not scan_shape else ["--scan-shape", ",".join(map(str, scan_shape))]
    if layout is not None:
        words += ["--shape", ",".join(map(str, layout.detector_shape)), "--dtype", np.dtype(layout.dtype).str]
        words += [f"--{name}={getattr(layout, name)}" for name in ("offset", "gap") if getattr(layout, name)]
    if timing is not None:
        said = {"dwell": timing.dwell, "trigger": timing.starts, "pause": timing.flyback}
        words += [f"--{name}={value}" for name, value in said.items() if value]
    flags = [f"--{field.replace('_', '-')} {FIELDS[field].given.flag}" for field in missing]  # type: ignore[union-attr]
    return " ".join([shlex.join(words), *flags])


def _expected(cube: DataCube, todo: Plan) -> list[str]:
    """Estimate how long reading and copying take in the passes of a plan, from the measured rate of a few tiles."""
    rate, tiles = read_rate(cube, todo)
    reading = f"reading at {format_bytes(rate)}/s (measured on {tiles} tile{'s' * (tiles > 1)}, some may come from the page cache)"
    link = f"the link at {format_bytes(todo.link_rate)}/s (nominal)" if todo.link_rate else ""
    slower, faster = (reading, link) if not link or todo.bytes_read / rate >= todo.seconds(rate) else (link, reading)
    took = todo.seconds(rate)
    least = f"{took:.2g} s" if took < 60 else f"{took / 60:.2g} min" if took < 3600 else f"{took / 3600:.2g} h"
    return [
        f"{format_bytes(todo.bytes_read)} to read, at least {least}: {slower}" + (f" is slower than {faster}" if faster else ""),
        "if computing is slower, a pass takes as long as computing",
    ]


def describe_devices() -> str:
    """Describe the CPU and every CUDA device in a line, and what "auto" takes. It needs no GPU, driver or CuPy, and no CUDA context."""
    found = devices()
    table = [_cpu_cells(found[0]), *(_card_cells(info) for info in found[1:])]
    widths = [max((len(row[i]) for row in table if len(row) > i + 1), default=0) for i in range(max(map(len, table)))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip() for row in table]
    if len(found) == 1:
        lines.append(f"cuda    none: {why_no_cuda()}")
    for note in dict.fromkeys(info.note for info in found if info.note):
        lines.append(f"note    {', '.join(info.name for info in found if info.note == note)}: {note}")
    chosen, why = auto()
    lines.append(f"auto    {chosen}" + f": {why}" * (len(found) > 1))
    return "\n".join(lines)


def _cpu_cells(cpu: DeviceInfo) -> list[str]:
    budget = f"a sweep takes {format_bytes(default_budget())} by default"
    return [f"{cpu.name:<6}", cpu.model, f"{cpu.threads} threads", _free_memory(cpu), budget]


def _card_cells(card: DeviceInfo) -> list[str]:
    """Return name, model, compute capability, memory, its bandwidth, link, load. "?" marks unknown values."""
    capability = ".".join(map(str, card.compute_capability)) if card.compute_capability else "?"
    bandwidth = f"{format_bytes(card.memory_bandwidth)}/s" if card.memory_bandwidth else "? bandwidth"
    link = "? link"
    if best := card.max_link or card.link:
        link = f"PCIe {best.generation}.0 x{best.width}, {format_bytes(best.rate)}/s"
        if card.link and card.link != best:
            link += f" (now {card.link.generation}.0 x{card.link.width})"
    load = "load ?" if card.load is None else f"load {card.load:.0f} %"
    if card.processes:
        load += f", {card.processes} process{'es' * (card.processes > 1)}"
    return [f"{card.name:<6}", card.model, f"compute {capability}", _free_memory(card), bandwidth, link, load]


def _free_memory(info: DeviceInfo) -> str:
    free, total = (format_bytes(size) if size is not None else "?" for size in (info.free, info.total))
    return f"{free} of {total} free"
