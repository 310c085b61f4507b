"""Find disks on smoothed correlation maps (CPU twin), in one pattern after the other, in float32 and without Python's lock.

The steps for a pattern are: correlation map (as in `find_disks`) → clipped and smoothed copy → maxima → thresholds → spacing →
parabolas → window of samples of the map itself (`window_samples`).

Where float32 leaves open which of two samples is the larger one, and it matters, they are compared in float64 afterwards.
"""

import threading
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
from gpu4d.cpu_fallback.window_samples import FIELDS, NODES, PATCH, ROUNDING, TIE, Samples, corner_wave, sampled, samples_of, vertex

from gpu4d import fft
from gpu4d.bragg.correlation_map import powered
from gpu4d.bragg.find_smoothed_disks import (
    SUBPIXEL,
    SmoothedDisks,
    SmoothedSearch,
    away_from_border,
    largest_sample,
    smoothing_matrix,
)
from gpu4d.compiled import ALL, contiguous, entry, helper, part

ROWS = 4  # rows of a smoothed map that are computed together
PIXEL, POLY, MULTICORR = range(len(SUBPIXEL))


class Smoothing(NamedTuple):
    """Weights of the Gaussian filter along both axes."""

    weights: np.ndarray  # (groups, 4, band) float32: rows of the matrix for four rows of the map
    first: np.ndarray  # (groups,) int64: row of the map that the first weight belongs to
    along: np.ndarray  # (radius + 1,) float32, from the middle on
    mirrored: np.ndarray  # (ny + 2 radius,) int64: column of each place of a line that is continued beyond its ends


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
    nodes: np.ndarray  # (NODES, NODES): the map at the nodes
    half: np.ndarray  # (NODES, side): at the nodes along x and the samples along y
    window: np.ndarray  # (side, side), as half with its side rounded up
    patch: np.ndarray  # (PATCH, PATCH) float64: samples about a tie
    lines: np.ndarray  # (PATCH, ny) float64
    weights: np.ndarray  # (max(nx, ny),) float64


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
            samples_of(nx, ny, search.upsample),
        )
        _owner, pixels = by_address(patterns)
        _find(pixels, rules, long_primes_of(nx, ny), _arrays_of_thread(rules), count, table)
        if search.subpixel == "multicorr":
            _settle(patterns, spectrum, search, table)
    return SmoothedDisks(count, *(np.ascontiguousarray(table[:, field]) for field in range(3)))


def _settle(patterns, spectrum, search, table):
    """Compare samples in float64 where there was a doubt that compiled code could not settle: in about one pattern of a hundred."""
    open_rounding, tie = table[:, FIELDS - 1] == ROUNDING, table[:, FIELDS - 1] == TIE
    shape = patterns.shape[1:]
    for i in np.flatnonzero((open_rounding | tie).any(1)):
        product = powered(fft.rfft2(patterns[i : i + 1].astype(np.float64)) * spectrum, search.power)
        for k in np.flatnonzero(open_rounding[i]):
            table[i, 3:5, k] = _parabolas(fft.irfft2(product, shape)[0], search.smoothing, table[i, 3:5, k])
        k = np.flatnonzero(open_rounding[i] | tie[i])
        x, y = largest_sample(product / (shape[0] * shape[1]), shape, table[i, 3, k][None], table[i, 4, k][None], search.upsample)
        table[i, 0, k], table[i, 1, k] = x[0], y[0]


def _parabolas(correlation, sigma, position):
    """Return the tops of the parabolas on the smoothed map about the pixel of a disk, in float64."""
    (nx, ny), (i, j) = correlation.shape, np.rint(position).astype(int)
    near = smoothing_matrix(nx, sigma)[i - 1 : i + 2] @ np.maximum(correlation, 0) @ smoothing_matrix(ny, sigma)[j - 1 : j + 2].T
    return [at + (high - low) / (4 * near[1, 1] - 2 * low - 2 * high) for at, (low, high) in ((i, near[::2, 1]), (j, near[1, ::2]))]


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
    along = middle[len(middle) // 2][len(middle) // 2 :][: radius + 1]
    return Smoothing(weights.astype(np.float32), first, along.astype(np.float32), mirrored)


def _arrays_of_thread(rules: Rules) -> WorkArrays:
    (nx, ny), (rows_of_window, width) = rules.allowed.shape, (rules.samples.of_nodes.shape[0], rules.samples.nodes_of.shape[1])
    key = (nx, ny, rows_of_window, width, rules.smoothing.mirrored.size)
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
            zeros(NODES, NODES),
            zeros(NODES, width),
            zeros(rows_of_window, width),
            np.empty((PATCH, PATCH)),
            np.empty((PATCH, ny)),
            np.empty(max(nx, ny)),
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
    corner = corner_wave(work.maps[0], ny) if rules.mode == MULTICORR and rules.samples.even else np.float32(0)
    for k in range(kept):
        if rules.mode != PIXEL:
            _place(smooth, row, k)
        if rules.mode == MULTICORR:
            sampled(work.maps[0], ny, corner, rules.samples, work, row, k)
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
    band, radius = weights.shape[2], along.size - 1
    for group in range(weights.shape[0]):
        source, target = out[rules.smoothing.first[group]], work.rows[group * ROWS]
        four_row_sums(source.ctypes.data, stride, band, stride, weights[group].ctypes.data, band, target.ctypes.data)
    for i in range(nx):
        source, target = work.rows[i], out[i, :ny]
        for j in range(radius):
            line[j], line[radius + ny + j] = source[mirrored[j]], source[mirrored[radius + ny + j]]
        for j in range(ny):
            line[radius + j] = source[j]
            target[j] = along[0] * source[j]
        for t in range(1, radius + 1):
            w, before, after = along[t], line[radius - t :], line[radius + t :]
            for j in range(ny):
                target[j] += w * (before[j] + after[j])


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
def _place(smooth, row, k):
    """Move a disk to the tops of two parabolas, and read the map there, linear between pixels."""
    i, j = int(row[0, k]), int(row[1, k])
    x = i + np.float64(vertex(smooth[i - 1, j], smooth[i, j], smooth[i + 1, j]))
    y = j + np.float64(vertex(smooth[i, j - 1], smooth[i, j], smooth[i, j + 1]))
    p, q = int(np.floor(x)), int(np.floor(y))
    wx, wy = x - p, y - q
    near = (1 - wy) * smooth[p, q] + wy * smooth[p, q + 1]
    far = (1 - wy) * smooth[p + 1, q] + wy * smooth[p + 1, q + 1]
    row[0, k], row[1, k], row[2, k] = x, y, (1 - wx) * near + wx * far


@helper(ALL)
def _sort(row, kept):
    """Sort the disks by intensity, the strongest first; equal ones keep their order."""
    for k in range(1, kept):
        m = k
        while m > 0 and row[2, m - 1] < row[2, m]:
            for field in range(FIELDS):
                row[field, m - 1], row[field, m] = row[field, m], row[field, m - 1]
            m -= 1
