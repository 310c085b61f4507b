"""Refine orientations (CPU twin): one candidate after the other, with all of its reflections and peaks in the first-level cache."""

from typing import NamedTuple

import numpy as np

from gpu4d.compiled import contiguous, entry, helper, routine
from gpu4d.orientation.refine_orientations import BLUR, DAMPING, FLOOR, PARAMETERS, SMALL, checked


class Pattern(NamedTuple):
    """Peaks of one pattern, the reflections of the crystal, and numbers of the fit."""

    peaks: np.ndarray
    count: int
    g: np.ndarray
    factor: np.ndarray
    numbers: np.ndarray


class Work(NamedTuple):
    """Work arrays of one thread."""

    place: np.ndarray  # (reflections, 7): qx, qy, g_z, s, amplitude, its slope, its blur
    which: np.ndarray  # (reflections,): numbers of those near the sphere
    match: np.ndarray  # (peaks,): the reflection of each peak
    found: np.ndarray  # (reflections,): 1 for those that explain a peak
    rows: np.ndarray  # (3, 4): derivatives


@helper()
def _project(turn, g, k, reach, place, which):
    """Write qx, qy, g_z and s of the reflections near the sphere into `place`, their numbers into `which`, and return how many."""
    near = 0
    for j in range(g.shape[0]):
        gz = turn[2, 0] * g[j, 0] + turn[2, 1] * g[j, 1] + turn[2, 2] * g[j, 2]
        gx = turn[0, 0] * g[j, 0] + turn[0, 1] * g[j, 1] + turn[0, 2] * g[j, 2]
        gy = turn[1, 0] * g[j, 0] + turn[1, 1] * g[j, 1] + turn[1, 2] * g[j, 2]
        square = k * k - gx * gx - gy * gy
        if square <= 0.0:
            continue
        s = np.sqrt(square) - k - gz
        if not abs(s) <= reach:
            continue
        place[near, 0], place[near, 1], place[near, 2], place[near, 3] = gx, gy, gz, s
        which[near] = j
        near += 1
    return near


@helper()
def _amplitude(place, j, size, thickness, rough):
    """Write amplitude, slope and blur of a reflection of a size |F|."""
    x = np.pi * thickness * place[j, 3]
    sinc, slope = 1.0 - x * x / 6.0, -x / 3.0
    if abs(x) > 1e-3:
        sinc = np.sin(x) / x
        slope = (np.cos(x) - sinc) / x
    whole = np.sqrt(sinc * sinc + FLOOR * FLOOR)
    length = np.sqrt(place[j, 0] * place[j, 0] + place[j, 1] * place[j, 1] + place[j, 2] * place[j, 2])
    place[j, 4] = size * whole
    place[j, 5] = size * sinc * slope * np.pi * thickness / whole
    place[j, 6] = size * min(1.0, BLUR * np.pi * thickness * length) if rough else 0.0


@helper()
def _nearest(place, near, qx, qy, radius, thickness):
    """Return the reflection of a peak, or -1: near in the plane, and near the sphere."""
    best, chosen, limit = 1.0, -1, radius * radius
    for j in range(near):
        dx, dy = qx - place[j, 0], qy - place[j, 1]
        away = dx * dx + dy * dy
        if away < limit:
            off = place[j, 3] * thickness / 3.0
            away = 0.5 * (away / limit + min(off * off, 1.0))
            if away < best:
                best, chosen = away, j
    return chosen


@helper()
def _add_row(row, residual, weight, normal, right):
    for i in range(PARAMETERS):
        right[i] += weight * row[i] * residual
        for j in range(i + 1):
            normal[i, j] += weight * row[i] * row[j]


@routine()
def _cost(turn, scale, pattern, rough, work, normal, right, expected):
    """Return the cost and the scale, and write the normal equations. A scale of 0 is replaced by the best one for these peaks."""
    peaks, n_peaks, factor, numbers = pattern.peaks, pattern.count, pattern.factor, pattern.numbers
    place, which, match, found, rows = work.place, work.which, work.match, work.found, work.rows
    k, thickness, radius, reach = numbers[0], numbers[1], numbers[2], numbers[3]
    near = _project(turn, pattern.g, k, reach, place, which)
    for j in range(near):
        found[j] = 0
    above, below = 0.0, 0.0
    for p in range(n_peaks):
        j = _nearest(place, near, peaks[p, 0], peaks[p, 1], radius, thickness)
        match[p] = j
        if j >= 0:
            _amplitude(place, j, factor[which[j]], thickness, rough)
            f, m = place[j, 4], peaks[p, 2]
            weight = 1.0 / (peaks[p, 3] / (4.0 * m) + (scale * place[j, 6]) ** 2)
            above += weight * np.sqrt(m) * f
            below += weight * f * f
    if scale <= 0.0:
        scale = above / below if below > 0.0 else 0.0
    for i in range(PARAMETERS):
        right[i] = 0.0
        for j in range(PARAMETERS):
            normal[i, j] = 0.0
    cost = 0.0
    for p in range(n_peaks):
        expected[p] = 0.0
        m, variance = peaks[p, 2], peaks[p, 3]
        alone = 4.0 * m * m / variance
        j = match[p]
        if j < 0:
            cost += alone
            continue
        gx, gy, f = place[j, 0], place[j, 1], place[j, 4]
        sure, weight = 1.0 / (peaks[p, 4] * peaks[p, 4]), 1.0 / (variance / (4.0 * m) + (scale * place[j, 6]) ** 2)
        dx, dy, di = peaks[p, 0] - gx, peaks[p, 1] - gy, np.sqrt(m) - scale * f
        own = (dx * dx + dy * dy) * sure + weight * di * di
        if own >= alone:
            cost += alone
            continue
        cost += own
        found[j] = 1
        expected[p] = (scale * f) ** 2
        _fill(place, j, k, scale, rows)
        _add_row(rows[0], dx, sure, normal, right)
        _add_row(rows[1], dy, sure, normal, right)
        _add_row(rows[2], di, weight, normal, right)
    limit, q_max, q_min = np.sqrt(numbers[4]), numbers[5], numbers[6]
    for j in range(near):
        if found[j] == 1:
            continue
        size, x = factor[which[j]], abs(np.pi * thickness * place[j, 3])
        if scale * size * (FLOOR + (1.0 if x < 1.0 else 1.0 / x)) <= limit:  # no less than the amplitude, and without a sine
            continue
        _amplitude(place, j, size, thickness, rough)
        f, q = place[j, 4], place[j, 0] * place[j, 0] + place[j, 1] * place[j, 1]
        excess = scale * f - limit
        if excess > 0.0 and q < q_max * q_max and q > q_min * q_min:
            weight = 1.0 / (0.25 * (numbers[7] + (numbers[8] * scale * f) ** 2) + (scale * place[j, 6]) ** 2)
            cost += weight * excess * excess
            _fill(place, j, k, scale, rows)
            _add_row(rows[2], -excess, weight, normal, right)
    return cost, scale


@helper()
def _fill(place, j, k, scale, rows):
    """Write the derivatives of qx, qy and of the amplitude by three small turns and by the scale."""
    gx, gy, gz, slope = place[j, 0], place[j, 1], place[j, 2], scale * place[j, 5]
    down = 1.0 / np.sqrt(k * k - gx * gx - gy * gy)
    rows[0, 0], rows[0, 1], rows[0, 2], rows[0, 3] = 0.0, gz, -gy, 0.0
    rows[1, 0], rows[1, 1], rows[1, 2], rows[1, 3] = -gz, 0.0, gx, 0.0
    rows[2, 0] = slope * (gy * gz * down - gy)
    rows[2, 1] = slope * (gx - gx * gz * down)
    rows[2, 2] = 0.0
    rows[2, 3] = place[j, 4]


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


@entry(allocates=True)
def _refine(turns, peaks, counts, g, factor, numbers, rough, steps, results, normals, expected):
    n, candidates = turns.shape[0], turns.shape[1]
    most = g.shape[0]
    whole = np.empty((2, most), np.int64)
    work = Work(np.empty((most, 7)), whole[0], np.empty(peaks.shape[1], np.int64), whole[1], np.empty((3, 4)))
    normal, right, other, behind = np.empty((4, 4)), np.empty(4), np.empty((4, 4)), np.empty(4)
    lower, step, trial = np.empty((4, 4)), np.zeros(4), np.empty((3, 3))
    for b in range(n):
        pattern = Pattern(peaks[b], counts[b], g, factor, numbers)
        for c in range(candidates):
            turn = turns[b, c]
            if not np.isfinite(turn[0, 0]) or counts[b] == 0:
                results[b, c, 0], results[b, c, 1] = np.nan, np.nan
                continue
            cost, scale, damping, arrived = 0.0, 0.0, DAMPING, False
            for i in range(rough + steps):
                coarse = i < rough
                if i == 0 or i == rough:
                    damping, arrived = DAMPING, False
                    cost, scale = _cost(turn, 0.0, pattern, coarse, work, normal, right, expected[b, c])
                if arrived or not _solve(normal, right, damping, lower, step):
                    arrived = True
                    continue
                _turned(turn, step, trial)
                wanted = scale + step[3]
                tried, new_scale = _cost(trial, max(wanted, 0.2 * scale), pattern, coarse, work, other, behind, expected[b, c])
                if tried < cost:
                    turn[:] = trial
                    normal[:], right[:] = other, behind
                    arrived = cost - tried < SMALL
                    cost, scale, damping = tried, new_scale, 0.2 * damping
                else:
                    damping = 5.0 * damping
            cost, scale = _cost(turn, scale if steps > 0 else 0.0, pattern, False, work, normal, right, expected[b, c])
            results[b, c, 0], results[b, c, 1] = cost, scale
            normals[b, c] = normal


def refine_orientations(
    turns, peaks, counts, g, factor, /, *, wave_number, thickness, radius, reach, least, q_max, q_min, unit, relative, rough=0, steps=8
):
    checked(turns, peaks, counts, g, factor)
    best = np.array(turns, np.float64)
    results, normals = np.empty((*turns.shape[:2], 2)), np.zeros((*turns.shape[:2], PARAMETERS, PARAMETERS))
    expected = np.zeros((*turns.shape[:2], peaks.shape[1]))
    numbers = np.array([wave_number, thickness, radius, reach, least, q_max, q_min, unit, relative], np.float64)
    peaks, g, factor = (contiguous(a, np.float64) for a in (peaks, g, factor))
    _refine(best, peaks, contiguous(counts, np.int64), g, factor, numbers, rough, steps, results, normals, expected)
    normals += np.tril(normals, -1).swapaxes(-1, -2)
    return best, results[..., 0], results[..., 1], normals, expected
