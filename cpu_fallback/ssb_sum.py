"""Compute single-side-band sums (CPU twin): all pixels for one row of scan frequencies, so that the sums of the row stay in the cache.

Geometry is in double precision, spectra keep their own. For a round disk the loops over the frequencies of a row vectorise. Without
aberrations its weights are real. For a pupil array the wave is interpolated point by point.
"""

import numpy as np

from gpu4d.compiled import KEEPS_NAN, contiguous, entry, helper
from gpu4d.ptychography.ssb_sum import SSBSum, check


@helper(KEEPS_NAN)
def _columns_in_reach(row, columns, limit):
    """Return how many leading columns are needed. After them |K| is above the limit."""
    last = 0
    for j in range(columns.shape[0]):
        x, y = row[0] + columns[j, 0], row[1] + columns[j, 1]
        if x * x + y * y < limit * limit:
            last = j + 1
    return last


@entry(KEEPS_NAN, allocates=True)
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


@entry(KEEPS_NAN, allocates=True)
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


@helper(KEEPS_NAN)
def _turned(t):
    """Return cos πt and sin πt to 1e-11, without a branch: Taylor series of the half angle, then the double angle."""
    x = np.pi * (0.5 * t - np.floor(0.5 * t + 0.5))
    q = x * x
    s = 1.0 + q * (
        -1 / 6 + q * (1 / 120 + q * (-1 / 5040 + q * (1 / 362880 + q * (-1 / 39916800 + q * (1 / 6227020800 - q / 1307674368000)))))
    )
    s *= x
    c = -1 / 720 + q * (1 / 40320 + q * (-1 / 3628800 + q * (1 / 479001600 + q * (-1 / 87178291200 + q / 20922789888000))))
    c = 1.0 + q * (-0.5 + q * (1 / 24 + q * c))
    return 1.0 - 2.0 * s * s, 2.0 * s * c


@helper(KEEPS_NAN)
def _polynomial(chi, x, y, first, last, inner, out):
    """Write χ / π of a run of points: Horner in y inside Horner in x, with all points at every step."""
    degree = chi.shape[0] - 1
    out[first:last] = 0.0
    for i in range(degree, -1, -1):
        inner[first:last] = 0.0
        for k in range(degree - i, -1, -1):
            c = chi[i, k]
            for j in range(first, last):
                inner[j] = inner[j] * y[j] + c
        for j in range(first, last):
            out[j] = out[j] * x[j] + inner[j]


@entry(KEEPS_NAN, allocates=True)
def _disk_turned(spectra, at, rows, columns, reach, chi, exact, overlap, weight):
    n, nx, nk = at.shape[0], rows.shape[0], columns.shape[0]
    sums, size, turn, place = np.empty((6, nk)), np.empty((2, nk)), np.empty((2, nk)), np.empty((3, nk))
    inner, own_turn = np.empty(n), np.empty(n)
    _polynomial(chi, at[:, 0].copy(), at[:, 1].copy(), 0, n, inner, own_turn)
    for i in range(nx):
        reached = _columns_in_reach(rows[i], columns, 2 * reach)
        sums[:] = 0.0
        for p in range(n):
            x, y, t = at[p, 0], at[p, 1], own_turn[p]
            own = min(max(reach - np.sqrt(x * x + y * y), 0.0), 1.0)
            first, last = nk, 0
            for side in range(2):
                sign = 2.0 * side - 1.0
                for j in range(reached):
                    u, v = x + sign * (rows[i, 0] + columns[j, 0]), y + sign * (rows[i, 1] + columns[j, 1])
                    size[side, j] = own * min(max(reach - np.sqrt(u * u + v * v), 0.0), 1.0)
            for j in range(reached):
                if size[0, j] + size[1, j] > 0:
                    first, last = min(first, j), j + 1
            for side in range(2):
                sign = 2.0 * side - 1.0
                for j in range(first, last):
                    place[0, j], place[1, j] = x + sign * (rows[i, 0] + columns[j, 0]), y + sign * (rows[i, 1] + columns[j, 1])
                _polynomial(chi, place[0], place[1], first, last, place[2], turn[side])
            for j in range(first, last):
                re, im, a, b = spectra[p, i, j, 0], spectra[p, i, j, 1], size[0, j], size[1, j]
                c, s = _turned(t - turn[0, j])  # A = a e^(iπ(t - t₋)), B = b e^(-iπ(t - t₊))
                d, e = _turned(t - turn[1, j])
                if exact:
                    a, b = (0.0 if size[1, j] > 0 else a), (0.0 if size[0, j] > 0 else b)
                    sums[0, j] += a * (re * c + im * s)
                    sums[1, j] += a * (im * c - re * s)
                    sums[2, j] += a
                    sums[3, j] += b * (re * d - im * e)
                    sums[4, j] += b * (im * d + re * e)
                    sums[5, j] += b
                else:
                    gr, gi = a * c - b * d, a * s + b * e
                    sums[0, j] += re * gr + im * gi
                    sums[1, j] += im * gr - re * gi
                    sums[2, j] += gr * gr + gi * gi
        for j in range(nk):
            for plane in range(overlap.shape[0]):
                overlap[plane, i, j] = complex(sums[3 * plane, j], sums[3 * plane + 1, j])
                weight[plane, i, j] = sums[3 * plane + 2, j]


@helper(KEEPS_NAN)
def _wave(x, y, pupil, center, chi):
    """Return Ψ₀ at one point, by bilinear interpolation."""
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
    if chi.shape[0] == 0 or value == 0:
        return value
    turn = 0.0
    for i in range(chi.shape[0] - 1, -1, -1):
        inner = 0.0
        for j in range(chi.shape[0] - 1 - i, -1, -1):
            inner = inner * y + chi[i, j]
        turn = turn * x + inner
    return value * complex(np.cos(np.pi * turn), -np.sin(np.pi * turn))


@entry(KEEPS_NAN, allocates=True)
def _array(spectra, at, rows, columns, pupil, center, chi, exact, overlap, weight):
    n, nx, nk = at.shape[0], rows.shape[0], columns.shape[0]
    own = np.empty(n, np.complex128)
    for p in range(n):
        own[p] = _wave(at[p, 0], at[p, 1], pupil, center, chi)
    for i in range(nx):
        for p in range(n):
            if own[p] == 0:
                continue
            for j in range(nk):
                kx, ky = rows[i, 0] + columns[j, 0], rows[i, 1] + columns[j, 1]
                minus = _wave(at[p, 0] - kx, at[p, 1] - ky, pupil, center, chi)
                plus = _wave(at[p, 0] + kx, at[p, 1] + ky, pupil, center, chi)
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


def ssb_sum(spectra, at, rows, columns, /, *, radius, pupil=None, center=(0.0, 0.0), chi=(), mode="weighted"):
    check(spectra, at, rows, columns, pupil, chi, mode)
    at, rows, columns = (contiguous(a, np.float64) for a in (at, rows, columns))
    single = spectra.dtype == np.complex64
    pairs = contiguous(spectra, np.complex64 if single else np.complex128)
    pairs = pairs.view(np.float32 if single else np.float64).reshape(*spectra.shape, 2)
    overlap = np.zeros((2 if mode == "exact" else 1, *spectra.shape[1:]), np.complex128)
    weight = np.zeros(overlap.shape)
    out = (overlap, weight)
    if pupil is not None:
        array = contiguous(pupil, np.complex128)
        _array(pairs, at, rows, columns, array, np.array(center, np.float64), _table(chi), mode == "exact", *out)
    elif chi:
        _disk_turned(pairs, at, rows, columns, radius + 0.5, _table(chi), mode == "exact", *out)
    else:
        run = _disk_exact if mode == "exact" else _disk_weighted
        run(pairs, at, rows, columns, radius + 0.5, *out)
    return SSBSum(overlap, weight)


def _table(chi):
    """Return the polynomial as a square table, of size 0 without aberrations."""
    degree = max((i + j for i, j, _ in chi), default=-1)
    table = np.zeros((degree + 1, degree + 1))
    for i, j, c in chi:
        table[i, j] += c
    return table
