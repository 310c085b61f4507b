"""Samples of a map between its pixels, in a window about a disk, and the largest of them (part of `find_smoothed_disks`).

A window has up to some thousand samples, but the map is band-limited: eight nodes along each axis fix it within 0.75 px. So only these are
computed from the whole map, and the samples from them. A wave of frequency f is off by 1e-8 of its height for f → 0 and by 2e-5 at the
Nyquist frequency, which moves its top by less than 5e-5 px.

Where float32 leaves open which of two neighbours is the larger one, both and the samples around them are summed anew in float64.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.map_lanes import four_row_sums

from gpu4d import fft
from gpu4d.bragg.find_smoothed_disks import window_of
from gpu4d.compiled import ALL, helper, part

NODES = 8  # along each axis of a window: two groups of four, which are computed together
WAVES = 64  # frequencies at which the samples between the nodes are fitted
LOW_FIRST = 3.0  # decades by which a wave of frequency 0 counts for more than one of the Nyquist frequency: maps are mostly slow waves
PATCH = 5  # samples along a side of what is summed in float64: three candidates, and a neighbour beyond both ends
NEAR_TIE = 1.5e-3  # samples: a top nearer than this to the middle between two samples may belong to either; float32 errs by up to 1e-3
NEAR_HALF = 2e-5  # px: a "poly" position nearer than this to a quarter of a pixel may be rounded to either side
TIE_HEIGHT = 3e-6  # relative difference of two samples that float32 does not tell
SLOPE_ERROR = 3e-7  # per px, relative to the strongest disk: slopes of a map that was computed in float32
MATTERS = 4e-4  # px: two answers that differ by less are equally good
FIELDS = 6  # x, y, intensity, "poly" x and y, doubt
CERTAIN, TIE, ROUNDING = range(3)


class Samples(NamedTuple):
    """Weights of a map's pixels for the nodes of a window, and of the nodes for its samples."""

    x: np.ndarray  # (NODES, upsample, 2 nx) float32, read as `sinc_table`
    y: np.ndarray
    sine: np.ndarray  # (NODES, upsample) float32: sin π(p/upsample + node a)
    even: bool  # both sides of the map are even, so that it has a wave of both Nyquist frequencies
    of_nodes: np.ndarray  # (side, NODES) float32, with rows of zeros up to a multiple of 4
    nodes_of: np.ndarray  # (NODES, side), the same with columns of zeros up to a multiple of 32
    side: int  # samples along a side of the window
    before: int  # samples before the centre of the window
    upsample: int


@lru_cache(maxsize=8)
def samples_of(nx: int, ny: int, upsample: int) -> Samples:
    side, before = window_of(upsample)
    places = (np.arange(side) - before) / upsample
    low, high = places[0], max(places[-1], places[0] + 1e-3)
    nodes = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)  # Chebyshev's
    of_nodes = np.zeros((-(-side // (2 * LANES)) * 2 * LANES, NODES), np.float32)
    of_nodes[:side] = _between(nodes, places)
    tables = (_node_table(n, nodes, upsample) for n in (nx, ny))
    sine = np.sin(np.pi * (nodes[:, None] + np.arange(upsample) / upsample)).astype(np.float32)
    nodes_of = np.ascontiguousarray(of_nodes.T)
    return Samples(*tables, sine, nx % 2 == ny % 2 == 0, of_nodes[: -(-side // 4) * 4], nodes_of, side, before, upsample)


def _between(nodes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the weights of the nodes for samples at other places, (places, nodes): the best ones for waves up to the Nyquist frequency."""
    f = np.cos(np.pi * (np.arange(WAVES) + 0.5) / WAVES) / 2
    weight = 10.0 ** (LOW_FIRST * (1 - 2 * np.abs(f)))[:, None]
    at_nodes, at_places = (weight * np.exp(2j * np.pi * f[:, None] * t) for t in (nodes, places))
    both = lambda waves: np.concatenate([waves.real, waves.imag])  # noqa: E731
    return np.linalg.lstsq(both(at_nodes), both(at_places), rcond=1e-15)[0].T


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


@helper(ALL)
def corner_wave(c, ny):
    """Return the amplitude of the wave of both Nyquist frequencies: the mean of the map with signs like a chessboard."""
    total = np.float32(0)
    for i in range(0, c.shape[0], 2):
        above, below = c[i], c[i + 1]
        for j in range(0, ny, 2):
            total += (above[j] - above[j + 1]) - (below[j] - below[j + 1])
    return total / np.float32(c.shape[0] * ny)


@part
def vertex(before, here, after):
    """Return how far the top of a parabola is from its middle sample."""
    bend = 4 * here - 2 * before - 2 * after
    return (after - before) / bend if bend != 0 else np.float32(0)


@helper(ALL)
def sampled(c, ny, corner, samples, work, row, k):
    """Move a disk to the largest sample about it, and to the tops of two parabolas through that unless it lies at the window's rim."""
    upsample, before, side = samples.upsample, samples.before, samples.side
    x = int(np.rint(np.rint(row[0, k] * 2) / 2 * upsample))
    y = int(np.rint(np.rint(row[1, k] * 2) / 2 * upsample))
    _fill_window(c, ny, corner, x, y, samples, work)
    window = work.window
    bi, bj, best = 0, 0, -np.inf
    for a in range(side):
        highest = window[a, 0]
        for b in range(1, side):
            highest = max(highest, window[a, b])
        if highest > best:
            bi, best = a, highest
    while window[bi, bj] != best:
        bj += 1
    dx, dy = _tops(window, bi, bj, side)
    row[3, k], row[4, k], row[5, k] = row[0, k], row[1, k], CERTAIN
    reach = side // 2 - upsample // 2 - 2  # samples from the centre that lie in the window of either rounding
    if (_near_half(row[0, k]) or _near_half(row[1, k])) and max(abs(bi - before), abs(bj - before)) >= reach:
        row[5, k] = ROUNDING
    elif _is_tie(window, bi, bj, dx, dy, side, upsample):
        if 1 < bi < side - 2 and 1 < bj < side - 2:
            row[5, k] = _decided(c, ny, corner, x - before + bi, y - before + bj, upsample, row[2, 0], work, row, k)
            return
        row[5, k] = TIE
    row[0, k] = (x - before + bi + np.float64(dx)) / upsample
    row[1, k] = (y - before + bj + np.float64(dy)) / upsample


@helper(ALL)
def _decided(c, ny, corner, x, y, upsample, scale, work, row, k):
    """Move a disk to the top about the largest of nine samples, summed in float64. Return TIE if the errors of the map still matter.

    The samples are (x, y) / upsample and those beside it.
    """
    patch = work.patch
    first_x, first_y = x - 2, y - 2
    _fill_patch(c, ny, corner, first_x, first_y, upsample, work)
    bi, bj = 2, 2
    for a in range(1, PATCH - 1):
        for b in range(1, PATCH - 1):
            if patch[a, b] > patch[bi, bj]:
                bi, bj = a, b
    dx = vertex(patch[bi - 1, bj], patch[bi, bj], patch[bi + 1, bj])
    dy = vertex(patch[bi, bj - 1], patch[bi, bj], patch[bi, bj + 1])
    doubt = CERTAIN
    for a in range(1, PATCH - 1):
        for b in range(1, PATCH - 1):
            if (a != bi or b != bj) and patch[a, b] > patch[bi, bj] - SLOPE_ERROR * scale / upsample:
                ox = a - bi + vertex(patch[a - 1, b], patch[a, b], patch[a + 1, b]) - dx
                oy = b - bj + vertex(patch[a, b - 1], patch[a, b], patch[a, b + 1]) - dy
                if max(abs(ox), abs(oy)) > MATTERS * upsample:
                    doubt = TIE
    row[0, k] = (first_x + bi + dx) / upsample
    row[1, k] = (first_y + bj + dy) / upsample
    return doubt


@helper(ALL)
def _fill_patch(c, ny, corner, x, y, upsample, work):
    """Write the samples from (x, y) / upsample on to work.patch, in float64."""
    nx = c.shape[0]
    patch, lines, weights = work.patch, work.lines, work.weights
    for a in range(PATCH):
        _sinc(weights, x + a, upsample, nx)
        line = lines[a]
        for j in range(ny):
            line[j] = 0
        for i in range(nx):
            w = weights[i]
            for j in range(ny):
                line[j] += w * c[i, j]
    for b in range(PATCH):
        _sinc(weights, y + b, upsample, ny)
        for a in range(PATCH):
            total = 0.0
            for j in range(ny):
                total += lines[a, j] * weights[j]
            patch[a, b] = total - corner * np.sin(np.pi * (x + a) / upsample) * np.sin(np.pi * (y + b) / upsample)


@helper(ALL)
def _sinc(weights, place, upsample, n):
    """Write the weights of n samples for the point place / upsample of the wave through them. The Nyquist wave is cos(πt)."""
    if place % upsample == 0:
        for i in range(n):
            weights[i] = 0
        weights[(place // upsample) % n] = 1
        return
    t = place / upsample
    sine = np.sin(np.pi * t) / n
    for i in range(n):
        angle = np.pi * (t - i) / n
        w = sine / np.sin(angle)
        if n % 2 == 0:
            w *= np.cos(angle)
        weights[i] = w if i % 2 == 0 else -w


@part
def _near_half(position):
    """Say whether twice the position lies between two whole numbers, so that its rounding is open."""
    twice = 2 * position
    return abs(twice - np.floor(twice) - 0.5) < 2 * NEAR_HALF


@helper(ALL)
def _tops(window, i, j, side):
    """Return the steps from a sample to the tops of two parabolas, 0 at the rim."""
    if not (0 < i < side - 1 and 0 < j < side - 1):
        return np.float32(0), np.float32(0)
    here = window[i, j]
    return vertex(window[i - 1, j], here, window[i + 1, j]), vertex(window[i, j - 1], here, window[i, j + 1])


@helper(ALL)
def _is_tie(window, i, j, dx, dy, side, upsample):
    """Say whether a neighbour may be the largest sample as well, and would give another position."""
    limit = np.float32(MATTERS * upsample)
    for axis in range(2):
        step = dx if axis == 0 else dy
        if abs(step) > 0.5 - NEAR_TIE:
            other = 1 if step > 0 else -1
            oi, oj = (i + other, j) if axis == 0 else (i, j + other)
            ox, oy = _tops(window, oi, oj, side)
            if abs(oi + ox - i - dx) > limit or abs(oj + oy - j - dy) > limit:
                return True
    # Across a corner no step shows a tie. At the rim no parabola is laid, so that any equal neighbour gives another position.
    for a in range(max(i - 1, 0), min(i + 2, side)):
        for b in range(max(j - 1, 0), min(j + 2, side)):
            if (a != i or b != j) and window[a, b] > window[i, j] - np.float32(TIE_HEIGHT) * abs(window[i, j]):
                return True
    return False


@helper(ALL)
def _fill_window(c, ny, corner, x, y, samples, work):
    """Write the samples about (x, y) / upsample to work.window."""
    nx, stride = c.shape
    upsample, values, half, width = samples.upsample, work.nodes, work.half, work.half.shape[1]
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
    for group in range(0, NODES, 4):
        weights, out = values[group].ctypes.data, half[group].ctypes.data
        four_row_sums(samples.nodes_of.ctypes.data, width, NODES, width, weights, NODES, out)
    for group in range(0, samples.of_nodes.shape[0], 4):
        weights, out = samples.of_nodes[group].ctypes.data, work.window[group].ctypes.data
        four_row_sums(half.ctypes.data, width, NODES, width, weights, NODES, out)
