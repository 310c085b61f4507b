"""Fit electrons (CPU twin), frame by frame: first the groups, then each of them alone, with the charge of its neighbours subtracted."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.compiled import contiguous, entry, helper, read_only, routine
from gpu4d.preprocess.charge import ERF, ERF_SCALE, SQRT_HALF, SQRT_TAU, ChargeModel
from gpu4d.preprocess.count_electrons import per_pixel
from gpu4d.preprocess.electrons import Electrons
from gpu4d.preprocess.fit_electrons import (
    CLIMB,
    FIRST_STEPS,
    HALF,
    HOLD,
    LEAST_START,
    LONGEST,
    MODEL_ERROR,
    MOST,
    PASSES,
    REACH,
    START_SHARE,
    SWEEPS,
)

SIDE = 2 * HALF + 1
ERF_1, ERF_2, ERF_3, ERF_4, ERF_5 = ERF
GROUP = 32  # pixels that are tested together, in vector registers
BLOCK_PIXELS = 1 << 17  # whose signals are held at a time: they stay in the cache


@helper()
def _below(t, density):
    k = 1.0 / (1.0 + ERF_SCALE * SQRT_HALF * abs(t))
    inside = 1.0 - k * (ERF_1 + k * (ERF_2 + k * (ERF_3 + k * (ERF_4 + k * ERF_5)))) * density
    return 0.5 * (1.0 + (inside if t >= 0 else -inside))


@routine()
def _share(place, spread, into, slope):
    """Share of the charge in each row of the square, and its derivative. Neighbouring rows share an edge."""
    low = (-HALF - place - 0.5) / spread
    density = math.exp(-low * low / 2)
    share_below = _below(low, density)
    for i in range(SIDE):
        high = (i - HALF - place + 0.5) / spread
        density_above = math.exp(-high * high / 2)
        share_above = _below(high, density_above)
        into[i], slope[i] = share_above - share_below, (density - density_above) / (spread * SQRT_TAU)
        share_below, density = share_above, density_above


@routine()
def _add(left, one, sign, model, rows):
    """Add the charge of one electron to a square, or subtract it."""
    _share(one[0], model[0], rows[0], rows[1])
    _share(one[1], model[0], rows[2], rows[3])
    for i in range(SIDE):
        for j in range(SIDE):
            left[i, j] += sign * (one[2] * rows[0, i] * rows[2, j])


@helper()
def _within(value, limit):
    return min(max(value, -limit), limit)


@routine()
def _step(left, weight, one, model, rows):
    """Take one Gauss–Newton step of one electron. `left` is without its charge before and after."""
    _share(one[0], model[0], rows[0], rows[1])
    _share(one[1], model[0], rows[2], rows[3])
    signal, spread = one[2], model[2] * model[2]
    a00, a01, a02, a11, a12, a22, b0, b1, b2 = HOLD, 0.0, 0.0, HOLD, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(SIDE):
        for j in range(SIDE):
            w, rest = weight[i, j], left[i, j]
            gs = rows[0, i] * rows[2, j]
            gx, gy = signal * rows[1, i] * rows[2, j], signal * rows[0, i] * rows[3, j]
            a00 += w * gx * gx
            a01 += w * gx * gy
            a02 += w * gx * gs
            a11 += w * gy * gy
            a12 += w * gy * gs
            a22 += w * gs * gs
            b0 += w * gx * rest
            b1 += w * gy * rest
            b2 += w * gs * rest
    a22 += 1.0 / (spread * signal * signal)
    b2 -= (math.log(signal) - model[4]) / (spread * signal)
    c00, c01, c02 = a11 * a22 - a12 * a12, a02 * a12 - a01 * a22, a01 * a12 - a02 * a11
    c11, c12, c22 = a00 * a22 - a02 * a02, a01 * a02 - a00 * a12, a00 * a11 - a01 * a01
    scale = 1.0 / (a00 * c00 + a01 * c01 + a02 * c02)
    for i in range(SIDE):
        for j in range(SIDE):
            left[i, j] += signal * rows[0, i] * rows[2, j]
    one[0] = _within(one[0] + _within(scale * (c00 * b0 + c01 * b1 + c02 * b2), LONGEST), REACH)
    one[1] = _within(one[1] + _within(scale * (c01 * b0 + c11 * b1 + c12 * b2), LONGEST), REACH)
    one[2] = min(max(signal + scale * (c02 * b0 + c12 * b1 + c22 * b2), signal / 2), 2 * signal)
    _add(left, one, -1.0, model, rows)


@routine()
def _cost(left, weight, electrons, n, model):
    cost = 0.0
    for i in range(SIDE):
        for j in range(SIDE):
            cost += weight[i, j] * left[i, j] * left[i, j]
    cost *= 0.5
    for k in range(n):
        log = math.log(electrons[k, 2])
        cost += (log - model[4]) * (log - model[4]) / (2 * model[2] * model[2]) + log
    return cost + n * (math.log(model[2] * SQRT_TAU) + model[3])


@routine()
def _first(target, weight, electrons, left, model, rows):
    """Fit one electron to a group; return the cost."""
    total, x, y = 0.0, 0.0, 0.0
    for i in range(1, SIDE - 1):
        for j in range(1, SIDE - 1):
            if weight[i, j] > 0 and target[i, j] > 0:
                total += target[i, j]
                x += target[i, j] * (i - HALF)
                y += target[i, j] * (j - HALF)
    total = max(total, 0.2)
    electrons[0, 0], electrons[0, 1], electrons[0, 2] = x / total, y / total, total
    for i in range(SIDE):
        for j in range(SIDE):
            left[i, j] = target[i, j]
    _add(left, electrons[0], -1.0, model, rows)
    for _ in range(FIRST_STEPS):
        _step(left, weight, electrons[0], model, rows)
    return _cost(left, weight, electrons, 1, model)


@routine()
def _one_more(target, weight, own, electrons, n, trial, left, model, rows):
    """Fit n + 1 electrons; return the cost, infinite where nothing is left for another one."""
    for i in range(SIDE):
        for j in range(SIDE):
            left[i, j] = target[i, j]
    for k in range(n):
        trial[k, 0] = electrons[k, 0] if n > 1 else 0.0
        trial[k, 1] = electrons[k, 1] if n > 1 else 0.0
        trial[k, 2] = min(electrons[k, 2], 1.0)
        _add(left, trial[k], -1.0, model, rows)
    most, x, y = LEAST_START, -1, -1
    for i in range(SIDE):
        for j in range(SIDE):
            if own[i, j] and left[i, j] > most:
                most, x, y = left[i, j], i, j
    if x < 0:
        return np.inf
    trial[n, 0], trial[n, 1], trial[n, 2] = x - HALF, y - HALF, max(most / START_SHARE, 0.3)
    _add(left, trial[n], -1.0, model, rows)
    for _ in range(SWEEPS):
        for k in range(n + 1):
            _step(left, weight, trial[k], model, rows)
    return _cost(left, weight, trial, n + 1, model)


@entry()
def _signals(frames, level, scale, values):
    """Signal of every pixel, -infinity where there is none. Compiled for each type of pixels; what follows is compiled once."""
    n, nx, ny = frames.shape
    for f in range(n):
        for x in range(nx):
            for y in range(ny):
                v = (np.float32(frames[f, x, y]) - level[x, y]) * scale[x, y]
                values[f, x, y] = v if v == v else np.float32(-np.inf)


@helper()
def _at(values, x, y):
    if x < 0 or y < 0 or x >= values.shape[0] or y >= values.shape[1]:
        return np.float32(-np.inf)
    return values[x, y]


@routine()
def _brightest(values, x, y):
    """Pixel of the brightest of 3 × 3; of equal ones the first in the order that makes maxima."""
    best, at = np.float32(-np.inf), x * values.shape[1] + y
    for k in range(9):
        dx, dy = k % 3 - 1, k // 3 - 1
        value = _at(values, x + dx, y + dy)
        if value > best:
            best, at = value, (x + dx) * values.shape[1] + y + dy
    return at


@routine()
def _groups(values, lower, upper, up, index, places):
    """Find the maxima of a frame. `up` is the brightest neighbour of pixels over the threshold, -1 for others. Return their number."""
    nx, ny = values.shape
    m = 0
    for x in range(nx):
        for start in range(0, ny, GROUP):
            stop = min(start + GROUP, ny)
            some = np.int32(0)
            for y in range(start, stop):
                some += np.int32(values[x, y] >= lower)
            for y in range(start, stop):
                up[x, y] = index[x, y] = -1
            if some == 0:
                continue
            for y in range(start, stop):
                v = values[x, y]
                if v >= lower:
                    up[x, y] = _brightest(values, x, y)
                    if up[x, y] == x * ny + y and v < upper:
                        if m < len(places):
                            index[x, y], places[m, 0], places[m, 1] = m, x, y
                        m += 1
    return m


@routine()
def _square(values, lower, up, index, group, place, first, target, weight, own, model):
    """Fill target, weight and own pixels of a group."""
    ny = values.shape[1]
    for i in range(SIDE):
        for j in range(SIDE):
            x, y = place[0] + i - HALF, place[1] + j - HALF
            value = _at(values, x, y)
            over, whose = value >= lower, -1
            if over:
                at = up[x, y]
                for _ in range(CLIMB - 1):
                    at = up[at // ny, at % ny]
                whose = index[at // ny, at % ny]
            known = np.isfinite(value)
            target[i, j] = value if known else 0.0
            own[i, j] = over and whose == group
            bright = MODEL_ERROR * max(target[i, j], 0.0)
            used = known and (not over or whose >= 0)
            if first and not own[i, j]:
                used = used and not over and 1 <= i < SIDE - 1 and 1 <= j < SIDE - 1
            weight[i, j] = 1.0 / (model[1] * model[1] + bright * bright) if used else 0.0


@routine()
def _subtract_others(index, group, place, electrons, number, target, model, rows, one):
    """Subtract the charge of the groups around a group from its square; return how many there are."""
    nx, ny = index.shape
    near = 0
    for x in range(max(place[0] - 2 * HALF, 0), min(place[0] + 2 * HALF + 1, nx)):
        for y in range(max(place[1] - 2 * HALF, 0), min(place[1] + 2 * HALF + 1, ny)):
            other = index[x, y]
            if other < 0 or other == group:
                continue
            near += 1
            dx, dy = x - place[0], y - place[1]
            for k in range(number[other]):
                for c in range(3):
                    one[c] = electrons[other, k, c]
                _share(one[0], model[0], rows[0], rows[1])
                _share(one[1], model[0], rows[2], rows[3])
                for i in range(max(dx, 0), min(SIDE + dx, SIDE)):
                    for j in range(max(dy, 0), min(SIDE + dy, SIDE)):
                        target[i, j] -= one[2] * rows[0, i - dx] * rows[2, j - dy]
    return near


@entry(allocates=True)
def _fit(values, lower, upper, model, most, offsets):
    """Fill the offsets after the first, and return places and signals (m, 3)."""
    n, nx, ny = values.shape
    out, m, before = np.empty((64, 3), np.float32), 0, offsets[0]
    up, index = np.empty((nx, ny), np.int64), np.empty((nx, ny), np.int64)
    target, weight, left, rows = np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE)), np.empty((SIDE, SIDE)), np.empty((4, SIDE))
    own, trial, one = np.empty((SIDE, SIDE), np.bool_), np.empty((MOST, 3)), np.empty(3)
    places = np.empty((64, 2), np.int64)
    old, new = np.empty((64, MOST, 3)), np.empty((64, MOST, 3))
    number, was = np.ones(64, np.int64), np.ones(64, np.int64)
    for f in range(n):
        frame = values[f]
        groups = _groups(frame, lower, upper, up, index, places)
        if groups > len(places):
            places = np.empty((2 * groups, 2), np.int64)
            old, new = np.empty((2 * groups, MOST, 3)), np.empty((2 * groups, MOST, 3))
            number, was = np.ones(2 * groups, np.int64), np.ones(2 * groups, np.int64)
            _groups(frame, lower, upper, up, index, places)
        for turn in range(PASSES):
            for g in range(groups):
                _square(frame, lower, up, index, g, places[g], turn == 0, target, weight, own, model)
                if turn > 0 and _subtract_others(index, g, places[g], old, was, target, model, rows, one) == 0 and turn > 1:
                    number[g] = was[g]  # alone in its square: nothing has changed
                    for k in range(MOST):
                        for c in range(3):
                            new[g, k, c] = old[g, k, c]
                    continue
                cost, number[g] = _first(target, weight, new[g], left, model, rows), 1
                limit = most if turn > 0 else 1
                while number[g] < limit and cost > (number[g] + 1) * model[5]:  # one more cannot cost less than this
                    lower_cost = _one_more(target, weight, own, new[g], number[g], trial, left, model, rows)
                    if not lower_cost < cost:
                        break
                    cost = lower_cost
                    number[g] += 1
                    for k in range(number[g]):
                        for c in range(3):
                            new[g, k, c] = trial[k, c]
            old, new = new, old
            number, was = was, number
        for g in range(groups):
            for k in range(was[g]):
                if m == len(out):
                    more = np.empty((2 * m, 3), np.float32)
                    more[:m] = out
                    out = more
                out[m, 0], out[m, 1] = places[g, 0] + old[g, k, 0], places[g, 1] + old[g, k, 1]
                out[m, 2] = old[g, k, 2]
                m += 1
        offsets[f + 1] = before + m
    return out[:m]


def fit_electrons(frames, dark, lower, upper, model, /, *, electron=1.0, gain=None, mask=None, most=MOST):
    *batch, nx, ny = frames.shape
    level, scale = (contiguous(a) for a in per_pixel(dark, electron, gain, mask))
    n, model = int(np.prod(batch)), ChargeModel.of(model)
    numbers = read_only(np.array([*model, model.mean_log, model.least_cost]))
    limits = np.float32(lower), np.float32(upper)
    frames, offsets = read_only(frames.reshape(n, nx, ny)), np.zeros(n + 1, np.int64)
    block = max(1, BLOCK_PIXELS // max(nx * ny, 1))
    values, parts = np.empty((min(block, n), nx, ny), np.float32), [np.empty((0, 3), np.float32)]
    for first in range(0, n, block):
        some = min(block, n - first)
        _signals(frames[first : first + some], level, scale, values[:some])
        parts.append(_fit(read_only(values[:some]), *limits, numbers, np.int64(most), offsets[first : first + some + 1]))
    found = np.concatenate(parts)
    return Electrons(offsets, *(found[:, c].copy() for c in range(3)))
