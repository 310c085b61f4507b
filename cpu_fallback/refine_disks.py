"""The refinement of the twin of `find_disks`, for maps from elsewhere: exact steps d(x) · C · d(y), float32."""

import numpy as np
from gpu4d.cpu_fallback.find_disks import MODES, PHASES, _errors, _refine
from numba import njit

from gpu4d.bragg.refine import sinc_table


def refine_peaks(maps, px, py, count, /, mode="correlation", upsample=16, climb=False):
    maps = np.ascontiguousarray(maps, np.float32)
    table = np.full((maps.shape[0], 5, px.shape[1]), np.nan)
    sinc = [sinc_table(n, PHASES) for n in maps.shape[1:]]
    fine = [sinc_table(n, upsample) for n in maps.shape[1:]] if mode == "upsample" else sinc
    sums = np.empty((3, maps.shape[2]), np.float32)
    _refine_all(maps, px, py, count, MODES[mode], climb, *sinc, *fine, upsample, table, sums)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()


def peak_errors(counts, cross, box, x, y, count, /, grid=False):
    counts, cross, box = (np.ascontiguousarray(a, np.float32) for a in (counts, cross, box))
    table = np.full((cross.shape[0], 5, x.shape[1]), np.nan)
    table[:, 0], table[:, 1] = x, y
    reach = np.array([box.shape[1] // 2, box.shape[2] // 2])
    sums = np.empty((3, cross.shape[2]), np.float32)
    sinc = [sinc_table(n, PHASES) for n in cross.shape[1:]]
    _errors_all(np.where(counts > 0, counts, np.float32(0)), cross, box, reach, count, grid, *sinc, table, sums)
    return table[:, 3].copy(), table[:, 4].copy()


@njit(nogil=True, cache=True)
def _refine_all(maps, px, py, count, mode, climb, tx, ty, fx, fy, upsample, table, sums):
    n, nx, ny = maps.shape
    for i in range(n):
        for k in range(min(count[i], px.shape[1])):
            if mode == 0:
                table[i, 0, k], table[i, 1, k], table[i, 2, k] = px[i, k], py[i, k], maps[i, px[i, k] % nx, py[i, k] % ny]
            else:
                _refine(maps[i], int(px[i, k]), int(py[i, k]), mode, climb, tx, ty, fx, fy, upsample, table[i], k, sums)


@njit(nogil=True, cache=True)
def _errors_all(counts, cross, box, reach, count, grid, tx, ty, table, sums):
    for i in range(cross.shape[0]):
        for k in range(min(count[i], table.shape[2])):
            _errors(counts[i], cross[i], box, reach, grid, tx, ty, table[i], k, sums)
