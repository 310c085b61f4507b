"""Real planes to half-plane spectra and back, in compiled code that holds no lock: float32, any size.

Thirty-two real columns are one transform along x: sixteen lanes of a complex vector, the real part one column, the imaginary part
its neighbour. Of the result the frequencies 0 … nx/2 are kept; sixteen of them are the lanes of the transform along y, where
spectra are multiplied while they lie in the innermost cache. 128 × 128 forward and back take about 25 µs.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.lanes import LANES, join_pair, prime_pass, short_pass, split_pair, transpose
from numba import njit

PAIR = 2 * LANES  # columns of one transform; rows of planes are padded to whole pairs

_jit = njit(nogil=True, cache=True, fastmath=True)


class Line(NamedTuple):
    """Passes of the transform of n points."""

    n: int
    passes: np.ndarray  # (passes, 5) int64: radix, m, s, and where its twiddles and waves begin
    tables: np.ndarray  # float32: twiddles (m, radix - 1, 2); waves of long primes


class Room(NamedTuple):
    """Scratch of one thread."""

    panels: np.ndarray  # (4, 2, longest side · 16) float32: source, result, and two between passes
    folded: np.ndarray  # for long primes


@lru_cache(maxsize=16)
def line(n: int) -> Line:
    """The plan of a line: eights, fours, small primes, then long ones."""
    radices, rest = [], n
    while rest % 8 == 0 and rest != 16:
        radices.append(8)
        rest //= 8
    for radix in (4, 2, 3, 5, 7):
        while rest % radix == 0:
            radices.append(radix)
            rest //= radix
    prime = 11
    while rest > 1:
        while rest % prime == 0:
            radices.append(prime)
            rest //= prime
        prime += 2
    radices = radices or [1]
    passes, tables, at, m, s = [], [], 0, n, 1
    for radix in radices:
        m //= radix
        passes.append((radix, m, s, at, 0))
        turns = np.exp(-2j * np.pi * np.outer(np.arange(m), np.arange(1, radix)) / (radix * m))
        tables.append(turns)
        at += 2 * turns.size
        if radix > 8:
            half = radix // 2
            passes[-1] = (*passes[-1][:4], at)
            tables.append(np.exp(2j * np.pi * (np.outer(np.arange(half + 1), np.arange(1, half + 1)) % radix) / radix))
            at += 2 * tables[-1].size
        s *= radix
    floats = np.concatenate([np.stack([t.real.ravel(), t.imag.ravel()], -1).ravel() for t in tables])
    return Line(n, np.array(passes, np.int64), floats.astype(np.float32))


def padded(n: int) -> int:
    """Floats of a row of n pixels."""
    return -(-n // PAIR) * PAIR


def half_rows(nx: int) -> int:
    """Rows of a half spectrum, to whole panels."""
    return -(-(nx // 2 + 1) // LANES) * LANES


def room(nx: int, ny: int) -> Room:
    longest = max(nx, padded(ny))
    return Room(np.zeros((4, 2, longest * LANES), np.float32), np.zeros(2 * longest * LANES, np.float32))


def panels_of(half_plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A half plane (nx, ny // 2 + 1) of `rfft2` in the order spectra have here: (2, panels, ny, 16), kx the lanes."""
    nx, ny = shape
    full = np.zeros((half_rows(nx), ny), np.complex128)
    kept = nx // 2 + 1
    full[:kept, : ny // 2 + 1] = half_plane[:kept]
    ky = np.arange(ny // 2 + 1, ny)
    full[:kept, ky] = np.conj(half_plane[-np.arange(kept)[:, None], ny - ky])
    split = full.reshape(-1, LANES, ny).transpose(0, 2, 1)
    return np.ascontiguousarray(np.stack([split.real, split.imag]), np.float32)


@_jit
def transform_line(plan, xr, xi, xs, yr, yi, ys, room):
    """Sixteen transforms from x to y, given as addresses with points `xs` and `ys` floats apart; x may be y."""
    last = plan.passes.shape[0] - 1
    tables = plan.tables.ctypes.data
    for number in range(last + 1):
        radix, m, s = plan.passes[number, 0], plan.passes[number, 1], plan.passes[number, 2]
        to = 2 + number % 2
        zr, zi, zs = room.panels[to, 0].ctypes.data, room.panels[to, 1].ctypes.data, LANES
        if number == last:
            zr, zi, zs = yr, yi, ys
        twiddles = tables + 4 * plan.passes[number, 3]
        if radix > 8:
            waves = tables + 4 * plan.passes[number, 4]
            prime_pass(radix, xr, xi, xs, zr, zi, zs, m, s, twiddles, waves, room.folded.ctypes.data)
        else:
            _short(radix, xr, xi, xs, zr, zi, zs, m, s, twiddles)
        xr, xi, xs = zr, zi, zs


@_jit
def _short(radix, xr, xi, xs, yr, yi, ys, m, s, twiddles):
    if radix == 8:
        if m == 1:
            short_pass(8, 1, xr, xi, xs, yr, yi, ys, m, s, twiddles)
        else:
            short_pass(8, 0, xr, xi, xs, yr, yi, ys, m, s, twiddles)
    elif radix == 4:
        if m == 1:
            short_pass(4, 1, xr, xi, xs, yr, yi, ys, m, s, twiddles)
        else:
            short_pass(4, 0, xr, xi, xs, yr, yi, ys, m, s, twiddles)
    elif radix == 2:
        short_pass(2, 0, xr, xi, xs, yr, yi, ys, m, s, twiddles)
    elif radix == 3:
        short_pass(3, 0, xr, xi, xs, yr, yi, ys, m, s, twiddles)
    elif radix == 5:
        short_pass(5, 0, xr, xi, xs, yr, yi, ys, m, s, twiddles)
    elif radix == 7:
        short_pass(7, 0, xr, xi, xs, yr, yi, ys, m, s, twiddles)
    else:
        short_pass(1, 1, xr, xi, xs, yr, yi, ys, m, s, twiddles)


@_jit
def columns_forward(plane, plan, out, room):
    """Transform along x of a padded plane (nx, stride): out (2, rows, stride), frequencies 0 … nx/2 the rows."""
    nx, stride = plane.shape
    zr, zi = room.panels[1, 0].ctypes.data, room.panels[1, 1].ctypes.data
    source, outr, outi = plane.ctypes.data, out[0].ctypes.data, out[1].ctypes.data
    for column in range(0, stride, PAIR):
        x = source + 4 * column
        transform_line(plan, x, x + 4 * LANES, stride, zr, zi, LANES, room)
        split_pair(zr, zi, nx, nx // 2 + 1, outr + 4 * column, outi + 4 * column, stride)


@_jit
def columns_inverse(spectrum, plan, plane, room):
    """The inverse of `columns_forward`, without a factor: an inverse transform is a forward one of exchanged parts."""
    nx, stride = plane.shape
    zr, zi = room.panels[1, 0].ctypes.data, room.panels[1, 1].ctypes.data
    inr, ini, target = spectrum[0].ctypes.data, spectrum[1].ctypes.data, plane.ctypes.data
    for column in range(0, stride, PAIR):
        join_pair(inr + 4 * column, ini + 4 * column, stride, nx, nx // 2 + 1, zr, zi)
        y = target + 4 * column
        transform_line(plan, zi, zr, LANES, y + 4 * LANES, y, stride, room)


@_jit
def rows_forward(spectrum, first, plan, yr, yi, room):
    """Transform along y of sixteen rows of `spectrum` (2, rows, stride) from `first` on, to y: lanes are rows."""
    stride = spectrum.shape[2]
    xr, xi = room.panels[0, 0].ctypes.data, room.panels[0, 1].ctypes.data
    inr, ini = spectrum[0, first].ctypes.data, spectrum[1, first].ctypes.data
    for y in range(0, plan.n, LANES):
        transpose(inr + 4 * y, stride, xr + 4 * y * LANES, LANES)
        transpose(ini + 4 * y, stride, xi + 4 * y * LANES, LANES)
    transform_line(plan, xr, xi, LANES, yr, yi, LANES, room)


@_jit
def rows_inverse(xr, xi, plan, spectrum, first, room):
    """The inverse of `rows_forward`, without a factor; x is spent."""
    stride = spectrum.shape[2]
    outr, outi = spectrum[0, first].ctypes.data, spectrum[1, first].ctypes.data
    transform_line(plan, xi, xr, LANES, xi, xr, LANES, room)
    for y in range(0, plan.n, LANES):
        transpose(xr + 4 * y * LANES, LANES, outr + 4 * y, stride)
        transpose(xi + 4 * y * LANES, LANES, outi + 4 * y, stride)
