"""Plan the memory of a reconstruction before it begins, and say how long it will take."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import Any

import numpy as np

from gpu4d.data.datacube import DataCube, itemsize
from gpu4d.device.choose import cpu_threads
from gpu4d.device.memory import parse_memory
from gpu4d.errors import MemoryBudgetError
from gpu4d.ptychography.iterative.state import State
from gpu4d.ptychography.iterative.sweeps import GROUP_BYTES, Sweeps
from gpu4d.sizes import format_bytes
from gpu4d.streaming.place import on_host, processors_for

log = logging.getLogger("gpu4d")

WAVES = 12  # arrays of the size of a group's waves in all slices that are alive at once
PLANES = 6  # of the object: itself, its momentum, its step, and sums
REHEARSED = 64  # positions whose time is measured


def check_memory(
    cube: DataCube, patterns: int, planes: tuple[int, ...], probes: tuple[int, ...], complex_bytes: int, **options: Any
) -> str:
    """Return a sentence on the memory that a reconstruction takes.

    Parameters
    ----------
    cube : DataCube
    patterns : int
    planes, probes : (S, X, Y), (M, N, N)
        Shapes of object and probes.
    complex_bytes : int
        Of a complex number.
    **options
        device, memory, and batch: positions of a step.

    Raises
    ------
    MemoryBudgetError
        What is asked, free and allowed.
    """
    device, memory = options.get("device", "auto"), options.get("memory")
    processor, in_place = processors_for(cube, device)
    one = processor[0]
    free = one.free_memory()
    cap = parse_memory(memory) if isinstance(memory, int | float | str) else free // 2
    held = 0 if in_place else patterns * math.prod(cube.detector_shape) * itemsize(cube.dtype)
    group = GROUP_BYTES["host" if on_host(cube) and not one.copies else "device"]
    at_once = cpu_threads() if not one.copies else 1
    one_position = math.prod(probes) * complex_bytes * planes[0]
    waves = min(max(group, one_position), patterns * one_position, options["batch"] * one_position) * WAVES * at_once
    asked = held + PLANES * math.prod(planes) * complex_bytes + waves
    if asked > min(cap, free):
        size = "×".join(map(str, cube.detector_shape))
        raise MemoryBudgetError(f"iterative ptychography of {patterns} patterns of {size} {cube.dtype} on {one.name}", asked, free, cap)
    return f"memory: {format_bytes(asked)} of {format_bytes(cap)} allowed and {format_bytes(free)} free, on {one.name}"


def estimate(run: Sweeps, state: State, sweeps: int) -> float:
    """Return the seconds that so many sweeps will take, by a rehearsal with a few positions whose results are dropped."""
    index = np.arange(min(REHEARSED, len(run.nominal)))
    for _ in range(2):  # the first one also compiles and plans
        copy = dataclasses.replace(state, losses=list(state.losses))
        begin = time.perf_counter()
        run.step(copy, index, True)
        seconds = time.perf_counter() - begin
    corrected = 0 if run.settings.positions_from is None else max(0, sweeps - run.settings.positions_from)
    return seconds * len(run.nominal) / len(index) * (sweeps + corrected)
