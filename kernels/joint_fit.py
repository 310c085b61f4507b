"""Launch joint_fit.cu once for all patterns: a block takes one after the other, in work memory of its own."""

from __future__ import annotations

from math import isqrt
from typing import Any, NamedTuple

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, kind

from gpu4d import device
from gpu4d.bragg.likelihood.joint_fit import JointFit, nodes_apart
from gpu4d.bragg.likelihood.poisson_fit import steps_of
from gpu4d.device.memory import room

FILE = "joint_fit.cu"
THREADS, WARPS = 128, 4  # as in joint_equations.cuh
KERNELS = {4: "joint_fit_3", 6: "joint_fit_3", 8: "joint_fit_5"}
ROWS = {4: 3, 6: 3, 8: 5}  # parameters of a disk; the others are nodes of the background
RESIDENT = {3: 4, 5: 3}  # blocks of a multiprocessor, by the parameters of a disk: as the launch bounds say
WORK_BYTES = 256 << 20  # of all blocks: fewer blocks share it where groups may be long
DISK_WORDS = 9  # of a Disk in joint_equations.cuh, 32 bits each


def joint_fit(patterns, x, y, height, role, table, pixels, /, mask=None, parameters=6, spacing=0.0, shadow=0.0, significance=0.0):
    steps_of(parameters)
    n, nx, ny = patterns.shape
    most, m = x.shape[1], pixels.shape[0]
    patterns = contiguous(patterns)
    disks = [contiguous(a.astype(np.float64, copy=False)) for a in (x, y, height)]
    role, pixels = (contiguous(a.astype(np.int32, copy=False)) for a in (role, pixels))
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    table = contiguous(table.astype(np.float32, copy=False))
    out = device.empty((8, n, most), np.float64)
    ok, gone = (device.empty((n, most), np.bool_) for _ in range(2))
    rows = ROWS[parameters]
    sizes = work_sizes((nx, ny), most, m, rows, max(spacing, shadow))
    blocks = block_count(n, sizes.nbytes, rows)
    numbers = map(np.int32, (n, nx, ny, most, m, table.shape[0] - 1, sizes.nodes, parameters == 4))
    limits = map(np.float64, (spacing, shadow, significance))
    given = (patterns, np.int32(kind(patterns)), *disks, role, valid, table, pixels, out, ok, gone)
    function = device.kernel(FILE, KERNELS[parameters], f"PER_DISK={rows}")
    device.launch(function, blocks, THREADS, (*given, *work_memory(sizes, blocks), *numbers, *limits))
    return JointFit._make([*out, ok, gone])


class WorkSizes(NamedTuple):
    """Work memory of a block: the numbers of its float64, float32 and int32, and the most nodes of the background."""

    doubles: int
    floats: int
    ints: int
    nodes: int

    @property
    def nbytes(self) -> int:
        """Return the bytes of all three."""
        return 8 * self.doubles + 4 * (self.floats + self.ints)


def work_sizes(detector: tuple[int, int], most: int, m: int, rows: int, far: float) -> WorkSizes:
    """Return what joint::Area in joint_equations.cuh holds for groups of up to `most` disks, each up to `far` from the next one."""
    half = half_window(m)
    longest = (most - 1) * far + 2 * half + 1
    along = [int(min(side - 1, longest) / nodes_apart(half)) + 3 for side in detector]
    nodes = along[0] * along[1]
    size = most * rows + nodes
    doubles = 14 * most + nodes + size + 3 * WARPS * size + (size + 1) * (size + 2) // 2
    return WorkSizes(doubles, 2 * most * m, (DISK_WORDS + 4) * most + size + 1 + 2 * (2 * half + 2), nodes)


def half_window(m: int) -> int:
    """Return the whole pixels of the radius of a round window that has m pixels."""
    half = isqrt(m)
    while sum(2 * isqrt(half * half - i * i) + 1 for i in range(-half, half + 1)) > m:
        half -= 1
    return half


def block_count(n: int, nbytes: int, rows: int) -> int:
    """Return the number of blocks for n patterns: as many as run at once, and fewer where they need too much memory."""
    left = room()
    allowed = WORK_BYTES if left is None else min(WORK_BYTES, left // 2)  # blocks of a pool do not fit each other
    return max(min(n, RESIDENT[rows] * device.multiprocessors(), allowed // nbytes), min(n, 1))


def work_memory(sizes: WorkSizes, blocks: int) -> tuple[Any, ...]:
    """Return the arrays of so many blocks, and how much of each one block has."""
    some = {np.float64: sizes.doubles, np.float32: sizes.floats, np.int32: sizes.ints}
    return (*(device.empty((blocks * size,), dtype) for dtype, size in some.items()), *map(np.int64, some.values()))
