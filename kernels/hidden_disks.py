"""Launch hidden_disks.cu: one block for each pattern, in shared memory where the device has enough of it."""

from __future__ import annotations

from math import isqrt

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, suffix

from gpu4d import device
from gpu4d.bragg.likelihood.hidden_disks import MOST_HIDDEN, Cells, Hidden, cells_of
from gpu4d.device import tables

FILE = "hidden_disks.cu"
THREADS = 128
STATIC = 2048  # bytes of shared memory that a block has beside its dynamic one, at most: `Scratch`, and what the device reserves
RESIDENT = 16  # blocks for every multiprocessor where they work in global memory


def hidden_disks(patterns, x, y, amplitude, state, around, table, pixels, allowed, /, mask=None, radius=1.0, least=5.0):
    n, nx, ny = patterns.shape
    most, m = x.shape[1], pixels.shape[0]
    patterns = contiguous(patterns)
    disks = [contiguous(a.astype(np.float64, copy=False)) for a in (x, y, amplitude)]
    state, around = contiguous(state.astype(np.uint8, copy=False)), contiguous(around.astype(np.int32, copy=False))
    table, pixels = contiguous(table.astype(np.float32, copy=False)), contiguous(pixels.astype(np.int32, copy=False))
    valid, inside = np.uint64(0) if mask is None else as_bytes(mask), as_bytes(allowed)
    cells = cells_of(float(radius))
    cover = tables.named(("cover of cells", float(radius)), lambda: cells.cover, patterns)
    count, places = device.empty((n,), np.int64), device.empty((2, n, MOST_HIDDEN), np.float64)
    shared, grid, area = work_bytes(cells, most, m), n, np.uint64(0)
    if shared > device.shared_memory() - STATIC:
        grid = min(n, RESIDENT * device.multiprocessors())
        area, shared = device.empty((grid, shared), np.uint8), 0
    sizes = (most, nx, ny, m, table.shape[0] - 1, rows_of(m), cells.size, cells.half, cells.cover.shape[0] // 2)
    search = (*map(np.int32, sizes), np.float64(radius), np.float64(least))
    kind = suffix(patterns)
    function = device.kernel(FILE, f"hidden_disks_{kind}", f"PIXEL={kind}")
    arrays = (patterns, *disks, state, around, valid, inside, table, pixels, cover, count, places, area)
    device.launch(function, grid, THREADS, (*arrays, np.int64(n), *search), shared)
    return Hidden(count, places[0], places[1])


def work_bytes(cells: Cells, most: int, m: int) -> int:
    """Return the bytes of memory that a block needs for `most` disks with windows of m pixels, as `hidden::work_bytes`."""
    return -(-(32 * most + 25 * cells.side**2 + 4 * (2 * rows_of(m) + 1)) // 16) * 16


def rows_of(m: int) -> int:
    """Return the most rows that a round window of m pixels can have: with 2 h + 1 rows it holds the 2 h² + 2 h + 1 pixels of a diamond."""
    return isqrt(2 * m - 1)
