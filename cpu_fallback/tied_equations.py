"""Make the model and the normal equations of a whole pattern whose disks a lattice places.

Images of the whole pattern are float32 and flat, each row padded to whole vectors. Unknowns: the amplitudes of the disks, then `DENSE`
rows for the background and the lattice. Only disks whose windows overlap share an entry; the last rows share one with all.
"""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.power import _log2

from gpu4d.bragg.likelihood.tied_fit import GEOMETRY, GROUND, LEAST
from gpu4d.compiled import KEEPS_NAN, part, routine

LANES = 16  # pixels of a vector
CHUNK = 512  # pixels: their part of all images stays in the first-level cache
DENSE = GROUND + GEOMETRY  # unknowns that all pixels depend on
FAR_OUT = 1e6  # px: a disk farther away than this is put there, so that its pixels have numbers
NEAR_ONE = np.float32(0.1)  # relative change of the model: below it ln(1 + x) - x is summed as a series
LN2 = np.float32(np.log(2.0))


class Scene(NamedTuple):
    """What is the same for all patterns."""

    table: np.ndarray  # (17, 17, 3, side, stride) float32, zero outside the round window
    half: int
    orders: np.ndarray  # (J, 2) float64
    pairs: np.ndarray  # (P, 2) int64: disks that interfere
    valid: np.ndarray  # (Qx, wide) float32: 1 where the detector counts; 0 elsewhere, and in the padding
    columns: int  # Qy
    across: np.ndarray  # (wide,) float32: columns from 0 to 1


class Work(NamedTuple):
    """Work arrays of one thread."""

    plane: np.ndarray  # (Qx, wide) float32: counts, 0 where the detector does not count
    models: np.ndarray  # (2, Qx, wide): λ before and after a step
    weight: np.ndarray  # 1 / λ, 0 where the detector does not count
    residual: np.ndarray  # (I - λ) / λ
    images: np.ndarray  # (DENSE, Qx, wide): derivatives of λ by background and lattice
    flat: tuple  # weight, residual and images with one axis of pixels
    patch: np.ndarray  # (J, 3, side, stride): D and its slopes
    height: np.ndarray  # (side, stride): amplitude and interference of a disk
    scaled: np.ndarray  # (CHUNK,)
    corner: np.ndarray  # (J, 2) int64: first pixel of a patch
    theta: np.ndarray  # (2, J + DENSE): amplitudes, background, lattice, before and after a step
    mixed: np.ndarray  # (2, P): interference before and after a step
    push: np.ndarray  # (2, P): slope and curvature of the likelihood by the interference
    matrix: np.ndarray  # (J + DENSE,) * 2, lower triangle: Fisher matrix
    factor: np.ndarray  # its Cholesky factor
    begin: np.ndarray  # (J + DENSE,) int64: first column of a row
    free: np.ndarray  # (J + DENSE,) bool: parameters that are fitted
    gradient: np.ndarray  # (J + DENSE,)
    step: np.ndarray  # (J + DENSE,)
    sums: np.ndarray  # (DENSE + 2,)


@routine(KEEPS_NAN)
def set_model(which, scene, work):
    """Set patches and λ of the parameters before (0) or after (1) a step."""
    disks, model, theta = len(scene.orders), work.models[which], work.theta[which]
    nx, wide = model.shape
    for q in range(nx):
        row, share = model[q], q / max(nx - 1, 1)
        left = np.float32((1 - share) * theta[disks] + share * theta[disks + 2])
        right = np.float32((1 - share) * theta[disks + 1] + share * theta[disks + 3])
        for c in range(wide):
            row[c] = left + (right - left) * scene.across[c]
    for j in range(disks):
        _set_patch(j, theta, scene, work)
        amplitude = np.float32(theta[j])
        r0, r1, c0, c1 = _on_detector(j, scene, work)
        for r in range(r0, r1):
            at = work.corner[j, 1] + c0
            row, patch = model[work.corner[j, 0] + r, at : at + c1 - c0], work.patch[j, 0, r, c0:c1]
            for c in range(c1 - c0):
                row[c] += amplitude * patch[c]
    for p in range(len(scene.pairs)):
        i, j, strength = scene.pairs[p, 0], scene.pairs[p, 1], np.float32(work.mixed[which, p])
        down, right, r0, r1, c0, c1 = _shared(i, j, scene, work)
        for r in range(r0, r1):
            at = work.corner[j, 1] + c0
            row, mine = model[work.corner[j, 0] + r, at : at + c1 - c0], work.patch[j, 0, r, c0:c1]
            other = work.patch[i, 0, r + down, c0 + right : c1 + right]
            for c in range(c1 - c0):
                row[c] += strength * mine[c] * other[c]
    floor = np.float32(LEAST)
    for q in range(nx):
        row = model[q]
        for c in range(wide):
            row[c] = max(row[c], floor)


@routine(KEEPS_NAN)
def _set_patch(j, theta, scene, work):
    """Set D and its slopes of a disk: the nearest phase of the table, moved to first order."""
    first, phases, side = len(scene.orders) + GROUND, scene.table.shape[0] - 1, 2 * scene.half + 1
    h, k = scene.orders[j, 0], scene.orders[j, 1]
    x = min(max(theta[first] + h * theta[first + 2] + k * theta[first + 4], -FAR_OUT), FAR_OUT)
    y = min(max(theta[first + 1] + h * theta[first + 3] + k * theta[first + 5], -FAR_OUT), FAR_OUT)
    cx, cy = np.floor(x + 0.5), np.floor(y + 0.5)
    work.corner[j, 0], work.corner[j, 1] = int(cx) - scene.half, int(cy) - scene.half
    p = min(max(int(np.floor((x - cx + 0.5) * phases + 0.5)), 0), phases)
    q = min(max(int(np.floor((y - cy + 0.5) * phases + 0.5)), 0), phases)
    dx, dy = np.float32(x - cx + 0.5 - p / phases), np.float32(y - cy + 0.5 - q / phases)
    zero = np.float32(0)
    for r in range(side):
        t0, t1, t2 = scene.table[p, q, 0, r], scene.table[p, q, 1, r], scene.table[p, q, 2, r]
        d0, d1, d2 = work.patch[j, 0, r], work.patch[j, 1, r], work.patch[j, 2, r]
        for c in range(t0.size):
            d0[c] = max(t0[c] - dx * t1[c] - dy * t2[c], zero)
        for c in range(t0.size):
            d1[c] = t1[c]
        for c in range(t0.size):
            d2[c] = t2[c]


@part
def _on_detector(j, scene, work):
    """Return rows and columns of a patch that lie on the detector: first and end."""
    side, row, column = 2 * scene.half + 1, work.corner[j, 0], work.corner[j, 1]
    return max(0, -row), min(side, work.plane.shape[0] - row), max(0, -column), min(side, scene.columns - column)


@part
def _shared(i, j, scene, work):
    """Return where patch j lies in patch i, and rows and columns of patch j that both have, on the detector."""
    side = 2 * scene.half + 1
    down, right = work.corner[j, 0] - work.corner[i, 0], work.corner[j, 1] - work.corner[i, 1]
    r0, r1, c0, c1 = _on_detector(j, scene, work)
    return down, right, max(r0, -down), min(r1, side - down), max(c0, -right), min(c1, side - right)


@routine(KEEPS_NAN)
def gain(work):
    """Return by how much a step raises the logarithm of the likelihood, without that of the interference.

    With x the relative change of λ it is Σ I (ln(1 + x) - x) + (I - λ) x, whose terms are small near the maximum, for any dose. The
    weights must be those of the parameters before the step.
    """
    total, one = 0.0, np.float32(1)
    for q in range(work.plane.shape[0]):
        counts, before, after, weight = work.plane[q], work.models[0, q], work.models[1, q], work.weight[q]
        row = np.float32(0)
        for c in range(counts.size):
            x = (after[c] - before[c]) * weight[c]
            y = min(max(x, -NEAR_ONE), NEAR_ONE)
            near = np.float32(y == x)
            far = LN2 * _log2(one + x) - x
            row += counts[c] * (far + near * (_series(y) - far)) + (counts[c] - before[c]) * x
        total += row
    return total


@part
def _series(y):
    """Return ln(1 + y) - y for |y| up to 0.1, 1e-7 relative."""
    s = np.float32(-1 / 8) * y + np.float32(1 / 7)
    s = s * y - np.float32(1 / 6)
    s = s * y + np.float32(1 / 5)
    s = s * y - np.float32(1 / 4)
    s = s * y + np.float32(1 / 3)
    return (s * y - np.float32(1 / 2)) * y * y


@routine(KEEPS_NAN)
def set_equations(fixed, scene, work):
    """Set Fisher matrix and gradient of the parameters before a step. The patches must be theirs. `fixed`: the lattice stays."""
    floor = np.float32(LEAST)
    for q in range(work.plane.shape[0]):
        counts, model, valid = work.plane[q], work.models[0, q], scene.valid[q]
        weight, residual = work.weight[q], work.residual[q]
        for c in range(counts.size):
            w = valid[c] / max(model[c], floor)  # numba asks whether it is 0, and then does not vectorise
            weight[c] = w
            residual[c] = (counts[c] - model[c]) * w
    work.images[GROUND:] = 0
    if not fixed:
        for j in range(len(scene.orders)):
            _add_slopes(j, scene, work)
    _dense_rows(scene, work)
    for j in range(len(scene.orders)):
        _disk_rows(j, scene, work)
    for p in range(len(scene.pairs)):
        _pair_sums(p, scene, work)


@routine(KEEPS_NAN)
def _add_slopes(j, scene, work):
    """Add the derivatives of λ by the lattice of one disk."""
    h, k = np.float32(scene.orders[j, 0]), np.float32(scene.orders[j, 1])
    work.height[:] = np.float32(work.theta[0, j])
    for p in range(len(scene.pairs)):
        if scene.pairs[p, 0] == j or scene.pairs[p, 1] == j:
            _add_other(j, scene.pairs[p, 0] + scene.pairs[p, 1] - j, np.float32(work.mixed[0, p]), scene, work)
    r0, r1, c0, c1 = _on_detector(j, scene, work)
    for r in range(r0, r1):
        q, at = work.corner[j, 0] + r, work.corner[j, 1] + c0
        height = work.height[r, c0:c1]
        for axis in range(2):
            slope = work.patch[j, 1 + axis, r, c0:c1]
            own = work.images[GROUND + axis, q, at : at + c1 - c0]
            first = work.images[GROUND + 2 + axis, q, at : at + c1 - c0]
            second = work.images[GROUND + 4 + axis, q, at : at + c1 - c0]
            for c in range(c1 - c0):
                move = height[c] * slope[c]
                own[c] -= move
                first[c] -= h * move
                second[c] -= k * move


@part
def _add_other(j, i, strength, scene, work):
    """Add to the height of disk j its interference with disk i."""
    down, right, r0, r1, c0, c1 = _shared(i, j, scene, work)
    for r in range(r0, r1):
        height, other = work.height[r, c0:c1], work.patch[i, 0, r + down, c0 + right : c1 + right]
        for c in range(c1 - c0):
            height[c] += strength * other[c]


@routine(KEEPS_NAN)
def _dense_rows(scene, work):
    """Set the entries of background and lattice with each other, and their gradient."""
    first = len(scene.orders)
    for a in range(DENSE):
        work.gradient[first + a] = 0
        for b in range(a + 1):
            work.matrix[first + a, first + b] = 0
    weight, residual, images = work.flat
    for begin in range(0, weight.size, CHUNK):
        end = min(begin + CHUNK, weight.size)
        some, size = slice(begin, end), end - begin
        scaled, rest = work.scaled, residual[some]
        for a in range(DENSE):
            mine, w = images[a, some], weight[some]
            score = np.float32(0)
            for c in range(size):
                scaled[c] = mine[c] * w[c]
            for c in range(size):
                score += mine[c] * rest[c]
            work.gradient[first + a] += score
            for b in range(a + 1):
                other = images[b, some]
                total = np.float32(0)
                for c in range(size):
                    total += scaled[c] * other[c]
                work.matrix[first + a, first + b] += total


@routine(KEEPS_NAN)
def _disk_rows(j, scene, work):
    """Set the entries of a disk: with the disks before it, with background and lattice, and its gradient."""
    disks = len(scene.orders)
    first = j
    for i in range(j):
        near = abs(work.corner[i, 0] - work.corner[j, 0]) <= 2 * scene.half
        if near and abs(work.corner[i, 1] - work.corner[j, 1]) <= 2 * scene.half:
            first = min(first, i)
    work.begin[j] = first
    for i in range(first, j):
        work.matrix[j, i] = _product(i, j, scene, work)
    r0, r1, c0, c1 = _on_detector(j, scene, work)
    work.sums[:] = 0
    for r in range(r0, r1):
        q, at = work.corner[j, 0] + r, work.corner[j, 1] + c0
        some = slice(at, at + c1 - c0)
        w, rest, d = work.weight[q, some], work.residual[q, some], work.patch[j, 0, r, c0:c1]
        across, down = scene.across[some], np.float32(q / max(work.plane.shape[0] - 1, 1))
        x0, y0, x1 = work.images[GROUND, q, some], work.images[GROUND + 1, q, some], work.images[GROUND + 2, q, some]
        y1, x2, y2 = work.images[GROUND + 3, q, some], work.images[GROUND + 4, q, some], work.images[GROUND + 5, q, some]
        whole = right = s0 = s1 = s2 = s3 = s4 = s5 = own = score = np.float32(0)
        for c in range(c1 - c0):
            t = d[c] * w[c]
            whole += t
            right += t * across[c]
            s0 += t * x0[c]
            s1 += t * y0[c]
            s2 += t * x1[c]
            s3 += t * y1[c]
            s4 += t * x2[c]
            s5 += t * y2[c]
            own += t * d[c]
            score += d[c] * rest[c]
        sums = work.sums
        sums[0] += (1 - down) * (whole - right)
        sums[1] += (1 - down) * right
        sums[2] += down * (whole - right)
        sums[3] += down * right
        sums[4] += s0
        sums[5] += s1
        sums[6] += s2
        sums[7] += s3
        sums[8] += s4
        sums[9] += s5
        sums[10] += own
        sums[11] += score
    for a in range(DENSE):
        work.matrix[disks + a, j] = work.sums[a]
    work.matrix[j, j] = work.sums[DENSE]
    work.gradient[j] = work.sums[DENSE + 1]


@part
def _product(i, j, scene, work):
    """Return Σ Dᵢ Dⱼ / λ."""
    down, right, r0, r1, c0, c1 = _shared(i, j, scene, work)
    total = np.float32(0)
    for r in range(r0, r1):
        q, at = work.corner[j, 0] + r, work.corner[j, 1] + c0
        weight, mine = work.weight[q, at : at + c1 - c0], work.patch[j, 0, r, c0:c1]
        other = work.patch[i, 0, r + down, c0 + right : c1 + right]
        for c in range(c1 - c0):
            total += mine[c] * other[c] * weight[c]
    return total


@routine(KEEPS_NAN)
def _pair_sums(p, scene, work):
    """Set Σ (I - λ) Dᵢ Dⱼ / λ and Σ (Dᵢ Dⱼ)² / λ of a pair."""
    i, j = scene.pairs[p, 0], scene.pairs[p, 1]
    down, right, r0, r1, c0, c1 = _shared(i, j, scene, work)
    slope = stiff = np.float32(0)
    for r in range(r0, r1):
        q, at = work.corner[j, 0] + r, work.corner[j, 1] + c0
        weight, residual = work.weight[q, at : at + c1 - c0], work.residual[q, at : at + c1 - c0]
        mine, other = work.patch[j, 0, r, c0:c1], work.patch[i, 0, r + down, c0 + right : c1 + right]
        for c in range(c1 - c0):
            both = mine[c] * other[c]
            slope += both * residual[c]
            stiff += both * both * weight[c]
    work.push[0, p], work.push[1, p] = slope, stiff
