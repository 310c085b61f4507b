"""Launch refine_disks.cu once for all peaks of all patterns. A team of threads takes eight peaks of a pattern."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.bragg.refine import sinc_table
from gpu4d.device import tables
from gpu4d.errors import InputError

FILE = "refine_disks.cu"
THREADS = 128
PEAKS = 8  # this and the next three as in the source
SLOTS = 24
PHASES = 64
TEAM_MEMORY = 16112  # bytes of TeamMemory in map_interpolation.cuh
WIDE = 64  # threads of a team of the wide kernels, as in the source; each takes four columns
TEAMS = 3  # of a block of the wide kernels, at most
LINE = 2 * THREADS + 1


def refine_disks(maps, px, py, count, /, mode="correlation", upsample=16, climb=False):
    n, nx, ny = maps.shape
    most = px.shape[1]
    maps = contiguous(maps.astype(np.float32, copy=False))
    start = [contiguous(a.astype(np.int32, copy=False)) for a in (px, py, count)]
    out = [device.empty((n, most), np.float64) for _ in range(3)]
    size = [np.int32(nx), np.int32(ny), np.int32(most), np.int32(climb)]
    if mode in (None, "parabola"):
        function = device.kernel(FILE, "parabola_peaks")
        call = (maps, *start, *out, np.int64(n * most), *size, np.int32(mode is None))
        device.launch(function, -(-n * most // THREADS), THREADS, call)
        return tuple(out)
    threads, half, splits = columns(ny)
    tables = _tables(nx, ny, PHASES if mode == "correlation" else upsample, maps)
    call = (maps, *start, *tables, *out, *size, np.int32(half), np.int32(splits))
    if mode == "correlation":
        launch_teams("newton_peaks", "newton_peaks_wide", ny, most, call)
    else:
        side = 2 * (-(-3 * upsample // 4) + 1) + 1
        shared = TEAM_MEMORY + 4 * SLOTS * (LINE + side)
        if shared > device.shared_memory():
            raise InputError(f"upsample={upsample} needs {shared} bytes of shared memory, this device has {device.shared_memory()}")
        device.launch(device.kernel(FILE, "window_peaks"), (n, _groups(n, most)), threads, (*call, np.int32(upsample)), shared)
    return tuple(out)


def peak_errors(counts, cross, box, x, y, count, /, grid=False):
    n, nx, ny = cross.shape
    most = x.shape[1]
    counts, cross, box = (contiguous(a.astype(np.float32, copy=False)) for a in (counts, cross, box))
    x, y = (contiguous(a.astype(np.float64, copy=False)) for a in (x, y))
    found = contiguous(count.astype(np.int32, copy=False))
    out = [device.empty((n, most), np.float64) for _ in range(2)]
    _, half, splits = columns(ny)
    sizes = (nx, ny, most, box.shape[1] // 2, box.shape[2] // 2, grid, half, splits)
    call = (counts, cross, box, x, y, found, *_tables(nx, ny, PHASES, cross), *out, *map(np.int32, sizes))
    launch_teams("peak_errors", "peak_errors_wide", ny, most, call)
    return tuple(out)


def launch_teams(narrow, wide, ny, most, call):
    """Launch the kernel for eight peaks a block, or the one for up to 24 if rows fill tiles of 256 columns."""
    n, groups = len(call[0]), max(1, -(-most // PEAKS))
    if ny % (4 * WIDE):
        device.launch(device.kernel(FILE, narrow), (n, _groups(n, groups)), columns(ny)[0], call)
    else:
        teams = min(TEAMS, groups)
        device.launch(device.kernel(FILE, wide), (n, _groups(n, -(-groups // teams))), WIDE * teams, call, TEAM_MEMORY * teams)


def columns(ny):
    """Return the threads of a block, the pairs of columns it takes at a time, and the number of sets that rows are split into."""
    tiles = -(-ny // (2 * THREADS))
    half = -(-ny // (2 * tiles))
    splits = THREADS // half
    return -(-half * splits // 32) * 32, half, splits


def _groups(n, needed):
    """Return the number of blocks for one pattern: one if there are many patterns, more if there are few."""
    return min(needed, max(1, 16 * device.multiprocessors() // max(n, 1)))


def _tables(nx, ny, phases, like):
    def table(n):
        return tables.named(("sinc", n, phases), lambda: sinc_table(n, phases), like)

    return table(nx), table(ny)
