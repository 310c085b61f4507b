"""Launch separate_disks.cu once: a block takes a pattern through all joint fits and searches for hidden disks."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.hidden_disks import rows_of, work_bytes
from gpu4d.kernels.joint_fit import ROWS, THREADS, block_count, work_memory, work_sizes
from gpu4d.kernels.pixels import as_bytes, contiguous, kind

from gpu4d import device
from gpu4d.bragg.likelihood.hidden_disks import cells_of
from gpu4d.bragg.likelihood.poisson_fit import steps_of
from gpu4d.bragg.likelihood.separate_disks import LEAST_PLACE, SHADOW, Separated
from gpu4d.device import tables

FILE = "separate_disks.cu"
KERNELS = {3: "separate_disks_3", 5: "separate_disks_5"}
DOUBLES, INTS = 11, 2  # for each place: of Lists in separate_disks.cu
STATIC = 4096  # bytes of shared memory that a block has beside its dynamic one, at most: `Block`, and what the device reserves


def separate_disks(
    patterns,
    count,
    height,
    x,
    y,
    amplitude,
    xx,
    yy,
    ok,
    table,
    pixels,
    allowed,
    /,
    mask=None,
    parameters=6,
    radius=1.0,
    spacing=0.0,
    significance=5.0,
):
    steps_of(parameters)
    n, nx, ny = patterns.shape
    most, m, rows = height.shape[1], pixels.shape[0], ROWS[parameters]
    patterns, count = contiguous(patterns), contiguous(count.astype(np.int64, copy=False))
    disks = [contiguous(a.astype(np.float64, copy=False)) for a in (height, x, y, amplitude, xx, yy)]
    table, pixels = contiguous(table.astype(np.float32, copy=False)), contiguous(pixels.astype(np.int32, copy=False))
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    cells = cells_of(float(radius))
    cover = tables.named(("cover of cells", float(radius)), lambda: cells.cover, patterns)
    out, flags = device.empty((5, n, most), np.float64), device.empty((3, n, most), np.bool_)
    sizes = work_sizes((nx, ny), most, m, rows, max(spacing, SHADOW * radius))
    sizes = sizes._replace(doubles=sizes.doubles + DOUBLES * most, ints=sizes.ints + INTS * most)
    shared, memory = work_bytes(cells, most, m), np.uint64(0)
    fits = shared <= device.shared_memory() - STATIC
    blocks = block_count(n, sizes.nbytes + (0 if fits else shared), rows)
    if not fits:
        memory, shared = device.empty((blocks * shared,), np.uint8), 0
    given = (patterns, np.int32(kind(patterns)), count, *disks, as_bytes(ok), valid, as_bytes(allowed), table, pixels, cover)
    of_search = (rows_of(m), cells.size, cells.half, cells.cover.shape[0] // 2)
    numbers = (n, nx, ny, most, m, table.shape[0] - 1, sizes.nodes, parameters == 4, *of_search)
    limits = (spacing, significance, radius, LEAST_PLACE * significance)
    call = (*given, out, flags, memory, *work_memory(sizes, blocks), *map(np.int32, numbers), *map(np.float64, limits))
    device.launch(device.kernel(FILE, KERNELS[rows], f"PER_DISK={rows}"), blocks, THREADS, call, shared)
    return Separated._make([flags[0], *out, flags[1], flags[2]])
