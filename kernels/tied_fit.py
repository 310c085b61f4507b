"""Launch tied_fit.cu once for all patterns: a block takes one after the other, in work memory of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from gpu4d.kernels.joint_fit import half_window
from gpu4d.kernels.pixels import as_bytes, contiguous, kind

from gpu4d import device
from gpu4d.bragg.likelihood.tied_fit import GEOMETRY, GROUND, WORK_BYTES, TiedFit, check
from gpu4d.device.memory import room

FILE = "tied_fit.cu"
THREADS = 256  # as in tied_equations.cuh
RESIDENT = 2  # blocks of a multiprocessor: as the launch bounds say
DISK_WORDS = 5  # of a Disk in tied_equations.cuh, 32 bits each


def tied_fit(patterns, start, orders, pairs, table, pixels, /, mask=None):
    check(patterns, start, orders, pairs)
    n, nx, ny = patterns.shape
    disks, some_pairs, m = orders.shape[0], pairs.shape[1], pixels.shape[0]
    patterns = contiguous(patterns)
    start, orders = (contiguous(a.astype(np.float64, copy=False)) for a in (start, orders))
    pairs, pixels = (contiguous(a.astype(np.int32, copy=False)) for a in (pairs, pixels))
    table = contiguous(table.astype(np.float32, copy=False))
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    shapes = ((n, GEOMETRY), (n, GEOMETRY, GEOMETRY), (n, disks), (n,))
    out = [device.empty(shape, np.float64) for shape in shapes]
    ok = device.empty((n,), np.bool_)
    sizes = work_sizes((nx, ny), disks, some_pairs, m)
    blocks = block_count(n, sizes.nbytes)
    work = {np.float64: sizes.doubles, np.float32: sizes.floats, np.int32: sizes.ints}
    memory = [device.empty((blocks * size,), dtype) for dtype, size in work.items()]
    numbers = map(np.int32, (n, nx, ny, m, table.shape[0] - 1, disks, some_pairs))
    given = (patterns, np.int32(kind(patterns)), start, orders, pairs, valid, table, pixels, *out, ok)
    device.launch(device.kernel(FILE, "tied_fit"), blocks, THREADS, (*given, *memory, *map(np.int64, work.values()), *numbers))
    return TiedFit(out[0], out[1], out[2], out[3], ok)


class WorkSizes(NamedTuple):
    """Work memory of a block: the numbers of its float64, float32 and int32."""

    doubles: int
    floats: int
    ints: int

    @property
    def nbytes(self) -> int:
        """Return the bytes of all three."""
        return 8 * self.doubles + 4 * (self.floats + self.ints)


def work_sizes(detector: tuple[int, int], disks: int, pairs: int, m: int) -> WorkSizes:
    """Return what tied::Area in tied_equations.cuh holds."""
    size, square, count = disks + GROUND + GEOMETRY, (2 * half_window(m) + 1) ** 2, detector[0] * detector[1]
    doubles = 4 * size + 4 * pairs + size * (size + 1) // 2 + (size + 1) * (size + 2) // 2
    floats = (4 + GEOMETRY) * count + disks * square
    return WorkSizes(doubles, floats, DISK_WORDS * disks + square + 2 * size + 1)


def block_count(n: int, nbytes: int) -> int:
    """Return the number of blocks for n patterns: as many as run at once, and fewer where they need too much memory."""
    left = room()
    allowed = WORK_BYTES if left is None else min(WORK_BYTES, left // 2)  # blocks of a pool do not fit each other
    return max(min(n, RESIDENT * device.multiprocessors(), allowed // nbytes), min(n, 1))
