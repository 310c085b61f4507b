"""Fit lattices to whole patterns by the Poisson likelihood (CPU twin). Images are float32, the normal equations float64."""

import numpy as np
from gpu4d.cpu_fallback.cholesky import factor, solve
from gpu4d.cpu_fallback.joint_equations import square_table
from gpu4d.cpu_fallback.pixels import by_address, read_pattern, zero_masked
from gpu4d.cpu_fallback.tied_equations import CHUNK, DENSE, LANES, Scene, Work, gain, set_equations, set_model

from gpu4d.bragg.likelihood.tied_fit import (
    DAMPING,
    EASED,
    FAINT,
    FIXED_STEPS,
    GAIN,
    GEOMETRY,
    GROUND,
    LEAST,
    LEFT,
    LONGEST,
    MOST_STEPS,
    RAISED,
    RAISED_TO,
    REGULAR,
    TiedFit,
    check,
)
from gpu4d.compiled import KEEPS_NAN, contiguous, entry, part, routine


def tied_fit(patterns, start, orders, pairs, table, pixels, /, mask=None):
    check(patterns, start, orders, pairs)
    n, nx, ny = patterns.shape
    disks, wide = len(orders), -(-ny // LANES) * LANES
    valid = np.zeros((nx, wide), np.float32)
    valid[:, :ny] = 1 if mask is None else mask
    square = square_table(table, np.asarray(pixels))
    numbers = contiguous(orders, np.float64), contiguous(np.asarray(pairs).T, np.int64)
    scene = Scene(square, -int(pixels[0, 0]), *numbers, valid, ny, contiguous(np.arange(wide) / max(ny - 1, 1), np.float32))
    work = _work(scene)
    out = np.full((n, GEOMETRY), np.nan), np.full((n, GEOMETRY, GEOMETRY), np.nan), np.full((n, disks), np.nan), np.full(n, np.nan)
    ok = np.zeros(n, bool)
    if n:
        _owner, frames = by_address(patterns)
        counts = contiguous(np.ones((nx, ny), bool) if mask is None else mask, bool)
        _fit_all(frames, contiguous(start, np.float64), counts, scene, work, *out, ok)
    return TiedFit(*out, ok)


def _work(scene):
    """Make the work arrays of one thread."""
    disks, pairs, (nx, wide) = len(scene.orders), len(scene.pairs), scene.valid.shape
    side, stride = scene.table.shape[3:]
    size = disks + DENSE
    single = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    images, weight, residual = single(DENSE, nx, wide), single(nx, wide), single(nx, wide)
    down = (np.arange(nx) / max(nx - 1, 1))[:, None]
    images[0], images[1] = (1 - down) * (1 - scene.across), (1 - down) * scene.across
    images[2], images[3] = down * (1 - scene.across), down * scene.across
    return Work(
        single(nx, wide),
        single(2, nx, wide),
        weight,
        residual,
        images,
        (weight.reshape(-1), residual.reshape(-1), images.reshape(DENSE, -1)),
        single(disks, 3, side, stride),
        single(side, stride),
        single(CHUNK),
        np.zeros((disks, 2), np.int64),
        np.zeros((2, size)),
        np.zeros((2, pairs)),
        np.zeros((2, pairs)),
        np.zeros((size, size)),
        np.zeros((size, size)),
        np.zeros(size, np.int64),
        np.zeros(size, bool),
        np.zeros(size),
        np.zeros(size),
        np.zeros(DENSE + 2),
    )


@entry(KEEPS_NAN)
def _fit_all(frames, start, counted, scene, work, geometry, covariance, amplitude, scatter, ok):
    for n in range(start.shape[0]):
        read_pattern(frames, n, work.plane, scene.columns)
        total, known = 0.0, 0.0
        if zero_masked(work.plane, counted):
            for q in range(work.plane.shape[0]):
                for c in range(scene.columns):
                    total += work.plane[q, c]
        for a in range(GEOMETRY):
            known += start[n, a]
        if total > 0 and np.isfinite(known):
            ok[n] = _fit(start[n], scene, work, geometry[n], covariance[n], amplitude[n])
            if ok[n]:
                scatter[n] = _scatter(scene, work)


@routine(KEEPS_NAN)
def _fit(start, scene, work, geometry, covariance, amplitude):
    """Fit one pattern, and return whether it tells its lattice."""
    disks = len(scene.orders)
    _begin(start, scene, work)
    damping, mine = DAMPING, True  # whether the patches are those of the parameters before the step
    for step in range(MOST_STEPS):
        if mine or step == FIXED_STEPS:
            if not mine:
                set_model(0, scene, work)
            set_equations(step < FIXED_STEPS, scene, work)
        left = _solve(damping, scene, work) + _mix(damping, scene, work)
        _move(scene, work)
        set_model(1, scene, work)
        raised = gain(work) + _of_pairs(0, scene, work) - _of_pairs(1, scene, work)
        mine = raised >= 0
        if mine:
            _keep(work)
            damping *= EASED
        else:
            damping = max(damping * RAISED, RAISED_TO)
        if step > FIXED_STEPS and (raised if mine else 0.5 * left) < GAIN:
            break
    if not mine:
        set_model(0, scene, work)
    set_equations(False, scene, work)
    if not _covariance(scene, work, covariance):
        return False
    for a in range(GEOMETRY):
        geometry[a] = work.theta[0, disks + GROUND + a]
    for j in range(disks):
        amplitude[j] = work.theta[0, j]
    return True


@part
def _keep(work):
    """Take the step."""
    for q in range(work.plane.shape[0]):
        before, after = work.models[0, q], work.models[1, q]
        for c in range(before.size):
            before[c] = after[c]
    for a in range(work.step.size):
        work.theta[0, a] = work.theta[1, a]
    for p in range(work.mixed.shape[1]):
        work.mixed[0, p] = work.mixed[1, p]


@routine(KEEPS_NAN)
def _begin(start, scene, work):
    """Set the start: amplitudes from the counts in the disks, an even background, no interference."""
    disks, theta = len(scene.orders), work.theta[0]
    theta[:] = 0
    for a in range(GROUND):
        theta[disks + a] = 2 * LEAST
    for a in range(GEOMETRY):
        theta[disks + GROUND + a] = start[a]
    work.mixed[:] = 0
    set_model(0, scene, work)
    side, (nx, _) = 2 * scene.half + 1, work.plane.shape
    for j in range(disks):
        area = light = 0.0
        row, column = work.corner[j, 0], work.corner[j, 1]
        for r in range(max(0, -row), min(side, nx - row)):
            for c in range(max(0, -column), min(side, scene.columns - column)):
                d = work.patch[j, 0, r, c] * scene.valid[row + r, column + c]
                area += d * d
                light += d * work.plane[row + r, column + c]
        theta[j] = max(0.6 * light / (area if area > 0 else 1.0), 10 * FAINT)
    set_model(0, scene, work)


@routine(KEEPS_NAN)
def _damped(added, hold, scene, work):
    """Copy the matrix, with a part of its diagonal added, to where it is factored.

    A parameter that changes nothing has 1 alone, and with `hold` so has a height that cannot fall any more, but would.
    """
    disks = len(scene.orders)
    for i in range(work.step.size):
        held = False
        if hold and i < disks + GROUND:
            held = work.theta[0, i] <= (FAINT if i < disks else LEAST) and work.gradient[i] <= 0
        own = work.matrix[i, i]
        work.free[i] = own > 0 and not held
        work.factor[i, i] = own * (1 + added) if work.free[i] else 1.0
        for j in range(work.begin[i], i):
            work.factor[i, j] = work.matrix[i, j] if work.free[i] and work.free[j] else 0.0


@routine(KEEPS_NAN)
def _solve(damping, scene, work):
    """Set the damped step; 0 where the equations have no solution. Return twice the likelihood that it promises."""
    size = work.step.size
    _damped(REGULAR + damping, True, scene, work)
    for a in range(size):
        work.step[a] = work.gradient[a] if work.free[a] else 0.0
    good = factor(work.factor, work.begin, size)
    if good:
        solve(work.factor, work.begin, work.step, size)
    for a in range(size):
        good = good and np.isfinite(work.step[a])
    promised = 0.0
    for a in range(size):
        if not good:
            work.step[a] = 0
        promised += work.step[a] * work.gradient[a]
    return promised


@part
def _mix(damping, scene, work):
    """Set the step of the interference of every pair alone. Return twice the likelihood that all promise."""
    promised, now = 0.0, work.theta[0]
    for p in range(len(scene.pairs)):
        prior = 1 / (now[scene.pairs[p, 0]] * now[scene.pairs[p, 1]])
        slope, stiff = work.push[0, p] - prior * work.mixed[0, p], work.push[1, p] + prior
        work.mixed[1, p] = slope / (stiff * (1 + damping))
        promised += slope * work.mixed[1, p]
    return promised


@routine(KEEPS_NAN)
def _move(scene, work):
    """Set the parameters after a step of limited length."""
    disks, pairs = len(scene.orders), scene.pairs
    first = disks + GROUND
    longest = LONGEST
    for a in range(GEOMETRY):
        longest = max(longest, (1 if a < 2 else 2) * abs(work.step[first + a]))
    part_of_it = LONGEST / longest
    now, then = work.theta[0], work.theta[1]
    for j in range(disks):
        then[j] = max(now[j] + part_of_it * work.step[j], max(LEFT * now[j], FAINT))
    for a in range(disks, first):
        then[a] = max(now[a] + part_of_it * work.step[a], max(LEFT * now[a], LEAST))
    for a in range(first, first + GEOMETRY):
        then[a] = now[a] + part_of_it * work.step[a]
    for p in range(len(pairs)):
        most = 2 * np.sqrt(then[pairs[p, 0]] * then[pairs[p, 1]])
        work.mixed[1, p] = min(max(work.mixed[0, p] + work.mixed[1, p], -most), most)


@part
def _of_pairs(which, scene, work):
    """Return minus the logarithm of the likelihood of the interference."""
    total = 0.0
    for p in range(len(scene.pairs)):
        i, j = scene.pairs[p, 0], scene.pairs[p, 1]
        total += 0.5 * work.mixed[which, p] ** 2 / (work.theta[which, i] * work.theta[which, j])
    return total


@routine(KEEPS_NAN)
def _covariance(scene, work, out):
    """Set the covariance of the lattice: from the last rows L of the factor, (L Lᵀ)⁻¹. Return whether all six numbers are known."""
    size = work.step.size
    first = size - GEOMETRY
    for a in range(first, size):
        if not work.matrix[a, a] > 0:
            return False
    _damped(REGULAR, False, scene, work)
    if not factor(work.factor, work.begin, size):
        return False
    inverse = work.matrix  # of which nothing is needed any more: L⁻¹
    for b in range(GEOMETRY):
        for a in range(b, GEOMETRY):
            total = 1.0 if a == b else 0.0
            for k in range(b, a):
                total -= work.factor[first + a, first + k] * inverse[first + k, first + b]
            inverse[first + a, first + b] = total * work.factor[first + a, first + a]
    for a in range(GEOMETRY):
        for b in range(a + 1):
            total = 0.0
            for k in range(a, GEOMETRY):
                total += inverse[first + k, first + a] * inverse[first + k, first + b]
            out[a, b] = out[b, a] = total
    return np.isfinite(out[0, 0])


@routine(KEEPS_NAN)
def _scatter(scene, work):
    """Return Σ (I - λ)² / Σ λ."""
    square, total = 0.0, 0.0
    for q in range(work.plane.shape[0]):
        counts, model, valid = work.plane[q], work.models[0, q], scene.valid[q]
        above, below = np.float32(0), np.float32(0)
        for c in range(counts.size):
            above += valid[c] * (counts[c] - model[c]) ** 2
            below += valid[c] * model[c]
        square += above
        total += below
    return square / total
