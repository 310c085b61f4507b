"""Transform real planes to half-plane spectra and back, float32, of any size, in compiled code without Python's lock.

Thirty-two real columns are transformed along x together, as sixteen lanes of a complex vector: the real part is one column, the
imaginary part another. The frequencies 0 … nx/2 of the result are kept. Sixteen of them are the lanes of the transform along y.
In this step spectra are multiplied while they are in the first-level cache. 128 × 128 pixels forward and back take about 25 µs.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.lanes import LANES, join_pair, prime_pass, short_pass, split_pair, transpose
from gpu4d.cpu_fallback.long_primes import convolution_points, convolve, factors, gather, prime_tables, scatter

from gpu4d.compiled import ALL, address, helper, part

FIELDS = 9  # of a pass
PAIR = 2 * LANES  # columns of one transform; rows of planes are padded to whole pairs


class LinePlan(NamedTuple):
    """The passes that a transform of n points is made of, and their tables."""

    n: int
    passes: np.ndarray  # (passes, 9) int64: radix, m, s; starts of twiddles, waves, order and inner passes; number of these; points
    inner: np.ndarray  # (inner passes, 9) int64: passes of the convolutions of long primes
    order: np.ndarray  # int64: the order of points of long primes
    tables: np.ndarray  # float32: twiddles (m, radix - 1, 2); waves of long primes


class TransformScratch(NamedTuple):
    """Work arrays of one thread."""

    panels: np.ndarray  # (4, 2, longest side · 16) float32: source, result, and two between passes
    buffers: np.ndarray  # (2, 2, points · 16): for the convolutions of long primes
    folded: np.ndarray  # (2 · longest side · 16,): for the sums of products of `prime_pass`


@lru_cache(maxsize=64)
def long_primes_of(*sides: int) -> bool | None:
    """Return True if a side has a prime factor above 7, else None: the argument `long_primes` of the functions below."""
    return any(max(factors(n)) > 8 for n in sides) or None


@lru_cache(maxsize=16)
def line_plan(n: int) -> LinePlan:
    """Return the plan of a transform of n points. Its radices are eights, fours, small primes, then long primes."""
    plan = _PlanBuilder()
    passes = plan.passes(n)
    tables = np.concatenate([np.stack([t.real.ravel(), t.imag.ravel()], -1).ravel() for t in plan.tables])
    return LinePlan(n, passes, np.array(plan.inner, np.int64).reshape(-1, FIELDS), np.concatenate(plan.order), tables.astype(np.float32))


class _PlanBuilder:
    """Collects the parts of a `LinePlan`."""

    def __init__(self) -> None:
        self.tables: list[np.ndarray] = []
        self.order: list[np.ndarray] = [np.zeros(1, np.int64)]
        self.inner: list[list[int]] = []

    def passes(self, n: int, within: bool = False) -> np.ndarray:
        passes, m, s = [], n, 1
        for radix in factors(n):
            m //= radix
            turns = np.exp(-2j * np.pi * np.outer(np.arange(m), np.arange(1, radix)) / (radix * m))
            passes.append([radix, m, s, self._put(turns), 0, 0, 0, 0, 0])
            if radix > 8:
                passes[-1][4:] = self._long(radix, within)
            s *= radix
        return np.array(passes, np.int64)

    def _long(self, radix: int, within: bool) -> list[int]:
        points = 0 if within else convolution_points(radix)
        if points == 0:
            half = radix // 2
            angles = np.outer(np.arange(half + 1), np.arange(1, half + 1)) % radix
            return [self._put(np.exp(2j * np.pi * angles / radix)), 0, 0, 0, 0]
        passes = self.passes(points, within=True)
        tables = prime_tables(radix, points)
        at, first = sum(o.size for o in self.order), len(self.inner)
        self.order.append(tables.order.ravel())
        self.inner += passes.tolist()
        return [self._put(tables.waves), at, first, len(passes), points]

    def _put(self, table: np.ndarray) -> int:
        at = 2 * sum(t.size for t in self.tables)
        self.tables.append(table)
        return at


def padded(n: int) -> int:
    """Return the length of a row of n pixels in planes, in floats."""
    return -(-n // PAIR) * PAIR


def half_rows(nx: int) -> int:
    """Return the number of rows of a half spectrum, in whole panels of 16."""
    return -(-(nx // 2 + 1) // LANES) * LANES


def transform_scratch(nx: int, ny: int) -> TransformScratch:
    longest = max(nx, padded(ny))
    points = max(longest, *(int(line_plan(n).passes[:, 8].max()) for n in (nx, ny)))
    return TransformScratch(zeros(4, 2, longest * LANES), zeros(2, 2, points * LANES), zeros(2 * longest * LANES))


def panels_of(half_plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a half plane (nx, ny // 2 + 1) of `rfft2` into the order of spectra here: (2, panels, ny, 16), where lanes are kx."""
    nx, ny = shape
    full = np.zeros((half_rows(nx), ny), np.complex128)
    kept = nx // 2 + 1
    full[:kept, : ny // 2 + 1] = half_plane[:kept]
    ky = np.arange(ny // 2 + 1, ny)
    full[:kept, ky] = np.conj(half_plane[-np.arange(kept)[:, None], ny - ky])
    split = full.reshape(-1, LANES, ny).transpose(0, 2, 1)
    out = zeros(2, *split.shape)
    out[0], out[1] = split.real, split.imag
    return out


@helper(ALL)
def transform_line(plan, long_primes, xr, xi, xs, yr, yi, ys, scratch):
    """Make sixteen transforms from x to y, which are addresses. Points are `xs` and `ys` floats apart. x may be y.

    `long_primes` is None or True. With None, code for primes above 7 is not compiled: most detectors do not need it.
    """
    last = plan.passes.shape[0] - 1
    for number in range(last + 1):
        to = 2 + number % 2
        zr, zi, zs = address(scratch.panels[to, 0]), address(scratch.panels[to, 1]), LANES
        if number == last:
            zr, zi, zs = yr, yi, ys
        if long_primes is None:
            _short_pass(plan.passes[number], address(plan.tables), xr, xi, xs, zr, zi, zs)
        elif plan.passes[number, 8] > 0:
            _convolutions(plan, number, xr, xi, xs, zr, zi, zs, scratch)
        else:
            _any_pass(plan.passes[number], address(plan.tables), xr, xi, xs, zr, zi, zs, scratch)
        xr, xi, xs = zr, zi, zs


@helper(ALL)
def _any_pass(step, tables, xr, xi, xs, yr, yi, ys, scratch):
    if step[0] > 8:
        twiddles, waves = tables + 4 * step[3], tables + 4 * step[4]
        prime_pass(step[0], xr, xi, xs, yr, yi, ys, step[1], step[2], twiddles, waves, address(scratch.folded))
    else:
        _short_pass(step, tables, xr, xi, xs, yr, yi, ys)


@part
def _convolutions(plan, number, xr, xi, xs, yr, yi, ys, scratch):
    """Make a pass of a long prime, one convolution after the other (see `long_primes`)."""
    step, tables = plan.passes[number], address(plan.tables)
    radix, m, s, waves, points = step[0], step[1], step[2], tables + 4 * step[4], step[8]
    order = plan.order[step[5] :].ctypes.data
    for p in range(m):
        twiddles = tables + 4 * (step[3] + 2 * p * (radix - 1))
        for q in range(s):
            at, to = 4 * xs * (q + s * p), 4 * ys * (q + s * radix * p)
            z = scratch.buffers[0]
            gather(radix - 1, points, order, xr + at, xi + at, xs * s * m, address(z[0]), address(z[1]))
            half = _inner(plan, step, 0, 0, scratch)
            z = scratch.buffers[half]
            convolve(points, waves, xr + at, xi + at, address(z[0]), address(z[1]), yr + to, yi + to)
            z = scratch.buffers[_inner(plan, step, half, 1, scratch)]
            scatter(radix - 1, order + 8 * (radix - 1), address(z[0]), address(z[1]), twiddles, yr + to, yi + to, ys * s)


@part
def _inner(plan, step, half, swapped, scratch):
    """Transform one half of scratch.buffers, and return the half that the result is in.

    Passes go from one half to the other. If `swapped`, real and imaginary parts are exchanged, which makes the inverse transform.
    """
    for number in range(step[6], step[6] + step[7]):
        x, y = scratch.buffers[half], scratch.buffers[1 - half]
        xr, xi = address(x[swapped]), address(x[1 - swapped])
        yr, yi = address(y[swapped]), address(y[1 - swapped])
        _any_pass(plan.inner[number], address(plan.tables), xr, xi, np.int64(LANES), yr, yi, np.int64(LANES), scratch)
        half = 1 - half
    return half


@part
def _short_pass(step, tables, xr, xi, xs, yr, yi, ys):
    radix, m, s, twiddles = step[0], step[1], step[2], tables + 4 * step[3]
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


@part
def columns_forward(plane, plan, long_primes, out, scratch):
    """Transform a padded plane (nx, stride) along x to out (2, rows, stride), whose rows are the frequencies 0 … nx/2."""
    nx, stride = plane.shape
    zr, zi = address(scratch.panels[1, 0]), address(scratch.panels[1, 1])
    source, outr, outi = address(plane), address(out[0]), address(out[1])
    for column in range(0, stride, PAIR):
        x = source + 4 * column
        transform_line(plan, long_primes, x, x + 4 * LANES, stride, zr, zi, np.int64(LANES), scratch)
        split_pair(zr, zi, nx, nx // 2 + 1, outr + 4 * column, outi + 4 * column, stride)


@part
def columns_inverse(spectrum, plan, long_primes, plane, scratch):
    """Invert `columns_forward`, without a factor. The inverse is a forward transform with real and imaginary parts exchanged."""
    nx, stride = plane.shape
    zr, zi = address(scratch.panels[1, 0]), address(scratch.panels[1, 1])
    inr, ini, target = address(spectrum[0]), address(spectrum[1]), address(plane)
    for column in range(0, stride, PAIR):
        join_pair(inr + 4 * column, ini + 4 * column, stride, nx, nx // 2 + 1, zr, zi)
        y = target + 4 * column
        transform_line(plan, long_primes, zi, zr, np.int64(LANES), y + 4 * LANES, y, stride, scratch)


@part
def rows_forward(spectrum, first, plan, long_primes, yr, yi, scratch):
    """Transform sixteen rows of `spectrum` (2, rows, stride) from `first` on along y, to y. Lanes are rows."""
    stride = spectrum.shape[2]
    xr, xi = address(scratch.panels[0, 0]), address(scratch.panels[0, 1])
    inr, ini = address(spectrum[0, first]), address(spectrum[1, first])
    for y in range(0, plan.n, LANES):
        transpose(inr + 4 * y, stride, xr + 4 * y * LANES, LANES)
        transpose(ini + 4 * y, stride, xi + 4 * y * LANES, LANES)
    transform_line(plan, long_primes, xr, xi, np.int64(LANES), yr, yi, np.int64(LANES), scratch)


@part
def rows_inverse(xr, xi, plan, long_primes, spectrum, first, scratch):
    """Invert `rows_forward`, without a factor. The contents of x are lost."""
    stride = spectrum.shape[2]
    outr, outi = address(spectrum[0, first]), address(spectrum[1, first])
    transform_line(plan, long_primes, xi, xr, np.int64(LANES), xi, xr, np.int64(LANES), scratch)
    for y in range(0, plan.n, LANES):
        transpose(xr + 4 * y * LANES, LANES, outr + 4 * y, stride)
        transpose(xi + 4 * y * LANES, LANES, outi + 4 * y, stride)
