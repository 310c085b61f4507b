"""Refine orientations (CPU twin): one candidate after the other, with all of its reflections and peaks in the first-level cache.

The peaks of a pattern are sorted by qx: a reflection is compared only with peaks of nearly its own qx.
"""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.near_reflections import TURN, Crystal, Near, Short, amplitudes, project

from gpu4d.compiled import KEEPS_NAN, contiguous, entry, helper, routine
from gpu4d.orientation.refine_orientations import BLUR, DAMPING, PARAMETERS, SMALL, checked

STRIPS = 64  # of equal width in qx, in which peaks are looked up


class Pattern(NamedTuple):
    """Peaks of one pattern in the order of qx, what follows from them, and where to look for those of a qx."""

    x: np.ndarray
    y: np.ndarray
    root: np.ndarray  # √m
    base: np.ndarray  # v / 4m
    alone: np.ndarray  # 4m² / v
    sure: np.ndarray  # 1 / σ²
    first: np.ndarray  # (STRIPS,): of the peaks that are near a strip
    last: np.ndarray


class Work(NamedTuple):
    """Work arrays of one thread: reflections, the match of each peak, and how good it is."""

    short: Short
    near: Near
    match: np.ndarray
    away: np.ndarray


class Equations(NamedTuple):
    """What an evaluation of the cost writes: normal equations, and the intensities that are expected."""

    normal: np.ndarray
    right: np.ndarray
    expected: np.ndarray


class Spare(NamedTuple):
    """Normal equations of a candidate and of a trial, and what is made of them."""

    normal: np.ndarray
    right: np.ndarray
    other: np.ndarray
    behind: np.ndarray
    lower: np.ndarray
    step: np.ndarray
    trial: np.ndarray
    expected: np.ndarray


@helper(KEEPS_NAN)
def _matched(pattern, near, count, numbers, match, away):
    """Write the reflection of each peak, or -1: near in the plane, and near the sphere."""
    thickness, radius = numbers[1], numbers[2]
    start, per_length = numbers[9], numbers[10]
    limit = radius * radius
    for p in range(len(pattern.x)):
        match[p], away[p] = -1, 1.0
    for j in range(count):
        near.found[j] = 0
        place = (near.x[j] - start) * per_length
        if not (place >= 0.0 and place < STRIPS):
            continue
        strip = int(place)
        for p in range(pattern.first[strip], pattern.last[strip]):
            dx, dy = pattern.x[p] - near.x[j], pattern.y[p] - near.y[j]
            square = dx * dx + dy * dy
            if square < limit:
                off = near.s[j] * thickness / 3.0
                far = 0.5 * (square / limit + min(off * off, 1.0))
                if far < away[p]:
                    away[p], match[p] = far, j


@helper(KEEPS_NAN)
def _best_scale(pattern, near, match):
    """Return the scale that suits the peaks best."""
    above, below = 0.0, 0.0
    for p in range(len(pattern.x)):
        j = match[p]
        if j >= 0:
            weight = near.f[j] / pattern.base[p]
            above += weight * pattern.root[p]
            below += weight * near.f[j]
    return above / below if below > 0.0 else 0.0


@routine(KEEPS_NAN)
def _cost(turn, scale, crystal, pattern, rough, work, out):
    """Return the cost and the scale, and write the normal equations. A scale of 0 is replaced by the best one for these peaks."""
    near, match, numbers, expected = work.near, work.match, crystal.numbers, out.expected
    count = project(turn, crystal, work)
    amplitudes(near, count, work.short, numbers[1], rough)
    _matched(pattern, near, count, numbers, match, work.away)
    if scale <= 0.0:
        scale = _best_scale(pattern, near, match)
    k2 = numbers[0] * numbers[0]
    cost, r0, r1, r2, r3 = 0.0, 0.0, 0.0, 0.0, 0.0
    n00, n10, n11, n20, n21, n22, n30, n31, n33 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for p in range(len(pattern.x)):
        expected[p] = 0.0
        j = match[p]
        if j < 0:
            cost += pattern.alone[p]
            continue
        x, y, z, f = near.x[j], near.y[j], near.z[j], near.f[j]
        unsure = scale * near.blur[j]
        sure, weight = pattern.sure[p], 1.0 / (pattern.base[p] + unsure * unsure)
        dx, dy, di = pattern.x[p] - x, pattern.y[p] - y, pattern.root[p] - scale * f
        own = (dx * dx + dy * dy) * sure + weight * di * di
        if own >= pattern.alone[p]:
            cost += pattern.alone[p]
            continue
        cost += own
        near.found[j] = 1
        expected[p] = scale * f * scale * f
        # The turns move qx by (0, z, -y) and qy by (-z, 0, x), and the amplitude by (u, v, 0). The scale changes the amplitude by f.
        slope, down = scale * near.slope[j], z / np.sqrt(k2 - x * x - y * y) - 1.0
        u, v = slope * y * down, -slope * x * down
        r0 += weight * u * di - sure * z * dy
        r1 += weight * v * di + sure * z * dx
        r2 += sure * (x * dy - y * dx)
        r3 += weight * f * di
        n00 += weight * u * u + sure * z * z
        n10 += weight * u * v
        n11 += weight * v * v + sure * z * z
        n20 -= sure * z * x
        n21 -= sure * z * y
        n22 += sure * (x * x + y * y)
        n30 += weight * f * u
        n31 += weight * f * v
        n33 += weight * f * f
    limit, outer, inner = np.sqrt(numbers[4]), numbers[5] * numbers[5], numbers[6] * numbers[6]
    for j in range(count):
        excess = scale * near.f[j] - limit
        if near.found[j] == 1 or not excess > 0.0:
            continue
        x, y, z, f = near.x[j], near.y[j], near.z[j], near.f[j]
        q = x * x + y * y
        if q < outer and q > inner:
            unsure, vague = scale * near.blur[j], numbers[8] * scale * f
            weight = 1.0 / (0.25 * (numbers[7] + vague * vague) + unsure * unsure)
            slope, down = scale * near.slope[j], z / np.sqrt(k2 - q) - 1.0
            u, v = slope * y * down, -slope * x * down
            cost += weight * excess * excess
            r0 -= weight * u * excess
            r1 -= weight * v * excess
            r3 -= weight * f * excess
            n00 += weight * u * u
            n10 += weight * u * v
            n11 += weight * v * v
            n30 += weight * f * u
            n31 += weight * f * v
            n33 += weight * f * f
    right, normal = out.right, out.normal
    right[0], right[1], right[2], right[3] = r0, r1, r2, r3
    normal[0, 0], normal[1, 0], normal[1, 1], normal[2, 0], normal[2, 1] = n00, n10, n11, n20, n21
    normal[2, 2], normal[3, 0], normal[3, 1], normal[3, 2], normal[3, 3] = n22, n30, n31, 0.0, n33
    return cost, scale


@helper()
def _solve(normal, right, damping, lower, step):
    """Solve (N + damping diag N) x = r by Cholesky's method. Return False if N is singular."""
    for i in range(PARAMETERS):
        for j in range(i + 1):
            value = normal[i, j] * (1.0 + damping) if i == j else normal[i, j]
            for m in range(j):
                value -= lower[i, m] * lower[j, m]
            if i == j:
                if not value > 1e-12 * normal[i, i]:
                    return False
                lower[i, i] = np.sqrt(value)
            else:
                lower[i, j] = value / lower[j, j]
    for i in range(PARAMETERS):
        value = right[i]
        for j in range(i):
            value -= lower[i, j] * step[j]
        step[i] = value / lower[i, i]
    for i in range(PARAMETERS - 1, -1, -1):
        value = step[i]
        for j in range(i + 1, PARAMETERS):
            value -= lower[j, i] * step[j]
        step[i] = value / lower[i, i]
    return True


@helper()
def _turned(turn, step, out):
    """Write exp(step) turn: a turn by |step| about step, in lab axes."""
    x, y, z = step[0], step[1], step[2]
    square = x * x + y * y + z * z
    angle = np.sqrt(square)
    one, two = 1.0 - square / 6.0, 0.5 - square / 24.0
    if angle > 1e-4:
        one, two = np.sin(angle) / angle, (1.0 - np.cos(angle)) / square
    for c in range(3):
        a, b, d = turn[0, c], turn[1, c], turn[2, c]
        u, v, w = y * d - z * b, z * a - x * d, x * b - y * a
        out[0, c] = a + one * u + two * (y * w - z * v)
        out[1, c] = b + one * v + two * (z * u - x * w)
        out[2, c] = d + one * w + two * (x * v - y * u)


@helper()
def _look_up(peaks, order, numbers, pattern):
    """Write the peaks of a pattern in the order of qx, and which of them are near each strip."""
    n = len(order)
    for p in range(n):
        peak = peaks[order[p]]
        m, variance, error = peak[2], peak[3], peak[4]
        pattern.x[p], pattern.y[p], pattern.root[p] = peak[0], peak[1], np.sqrt(m)
        pattern.base[p], pattern.alone[p], pattern.sure[p] = variance / (4.0 * m), 4.0 * m * m / variance, 1.0 / (error * error)
    radius = numbers[2]
    width = max(1.0001 * (pattern.x[n - 1] - pattern.x[0] + 2.0 * radius) / STRIPS, 1e-300)
    start = pattern.x[0] - radius
    numbers[9], numbers[10] = start, 1.0 / width
    first, last = 0, 0
    for strip in range(STRIPS):  # a little more than needed, so that rounding loses no peak
        while first < n and pattern.x[first] < start + (strip - 0.01) * width - radius:
            first += 1
        while last < n and pattern.x[last] <= start + (strip + 1.01) * width + radius:
            last += 1
        pattern.first[strip], pattern.last[strip] = first, last


@helper()
def _keep(spare, turn, expected):
    """Take a trial: its orientation, normal equations and expected intensities."""
    for i in range(3):
        for j in range(3):
            turn[i, j] = spare.trial[i, j]
    for i in range(PARAMETERS):
        spare.right[i] = spare.behind[i]
        for j in range(i + 1):
            spare.normal[i, j] = spare.other[i, j]
    for p in range(len(expected)):
        expected[p] = spare.expected[p]


@helper()
def _descend(turn, rough, steps, crystal, pattern, work, spare, expected):
    """Refine one candidate in place, and return its cost and scale. The normal matrix is left in `spare.normal`."""
    scale, damping, arrived, cost = 0.0, DAMPING, False, 0.0
    own, other = Equations(spare.normal, spare.right, expected), Equations(spare.other, spare.behind, spare.expected)
    for i in range(rough + steps):
        if i == 0 or i == rough:
            damping, arrived = DAMPING, False
            cost, scale = _cost(turn, 0.0, crystal, pattern, i < rough, work, own)
        if arrived or not _solve(spare.normal, spare.right, damping, spare.lower, spare.step):
            arrived = True
            continue
        _turned(turn, spare.step, spare.trial)
        wanted = max(scale + spare.step[3], 0.2 * scale)
        tried, new_scale = _cost(spare.trial, wanted, crystal, pattern, i < rough, work, other)
        if tried < cost:
            _keep(spare, turn, expected)
            arrived = cost - tried < SMALL
            cost, scale, damping = tried, new_scale, 0.2 * damping
        else:
            damping = 5.0 * damping
    if steps == 0:
        cost, scale = _cost(turn, 0.0, crystal, pattern, False, work, own)
    return cost, scale


@entry(allocates=True)
def _refine(turns, peaks, counts, order, g, factor, blur, limit, numbers, rough, steps, results, normals, expected):
    n, candidates, most, p = turns.shape[0], turns.shape[1], g.shape[1], peaks.shape[1]
    crystal = Crystal(g[0], g[1], g[2], factor, blur, limit, numbers)
    room, whole = np.empty((12, most + 1)), np.empty((2, most + 1), np.int64)
    near = Near(room[0], room[1], room[2], room[3], room[4], room[5], room[6], whole[0], whole[1])
    short = Short(room[7], room[8], room[9], room[10], room[11], np.full((3, 3), 10.0), np.zeros(1, np.int64))
    work = Work(short, near, np.empty(p, np.int64), np.empty(p))
    spare = Spare(
        np.empty((4, 4)), np.empty(4), np.empty((4, 4)), np.empty(4), np.empty((4, 4)), np.zeros(4), np.empty((3, 3)), np.empty(p)
    )
    table, strips, found = np.empty((6, p)), np.empty((2, STRIPS), np.int64), np.zeros(p)
    for b in range(n):
        c = counts[b]
        pattern = Pattern(table[0, :c], table[1, :c], table[2, :c], table[3, :c], table[4, :c], table[5, :c], strips[0], strips[1])
        if c > 0:
            _look_up(peaks[b], order[b, :c], numbers, pattern)
        for one in range(candidates):
            turn = turns[b, one]
            if not np.isfinite(turn[0, 0]) or c == 0:
                results[b, one, 0], results[b, one, 1] = np.nan, np.nan
                continue
            results[b, one, 0], results[b, one, 1] = _descend(turn, rough, steps, crystal, pattern, work, spare, found[:c])
            for i in range(PARAMETERS):
                for j in range(PARAMETERS):
                    normals[b, one, i, j] = spare.normal[max(i, j), min(i, j)]
            for k in range(c):
                expected[b, one, order[b, k]] = found[k]


def refine_orientations(
    turns, peaks, counts, g, factor, /, *, wave_number, thickness, radius, reach, least, q_max, q_min, unit, relative, rough=0, steps=8
):
    checked(turns, peaks, counts, g, factor)
    best = np.array(turns, np.float64)
    results, normals = np.empty((*turns.shape[:2], 2)), np.zeros((*turns.shape[:2], PARAMETERS, PARAMETERS))
    expected = np.zeros((*turns.shape[:2], peaks.shape[1]))
    numbers = np.array([wave_number, thickness, radius, reach, least, q_max, q_min, unit, relative, 0, 0], np.float64)
    peaks, factor, counts = contiguous(peaks, np.float64), contiguous(factor, np.float64), contiguous(counts, np.int64)
    length = np.sqrt(np.sum(np.square(g, dtype=np.float64), axis=-1))
    blur = factor * np.minimum(1.0, BLUR * np.pi * thickness * length)
    # A step along s is longer than a step of the reflection by no more than k / √(k² − g²).
    steepest = np.sqrt(np.maximum(1.0 - (length / wave_number) ** 2, 0.0))
    limit = np.where(steepest > 0.1, reach + TURN * length / np.maximum(steepest, 0.1), np.inf)
    there = np.arange(peaks.shape[1]) < counts[:, None]
    order = contiguous(np.argsort(np.where(there, peaks[..., 0], np.inf), axis=-1, kind="stable"), np.int64)
    _refine(
        best, peaks, counts, order, contiguous(np.transpose(g), np.float64), factor, contiguous(blur), contiguous(limit), numbers,
        rough, steps, results, normals, expected,
    )  # fmt: skip
    return best, results[..., 0], results[..., 1], normals, expected
