"""Side-band sums on the CPU: one row of scan frequencies at a time stays in cache while the pixels pass by.

Geometry in double precision, spectra as they come. The plain disk without aberrations has real weights and one vectorised loop;
everything else calls the wave where its disk is, and only there.
"""

import numpy as np
from numba import njit

from gpu4d.phase.ssb_sum import OverlapSums, check

_fast = {"reassoc", "contract", "nsz", "arcp"}  # a NaN keeps its meaning


@njit(nogil=True, cache=True, fastmath=_fast)
def _columns_in_reach(row, columns, limit):
    """How many leading columns are needed: behind them |K| stays above the limit."""
    last = 0
    for j in range(columns.shape[0]):
        x, y = row[0] + columns[j, 0], row[1] + columns[j, 1]
        if x * x + y * y < limit * limit:
            last = j + 1
    return last


@njit(nogil=True, cache=True, fastmath=_fast)
def _disk_weighted(spectra, at, rows, columns, reach, overlap, weight):
    n, nx, nk = at.shape[0], rows.shape[0], columns.shape[0]
    re, im, total = np.empty(nk), np.empty(nk), np.empty(nk)
    for i in range(nx):
        last = _columns_in_reach(rows[i], columns, 2 * reach)
        re[:], im[:], total[:] = 0.0, 0.0, 0.0
        for p in range(n):
            x, y = at[p, 0], at[p, 1]
            own = min(max(reach - np.sqrt(x * x + y * y), 0.0), 1.0)
            for j in range(last):
                kx, ky = rows[i, 0] + columns[j, 0], rows[i, 1] + columns[j, 1]
                minus = min(max(reach - np.sqrt((x - kx) * (x - kx) + (y - ky) * (y - ky)), 0.0), 1.0)
                plus = min(max(reach - np.sqrt((x + kx) * (x + kx) + (y + ky) * (y + ky)), 0.0), 1.0)
                gamma = own * (minus - plus)
                re[j] += spectra[p, i, j, 0] * gamma
                im[j] += spectra[p, i, j, 1] * gamma
                total[j] += gamma * gamma
        for j in range(nk):
            overlap[0, i, j] = complex(re[j], im[j])
            weight[0, i, j] = total[j]


@njit(nogil=True, cache=True, fastmath=_fast)
def _disk_exact(spectra, at, rows, columns, reach, overlap, weight):
    n, nx, nk = at.shape[0], rows.shape[0], columns.shape[0]
    sums = np.empty((6, nk))
    for i in range(nx):
        last = _columns_in_reach(rows[i], columns, 2 * reach)
        sums[:] = 0.0
        for p in range(n):
            x, y = at[p, 0], at[p, 1]
            own = min(max(reach - np.sqrt(x * x + y * y), 0.0), 1.0)
            for j in range(last):
                kx, ky = rows[i, 0] + columns[j, 0], rows[i, 1] + columns[j, 1]
                minus = min(max(reach - np.sqrt((x - kx) * (x - kx) + (y - ky) * (y - ky)), 0.0), 1.0)
                plus = min(max(reach - np.sqrt((x + kx) * (x + kx) + (y + ky) * (y + ky)), 0.0), 1.0)
                a = 0.0 if plus > 0 else own * minus
                b = 0.0 if minus > 0 else own * plus
                re, im = spectra[p, i, j, 0], spectra[p, i, j, 1]
                sums[0, j] += re * a
                sums[1, j] += im * a
                sums[2, j] += a
                sums[3, j] += re * b
                sums[4, j] += im * b
                sums[5, j] += b
        for j in range(nk):
            for plane in range(2):
                overlap[plane, i, j] = complex(sums[3 * plane, j], sums[3 * plane + 1, j])
                weight[plane, i, j] = sums[3 * plane + 2, j]


@njit(nogil=True, cache=True, fastmath=_fast)
def _wave(x, y, reach, pupil, center, chi):
    """Ψ₀ at one point; `pupil` of no pixels stands for the disk."""
    if pupil.shape[0] == 0:
        square = x * x + y * y
        if square >= reach * reach:
            return 0j
        value = complex(min(reach - np.sqrt(square), 1.0), 0.0)
    else:
        u, v = x + center[0], y + center[1]
        i, j = int(np.floor(u)), int(np.floor(v))
        value = 0j
        if i < -1 or j < -1 or i >= pupil.shape[0] or j >= pupil.shape[1]:
            return value
        for di in range(2):
            for dj in range(2):
                if 0 <= i + di < pupil.shape[0] and 0 <= j + dj < pupil.shape[1]:
                    wu, wv = u - i if di else 1 - (u - i), v - j if dj else 1 - (v - j)
                    value += wu * wv * pupil[i + di, j + dj]
    degree = chi.shape[0] - 1
    if degree <= 0 or value == 0:
        return value
    turn = 0.0
    for i in range(degree, -1, -1):
        inner = 0.0
        for j in range(degree - i, -1, -1):
            inner = inner * y + chi[i, j]
        turn = turn * x + inner
    return value * complex(np.cos(np.pi * turn), -np.sin(np.pi * turn))


@njit(nogil=True, cache=True, fastmath=_fast)
def _any_wave(spectra, at, rows, columns, reach, pupil, center, chi, exact, overlap, weight):
    n, nx, nk = at.shape[0], rows.shape[0], columns.shape[0]
    own = np.empty(n, np.complex128)
    for p in range(n):
        own[p] = _wave(at[p, 0], at[p, 1], reach, pupil, center, chi)
    for i in range(nx):
        last = _columns_in_reach(rows[i], columns, 2 * reach) if pupil.shape[0] == 0 else nk
        for p in range(n):
            if own[p] == 0:
                continue
            for j in range(last):
                kx, ky = rows[i, 0] + columns[j, 0], rows[i, 1] + columns[j, 1]
                minus = _wave(at[p, 0] - kx, at[p, 1] - ky, reach, pupil, center, chi)
                plus = _wave(at[p, 0] + kx, at[p, 1] + ky, reach, pupil, center, chi)
                a, b = np.conj(own[p]) * minus, own[p] * np.conj(plus)
                g = complex(spectra[p, i, j, 0], spectra[p, i, j, 1])
                if exact:
                    if plus == 0 and minus != 0:
                        overlap[0, i, j] += g * np.conj(a)
                        weight[0, i, j] += abs(a)
                    if minus == 0 and plus != 0:
                        overlap[1, i, j] += g * np.conj(b)
                        weight[1, i, j] += abs(b)
                elif minus != 0 or plus != 0:
                    gamma = a - b
                    overlap[0, i, j] += g * np.conj(gamma)
                    weight[0, i, j] += gamma.real * gamma.real + gamma.imag * gamma.imag


def overlap_sums(spectra, at, rows, columns, /, *, radius, pupil=None, center=(0.0, 0.0), chi=(), mode="weighted"):
    check(spectra, at, rows, columns, pupil, chi, mode)
    at, rows, columns = (np.ascontiguousarray(a, np.float64) for a in (at, rows, columns))
    real = np.float32 if spectra.dtype == np.complex64 else np.float64
    pairs = np.ascontiguousarray(spectra, np.complex64 if real is np.float32 else np.complex128).view(real).reshape(*spectra.shape, 2)
    overlap = np.zeros((2 if mode == "exact" else 1, *spectra.shape[1:]), np.complex128)
    weight = np.zeros(overlap.shape)
    if pupil is None and not chi:
        run = _disk_exact if mode == "exact" else _disk_weighted
        run(pairs, at, rows, columns, radius + 0.5, overlap, weight)
    else:
        array = np.zeros((0, 0), np.complex128) if pupil is None else np.ascontiguousarray(pupil, np.complex128)
        middle = np.array(center, np.float64)
        _any_wave(pairs, at, rows, columns, radius + 0.5, array, middle, coefficients(chi), mode == "exact", overlap, weight)
    return OverlapSums(overlap, weight)


def coefficients(chi):
    """The polynomial as a square table; of no size without aberrations."""
    degree = max((i + j for i, j, _ in chi), default=-1)
    table = np.zeros((degree + 1, degree + 1))
    for i, j, c in chi:
        table[i, j] += c
    return table
