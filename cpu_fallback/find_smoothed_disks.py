"""Find disks on smoothed correlation maps (CPU twin), in one pattern after the other, in float32 and without Python's lock.

The steps for a pattern are: correlation map (as in `find_disks`) → clipped and smoothed copy → maxima → thresholds → spacing →
parabolas → window of samples of the map itself. A window has up to some thousand samples, but the map is band-limited: twelve Chebyshev
nodes along each axis fix it to 1e-7 within 0.75 px. So only these are computed from the whole map, and the samples from them.

Where float32 leaves open which of two samples is the larger one, and it matters, they are compared in float64 afterwards.
"""

import threading
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.find_disks import correlate
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.map_lanes import four_row_sums, maps_with_slack
from gpu4d.cpu_fallback.maxima import maxima, strongest
from gpu4d.cpu_fallback.pixels import by_address, read_pattern
from gpu4d.cpu_fallback.plane_transform import (
    LinePlan,
    TransformScratch,
    half_rows,
    line_plan,
    long_primes_of,
    padded,
    panels_of,
    transform_scratch,
)

from gpu4d import fft
from gpu4d.bragg.correlation_map import powered
from gpu4d.bragg.find_smoothed_disks import (
    SUBPIXEL,
    SmoothedDisks,
    SmoothedSearch,
    away_from_border,
    largest_sample,
    smoothing_matrix,
    window_of,
)
from gpu4d.bragg.find_smoothed_disks import find_smoothed_disks as operation
from gpu4d.compiled import ALL, contiguous, entry, helper, part

NODES = 12  # along each axis of a window: three groups of four, which are computed together
ROWS = 4  # rows of a smoothed map that are computed together
PIXEL, POLY, MULTICORR = range(len(SUBPIXEL))
NEAR_TIE = 1.5e-3  # samples: a top nearer than this to the middle between two samples may belong to either; float32 errs by up to 1e-3
NEAR_HALF = 2e-5  # px: a "poly" position nearer than this to a quarter of a pixel may be rounded to either side
TIE_HEIGHT = 1e-6  # relative difference of two samples that float32 does not tell
MATTERS = 4e-4  # px: two answers that differ by less are equally good
FIELDS = 6  # x, y, intensity, "poly" x and y, doubt
CERTAIN, TIE, ROUNDING = range(3)
SETTLED = 16  # disks that are compared together in float64


class Smoothing(NamedTuple):
    """Weights of the Gaussian filter along both axes."""

    weights: np.ndarray  # (groups, 4, band) float32: rows of the matrix for four rows of the map
    first: np.ndarray  # (groups,) int64: row of the map that the first weight belongs to
    along: np.ndarray  # (2 radius + 1,) float32
    mirrored: np.ndarray  # (ny + 2 radius,) int64: column of each place of a line that is continued beyond its ends


class Samples(NamedTuple):
    """Weights of a map's pixels for the nodes of a window, and of the nodes for its samples."""

    x: np.ndarray  # (NODES, upsample, 2 nx) float32, read as `sinc_table`
    y: np.ndarray
    sine: np.ndarray  # (NODES, upsample) float32: sin π(p/upsample + node a)
    even: bool  # both sides of the map are even, so that it has a wave of both Nyquist frequencies
    of_nodes: np.ndarray  # (side, NODES) float32
    before: int  # samples before the centre of the window
    upsample: int


class Rules(NamedTuple):
    """A search, in the form that the compiled code takes."""

    x: LinePlan
    y: LinePlan
    template: np.ndarray  # (2, panels, ny, 16) float32
    powers: np.ndarray  # (1,) float32
    allowed: np.ndarray
    smooth: bool
    smoothing: Smoothing
    limits: np.ndarray  # absolute, relative, spacing
    relative_to: int
    mode: int
    samples: Samples


class WorkArrays(NamedTuple):
    """Work arrays of one thread."""

    plane: np.ndarray  # (nx, stride) float32: a pattern
    columns: np.ndarray  # (2, rows, stride): its half spectrum along x
    spectra: np.ndarray  # (1, 2, rows, stride): product, back along y
    maps: np.ndarray  # (2, nx, stride): the map, and the smoothed one
    rows: np.ndarray  # (whole groups of rows, stride): smoothed along x
    line: np.ndarray  # (ny + 2 radius,): a row, continued beyond its ends
    transform_scratch: TransformScratch
    at: np.ndarray  # (candidates, 2) int32
    height: np.ndarray  # (2, candidates)
    bits: np.ndarray  # (stride / 16,) uint16
    sums: np.ndarray  # (NODES, stride): the map, summed over its rows with the weights of the nodes
    nodes: np.ndarray  # (2, NODES, side)
    window: np.ndarray  # (side, side)


_last_template: tuple[bytes, tuple[int, int], np.ndarray] | None = None
_of_thread = threading.local()


def find_smoothed_disks(patterns, spectrum, /, *, search=SmoothedSearch()):  # noqa: B008
    n, nx, ny = patterns.shape
    count = np.zeros(n, np.int64)
    table = np.full((n, FIELDS, search.max_peaks), np.nan)
    if n and min(nx, ny) > 2:  # else no pixel has eight neighbours
        rules = Rules(
            line_plan(nx),
            line_plan(ny),
            _panels(spectrum, (nx, ny)),
            np.array([search.power], np.float32),
            contiguous(away_from_border((nx, ny), search.edge)),
            search.smoothing > 0,
            _smoothing(nx, ny, search.smoothing),
            np.array([search.min_absolute, search.min_relative, search.min_spacing]),
            search.relative_to,
            SUBPIXEL.index(search.subpixel),
            _samples(nx, ny, search.upsample),
        )
        _owner, pixels = by_address(patterns)
        _find(pixels, rules, long_primes_of(nx, ny), _arrays_of_thread(rules), count, table)
        if search.subpixel == "multicorr":
            _settle(patterns, spectrum, search, count, table)
    return SmoothedDisks(count, *(np.ascontiguousarray(table[:, field]) for field in range(3)))


def _settle(patterns, spectrum, search, count, table):
    """Compare samples in float64 where there was a doubt."""
    doubt, shape = table[:, FIELDS - 1], patterns.shape[1:]
    anew = np.flatnonzero((doubt == ROUNDING).any(1))
    for i in anew:
        most = max(1, int(count[i]))
        sure = operation.definition(patterns[i : i + 1], spectrum, search=replace(search, max_peaks=most))
        count[i], table[i, :3, :most], doubt[i] = sure.count[0], np.stack(sure[1:], 1)[0], CERTAIN
    of, disk = np.nonzero(doubt == TIE)
    if of.size:
        some, which = np.unique(of, return_inverse=True)
        products = powered(fft.rfft2(patterns[some].astype(np.float64)) * spectrum, search.power) / (shape[0] * shape[1])
        for at in range(0, of.size, SETTLED):  # each disk with a spectrum of its own, so not too many at a time
            i, k = of[at : at + SETTLED], disk[at : at + SETTLED]
            x, y = largest_sample(products[which[at : at + SETTLED]], shape, table[i, 3, k][:, None], table[i, 4, k][:, None], search.upsample)
            table[i, 0, k], table[i, 1, k] = x[:, 0], y[:, 0]


def _panels(spectrum, shape):
    """Return the template in the order of spectra here. That of the last call is kept: calls of a scan share it."""
    global _last_template
    last, given = _last_template, spectrum.tobytes()
    if last is None or last[:2] != (given, shape):
        _last_template = last = given, shape, panels_of(spectrum, shape)
    return last[2]


@lru_cache(maxsize=8)
def _smoothing(nx: int, ny: int, sigma: float) -> Smoothing:
    matrix, middle = smoothing_matrix(nx, sigma), smoothing_matrix(8 * int(4 * sigma + 1) + 1, sigma)
    radius = int(np.count_nonzero(middle[len(middle) // 2])) // 2
    groups = -(-nx // ROWS)
    matrix = np.concatenate([matrix, np.zeros((groups * ROWS - nx, nx))])
    band = min(nx, ROWS + 2 * radius)
    first = np.clip(np.arange(groups) * ROWS - radius, 0, nx - band)
    weights = np.stack([matrix[g * ROWS : (g + 1) * ROWS, at : at + band] for g, at in enumerate(first)])
    column = np.mod(np.arange(-radius, ny + radius), 2 * ny)
    mirrored = np.where(column < ny, column, 2 * ny - 1 - column)
    along = middle[len(middle) // 2][len(middle) // 2 - radius :][: 2 * radius + 1]
    return Smoothing(weights.astype(np.float32), first, along.astype(np.float32), mirrored)


@lru_cache(maxsize=8)
def _samples(nx: int, ny: int, upsample: int) -> Samples:
    side, before = window_of(upsample)
    places = (np.arange(side) - before) / upsample
    low, high = places[0], max(places[-1], places[0] + 1e-3)
    u = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    nodes = (low + high) / 2 + (high - low) / 2 * u
    within = (places - (low + high) / 2) / ((high - low) / 2)
    of_nodes = np.polynomial.chebyshev.chebvander(within, NODES - 1) @ np.linalg.inv(np.polynomial.chebyshev.chebvander(u, NODES - 1))
    tables = (_node_table(n, nodes, upsample) for n in (nx, ny))
    sine = np.sin(np.pi * (nodes[:, None] + np.arange(upsample) / upsample)).astype(np.float32)
    return Samples(*tables, sine, nx % 2 == ny % 2 == 0, of_nodes.astype(np.float32), before, upsample)


def _node_table(n: int, nodes: np.ndarray, upsample: int) -> np.ndarray:
    """Tabulate the periodic sinc at the nodes: [a, p, n - i : 2n - i] has the weights of samples for the point i + p/upsample + node a."""
    k = np.fft.fftfreq(n, 1 / n)
    t = nodes[:, None, None] + np.arange(upsample)[None, :, None] / upsample
    wave = np.exp(2j * np.pi * k * t / n)
    if n % 2 == 0:  # the Nyquist wave is cos(πt)
        wave[..., n // 2] = np.cos(np.pi * t[..., 0])
    rows = wave.reshape(-1, 1, n)
    weights = fft.fft2(rows)[:, 0, :].real.reshape(wave.shape) / n
    return np.concatenate([weights, weights], -1).astype(np.float32)


def _arrays_of_thread(rules: Rules) -> WorkArrays:
    (nx, ny), side = rules.allowed.shape, rules.samples.of_nodes.shape[0]
    key = (nx, ny, side, rules.smoothing.mirrored.size)
    if getattr(_of_thread, "key", None) != key:
        _of_thread.key = _of_thread.work = None  # the old arrays must not pass for new ones if memory runs out below
        stride, rows, candidates = padded(ny), half_rows(nx), (nx * ny) // 4 + 1  # two maxima are never neighbours
        _of_thread.work = WorkArrays(
            zeros(nx, stride),
            zeros(2, rows, stride),
            zeros(1, 2, rows, stride),
            maps_with_slack(2, nx, stride),
            zeros(-(-nx // ROWS) * ROWS, stride),
            zeros(rules.smoothing.mirrored.size),
            transform_scratch(nx, ny),
            np.empty((candidates, 2), np.int32),
            np.empty((2, candidates), np.float32),
            np.empty(stride // LANES, np.uint16),
            zeros(NODES, stride),
            zeros(2, NODES, max(side, NODES)),
            zeros(side, side),
        )
        _of_thread.key = key
    return _of_thread.work


@entry(ALL)
def _find(patterns, rules, long_primes, work, count, table):
    """Find the disks of every pattern."""
    for i in range(count.size):
        if read_pattern(patterns, i, work.plane, rules.y.n):
            count[i] = _disks(rules, long_primes, work, table[i])


@part
def _disks(rules, long_primes, work, row):
    """Find the disks of the pattern in work.plane, write them to the columns of `row`, and return their number."""
    correlate(rules, work, rules.template, rules.powers, long_primes)
    ny, at, height = rules.y.n, work.at, work.height[0]
    _smooth(rules, work, ny)
    smooth = work.maps[1]
    found = maxima(smooth, rules.allowed, at, height, work.bits)
    found = _high(rules, at, height, work.height[1], found)
    kept = strongest(at, height, found, rules.limits[2], row)
    corner = _corner(work.maps[0], ny) if rules.mode == MULTICORR and rules.samples.even else np.float32(0)
    for k in range(kept):
        if rules.mode != PIXEL:
            _place(smooth, row, k)
        if rules.mode == MULTICORR:
            _sampled(work.maps[0], ny, corner, rules.samples, work, row, k)
    if rules.mode == MULTICORR:
        _sort(row, kept)
    return kept


@helper(ALL)
def _smooth(rules, work, ny):
    """Write the clipped and smoothed map to maps[1]."""
    given, out = work.maps[0], work.maps[1]
    nx, stride = given.shape
    for i in range(nx):
        for j in range(ny):
            out[i, j] = max(given[i, j], np.float32(0))
        for j in range(ny, stride):
            out[i, j] = 0
    if not rules.smooth:
        return
    weights, along, mirrored, line = rules.smoothing.weights, rules.smoothing.along, rules.smoothing.mirrored, work.line
    band = weights.shape[2]
    for group in range(weights.shape[0]):
        source, target = out[rules.smoothing.first[group]], work.rows[group * ROWS]
        four_row_sums(source.ctypes.data, stride, band, stride, weights[group].ctypes.data, band, target.ctypes.data)
    for i in range(nx):
        source, target = work.rows[i], out[i, :ny]
        for j in range(line.size):
            line[j] = source[mirrored[j]]
        for j in range(ny):
            target[j] = 0
        for t in range(along.size):
            w, shifted = along[t], line[t : t + ny]
            for j in range(ny):
                target[j] += w * shifted[j]


@helper(ALL)
def _high(rules, at, height, ranked, found):
    """Keep the candidates over the absolute and the relative threshold, in place, and return their number."""
    kept = 0
    for q in range(found):
        if height[q] >= rules.limits[0]:
            at[kept, 0], at[kept, 1], height[kept] = at[q, 0], at[q, 1], height[q]
            kept += 1
    if rules.relative_to >= kept:
        return kept
    for q in range(kept):
        ranked[q] = height[q]
    standard = np.float32(0)
    for _ in range(rules.relative_to + 1):  # the next strongest each time: the number is small
        best = 0
        for q in range(kept):
            if ranked[q] > ranked[best]:
                best = q
        standard, ranked[best] = ranked[best], np.float32(-1)
    found, kept = kept, 0
    for q in range(found):
        if height[q] >= rules.limits[1] * standard:
            at[kept, 0], at[kept, 1], height[kept] = at[q, 0], at[q, 1], height[q]
            kept += 1
    return kept


@helper(ALL)
def _corner(c, ny):
    """Return the amplitude of the wave of both Nyquist frequencies: the mean of the map with signs like a chessboard."""
    total = np.float32(0)
    for i in range(0, c.shape[0], 2):
        above, below = c[i], c[i + 1]
        for j in range(0, ny, 2):
            total += (above[j] - above[j + 1]) - (below[j] - below[j + 1])
    return total / np.float32(c.shape[0] * ny)


@part
def _vertex(before, here, after):
    """Return how far the top of a parabola is from its middle sample."""
    bend = 4 * here - 2 * before - 2 * after
    return (after - before) / bend if bend != 0 else np.float32(0)


@helper(ALL)
def _place(smooth, row, k):
    """Move a disk to the tops of two parabolas, and read the map there, linear between pixels."""
    i, j = int(row[0, k]), int(row[1, k])
    x = i + np.float64(_vertex(smooth[i - 1, j], smooth[i, j], smooth[i + 1, j]))
    y = j + np.float64(_vertex(smooth[i, j - 1], smooth[i, j], smooth[i, j + 1]))
    p, q = int(np.floor(x)), int(np.floor(y))
    wx, wy = x - p, y - q
    near = (1 - wy) * smooth[p, q] + wy * smooth[p, q + 1]
    far = (1 - wy) * smooth[p + 1, q] + wy * smooth[p + 1, q + 1]
    row[0, k], row[1, k], row[2, k] = x, y, (1 - wx) * near + wx * far


@helper(ALL)
def _sampled(c, ny, corner, samples, work, row, k):
    """Move a disk to the largest sample about it, and to the tops of two parabolas through that unless it lies at the window's rim."""
    upsample, before, side = samples.upsample, samples.before, work.window.shape[0]
    x = int(np.rint(np.rint(row[0, k] * 2) / 2 * upsample))
    y = int(np.rint(np.rint(row[1, k] * 2) / 2 * upsample))
    _fill_window(c, ny, corner, x, y, samples, work)
    window = work.window
    bi, bj, best = 0, 0, window[0, 0]
    for a in range(side):
        for b in range(side):
            if window[a, b] > best:
                bi, bj, best = a, b, window[a, b]
    dx, dy = _tops(window, bi, bj)
    row[3, k], row[4, k], row[5, k] = row[0, k], row[1, k], CERTAIN
    reach = side // 2 - upsample // 2 - 2  # samples from the centre that lie in the window of either rounding
    if (_near_half(row[0, k]) or _near_half(row[1, k])) and max(abs(bi - before), abs(bj - before)) >= reach:
        row[5, k] = ROUNDING
    elif _is_tie(window, bi, bj, dx, dy, upsample):
        row[5, k] = TIE
    row[0, k] = (x - before + bi + np.float64(dx)) / upsample
    row[1, k] = (y - before + bj + np.float64(dy)) / upsample


@part
def _near_half(position):
    """Say whether twice the position lies between two whole numbers, so that its rounding is open."""
    twice = 2 * position
    return abs(twice - np.floor(twice) - 0.5) < 2 * NEAR_HALF


@helper(ALL)
def _tops(window, i, j):
    """Return the steps from a sample to the tops of two parabolas, 0 at the rim."""
    side = window.shape[0]
    if not (0 < i < side - 1 and 0 < j < side - 1):
        return np.float32(0), np.float32(0)
    here = window[i, j]
    return _vertex(window[i - 1, j], here, window[i + 1, j]), _vertex(window[i, j - 1], here, window[i, j + 1])


@helper(ALL)
def _is_tie(window, i, j, dx, dy, upsample):
    """Say whether a neighbour may be the largest sample as well, and would give another position."""
    limit = np.float32(MATTERS * upsample)
    for axis in range(2):
        step = dx if axis == 0 else dy
        if abs(step) > 0.5 - NEAR_TIE:
            other = 1 if step > 0 else -1
            oi, oj = (i + other, j) if axis == 0 else (i, j + other)
            ox, oy = _tops(window, oi, oj)
            if abs(oi + ox - i - dx) > limit or abs(oj + oy - j - dy) > limit:
                return True
    # At the rim no parabola is laid, so that any equal neighbour gives another position.
    side = window.shape[0]
    if 0 < i < side - 1 and 0 < j < side - 1:
        return False
    for a in range(max(i - 1, 0), min(i + 2, side)):
        for b in range(max(j - 1, 0), min(j + 2, side)):
            if (a != i or b != j) and window[a, b] > window[i, j] - np.float32(TIE_HEIGHT) * abs(window[i, j]):
                return True
    return False


@helper(ALL)
def _fill_window(c, ny, corner, x, y, samples, work):
    """Write the samples about (x, y) / upsample to work.window."""
    nx, stride = c.shape
    upsample, side = samples.upsample, work.window.shape[0]
    values, half = work.nodes[0], work.nodes[1]
    start = nx - (x // upsample) % nx
    for group in range(0, NODES, 4):
        weights = samples.x[group, x % upsample, start:].ctypes.data
        four_row_sums(c.ctypes.data, stride, nx, stride, weights, 2 * nx * upsample, work.sums[group].ctypes.data)
    start = ny - (y // upsample) % ny
    for b in range(NODES):
        along = samples.y[b, y % upsample, start : start + ny]
        for a in range(NODES):
            line = work.sums[a, :ny]
            total = np.float32(0)
            for j in range(ny):
                total += line[j] * along[j]
            values[a, b] = total
    # The wave of both Nyquist frequencies is cos π(x + y), where the weights have cos πx cos πy.
    sign = corner if (x // upsample + y // upsample) % 2 == 0 else -corner
    for a in range(NODES):
        for b in range(NODES):
            values[a, b] -= sign * samples.sine[a, x % upsample] * samples.sine[b, y % upsample]
    for a in range(NODES):
        line = half[a]
        for s in range(side):
            total = np.float32(0)
            for b in range(NODES):
                total += samples.of_nodes[s, b] * values[a, b]
            line[s] = total
    for r in range(side):
        line = work.window[r]
        for s in range(side):
            line[s] = 0
        for a in range(NODES):
            w, other = samples.of_nodes[r, a], half[a, :side]
            for s in range(side):
                line[s] += w * other[s]


@helper(ALL)
def _sort(row, kept):
    """Sort the disks by intensity, the strongest first; equal ones keep their order."""
    for k in range(1, kept):
        m = k
        while m > 0 and row[2, m - 1] < row[2, m]:
            for field in range(FIELDS):
                row[field, m - 1], row[field, m] = row[field, m], row[field, m - 1]
            m -= 1
