"""Look for disks that brighter neighbours hide (CPU twin)."""

import numpy as np
from gpu4d.cpu_fallback.cholesky import factor, solve
from gpu4d.cpu_fallback.hidden_cells import add_up, search_of, work_arrays
from gpu4d.cpu_fallback.pixels import by_address, read_pattern

from gpu4d.bragg.likelihood.hidden_disks import (
    APART,
    DARK,
    FIRST_LOOK,
    FITTED,
    LEAST_VARIANCE,
    MISFIT,
    MOST_HIDDEN,
    MOST_LOOKS,
    TERMS,
    UNEVEN,
    UNKNOWN,
    Hidden,
)
from gpu4d.compiled import KEEPS_NAN, contiguous, entry, routine


def hidden_disks(patterns, x, y, amplitude, state, around, table, pixels, allowed, /, mask=None, radius=1.0, least=5.0):
    n, most = x.shape
    count, out = np.zeros(n, np.int64), np.full((2, n, MOST_HIDDEN), np.nan)
    if n and most:
        search = search_of(table, pixels, allowed, mask, float(radius), float(least))
        disks = np.array([x, y, amplitude], np.float64, order="C")
        _owner, frames = by_address(patterns)
        work = work_arrays(search, patterns.shape[1:])
        _look_at_all(
            frames,
            disks,
            contiguous(state, np.int8),
            contiguous(around, np.int64),
            search,
            work,
            np.zeros(most, bool),
            count,
            out,
        )
    return Hidden(count, *out)


@entry(KEEPS_NAN)
def _look_at_all(frames, disks, state, around, search, work, seen, count, out):
    for i in range(count.size):
        seen[:] = False
        for turn in range(around[i]):
            best = -1
            for k in range(state.shape[1]):
                if state[i, k] == FITTED and not seen[k] and (best < 0 or disks[2, i, k] > disks[2, i, best]):
                    best = k
            if best < 0:
                break
            if turn == 0:
                read_pattern(frames, i, work.plane, work.plane.shape[1])
            seen[best] = True
            add_up(disks[:, i], state[i], best, search, work)
            count[i] = _look_at(disks[:, i], state[i], best, count[i], search, work, out[:, i])


@routine(KEEPS_NAN)
def _look_at(disks, state, middle, count, search, work, out):
    """Take the places of one square, one after the other, and return the number of places of the pattern."""
    size, side, radius = search.size, search.side, search.radius
    ground = _prepare(disks, state, middle, count, search, work, out)
    margin, uneven = search.cover.shape[0] // 2, (UNEVEN * ground) ** 2
    for _ in range(MOST_LOOKS):
        _set_weights(ground, work)
        _sums(search, work)
        _copy(work.matrix, work.answer, work.kept, work.kept_answer)
        row, column = -1, -1
        for n in range(TERMS, TERMS + 2):  # the quadratic alone, and then with a disk
            if n > TERMS:
                row, column, first = _first_look(np.float32(uneven), search, work)
                if not first >= FIRST_LOOK * search.least:
                    return count
                _copy(work.kept, work.kept_answer, work.matrix, work.answer)
                _add_disk(row, column, margin, search, work)
            if not factor(work.matrix, work.begin, n):
                return count
            solve(work.matrix, work.begin, work.answer, n)
            if not np.isfinite(work.answer[0]):
                return count
        height, spread = work.answer[TERMS], work.matrix[TERMS, TERMS] ** 2
        taken = height / np.sqrt(spread + uneven) >= search.least and count < MOST_HIDDEN
        if taken:
            out[0, count] = work.corner[0] + row * size + (size - 1) / 2
            out[1, count] = work.corner[1] + column * size + (size - 1) / 2
            count += 1
        reach = int(APART * radius / size) + 1 if taken else 1
        for i in range(max(row - reach, 0), min(row + reach, side - 1) + 1):
            for j in range(max(column - reach, 0), min(column + reach, side - 1) + 1):
                di, dj = i - row, j - column
                if not taken or (di * di + dj * dj) * size * size < (APART * radius) ** 2:
                    work.free[i, j] = False
                if taken and abs(di) <= margin and abs(dj) <= margin:
                    gone = work.area[i, j] * search.cover[di + margin, dj + margin] * np.float32(height)
                    work.left[i, j] -= gone
                    work.bright[i, j] += gone
    return count


@routine(KEEPS_NAN)
def _copy(matrix, answer, to_matrix, to_answer):
    for i in range(answer.size):
        to_answer[i] = answer[i]
        for j in range(answer.size):
            to_matrix[i, j] = matrix[i, j]


@routine(KEEPS_NAN)
def _prepare(disks, state, middle, count, search, work, out):
    """Set the cells where a hidden disk may lie, and return the variance of a pixel of the background."""
    size, side, radius = search.size, search.side, search.radius
    nx, ny = work.plane.shape
    total = pixels = np.float32(0)
    dark = np.float32(DARK * size * size * disks[2, middle])
    for i in range(side):
        for j in range(side):
            if work.bright[i, j] <= dark:
                total += work.left[i, j]
                pixels += work.area[i, j]
    middle_x, middle_y = work.corner[0] + (size - 1) / 2, work.corner[1] + (size - 1) / 2
    for i in range(side):
        a = int(np.floor(middle_x + i * size))
        for j in range(side):
            b = int(np.floor(middle_y + j * size))
            work.free[i, j] = 0 < i < side - 1 and 0 < j < side - 1 and 0 <= a < nx and 0 <= b < ny and search.allowed[a, b]
    for k in range(state.size + count):
        place = k - state.size
        if place >= 0:
            _close(out[0, place], out[1, place], APART * radius, radius, search, work)
        elif state[k] > 0:
            _close(disks[0, k], disks[1, k], (APART if state[k] == FITTED else UNKNOWN) * radius, 0.0, search, work)
    return max(total / max(pixels, np.float32(1)), np.float32(LEAST_VARIANCE))


@routine(KEEPS_NAN)
def _close(x, y, reach, empty, search, work):
    """Mark the cells nearer than `reach` to a point as not free, and leave the pixels of those nearer than `empty` out."""
    size, side = search.size, search.side
    x, y = x - work.corner[0] - (size - 1) / 2, y - work.corner[1] - (size - 1) / 2
    first, last = max(int(np.ceil((x - reach) / size)), 0), min(int(np.floor((x + reach) / size)), side - 1)
    left, right = max(int(np.ceil((y - reach) / size)), 0), min(int(np.floor((y + reach) / size)), side - 1)
    for i in range(first, last + 1):
        for j in range(left, right + 1):
            away = (i * size - x) ** 2 + (j * size - y) ** 2
            if away < reach * reach:
                work.free[i, j] = False
            if away < empty * empty:
                work.area[i, j] = 0


@routine(KEEPS_NAN)
def _set_weights(ground, work):
    misfit = np.float32(MISFIT)
    area, bright, left = work.area, work.bright, work.left
    for i in range(area.shape[0]):
        for j in range(area.shape[1]):
            pixels, b = area[i, j], bright[i, j]
            w = pixels / max(max(b, np.float32(0)) + pixels * ground + (misfit * b) * (misfit * b), np.float32(1e-30))
            work.weight[i, j] = pixels * w
            work.value[i, j] = left[i, j] / max(pixels, np.float32(1))


@routine(KEEPS_NAN)
def _sums(search, work):
    """Sum the normal equations of the quadratic. Their entries are 15 moments of the weights."""
    s00 = s10 = s01 = s20 = s11 = s02 = s30 = s21 = s12 = s03 = s40 = s31 = s22 = s13 = s04 = np.float32(0)
    r00 = r10 = r01 = r20 = r11 = r02 = np.float32(0)
    for i in range(work.weight.shape[0]):
        weight, value, us, vs = work.weight[i], work.value[i], search.u[i], search.v[i]
        for j in range(weight.size):
            w, u, v = weight[j], us[j], vs[j]
            wu, wv, r = w * u, w * v, w * value[j]
            wuu, wuv, wvv, ru, rv = wu * u, wu * v, wv * v, r * u, r * v
            s00 += w
            s10 += wu
            s01 += wv
            s20 += wuu
            s11 += wuv
            s02 += wvv
            s30 += wuu * u
            s21 += wuu * v
            s12 += wvv * u
            s03 += wvv * v
            s40 += wuu * u * u
            s31 += wuu * u * v
            s22 += wuu * v * v
            s13 += wvv * u * v
            s04 += wvv * v * v
            r00 += r
            r10 += ru
            r01 += rv
            r20 += ru * u
            r11 += ru * v
            r02 += rv * v
    a, x = work.matrix, work.answer
    a[0, 0] = s00
    a[1, 0], a[1, 1] = s10, s20
    a[2, 0], a[2, 1], a[2, 2] = s01, s11, s02
    a[3, 0], a[3, 1], a[3, 2], a[3, 3] = s20, s30, s21, s40
    a[4, 0], a[4, 1], a[4, 2], a[4, 3], a[4, 4] = s11, s21, s12, s31, s22
    a[5, 0], a[5, 1], a[5, 2], a[5, 3], a[5, 4], a[5, 5] = s02, s12, s03, s22, s13, s04
    x[0], x[1], x[2], x[3], x[4], x[5] = r00, r10, r01, r20, r11, r02


@routine(KEEPS_NAN)
def _add_disk(row, column, margin, search, work):
    """Add a disk in a cell to the normal equations."""
    a, x, side = work.matrix, work.answer, search.side
    for k in range(TERMS + 1):
        a[TERMS, k] = 0
    x[TERMS] = 0
    for i in range(max(row - margin, 0), min(row + margin, side - 1) + 1):
        for j in range(max(column - margin, 0), min(column + margin, side - 1) + 1):
            cover, u, v = search.cover[i - row + margin, j - column + margin], search.u[i, j], search.v[i, j]
            w = work.weight[i, j] * cover
            a[TERMS, 0] += w
            a[TERMS, 1] += w * u
            a[TERMS, 2] += w * v
            a[TERMS, 3] += w * u * u
            a[TERMS, 4] += w * u * v
            a[TERMS, 5] += w * v * v
            a[TERMS, 6] += w * cover
            x[TERMS] += w * work.value[i, j]


@routine(KEEPS_NAN)
def _first_look(spread, search, work):
    """Return the cell with the highest z of its 3 × 3 block, and this z, with the quadratic known."""
    side, weight, under, top, bottom = search.side, work.weight, work.under, work.top, work.bottom
    x0, x1, x2 = np.float32(work.answer[0]), np.float32(work.answer[1]), np.float32(work.answer[2])
    x3, x4, x5 = np.float32(work.answer[3]), np.float32(work.answer[4]), np.float32(work.answer[5])
    for i in range(side):
        us, vs, value, w, here = search.u[i], search.v[i], work.value[i], weight[i], work.rest[i]
        line = under[i]
        for j in range(us.size):
            u, v = us[j], vs[j]
            line[j] = x0 + x1 * u + x2 * v + x3 * u * u + x4 * u * v + x5 * v * v
        for j in range(us.size):
            here[j] = (value[j] - line[j]) * w[j]
    row, column, first = -1, -1, np.float32(-1)
    for i in range(1, side - 1):
        a0, a1, a2, w0, w1, w2 = work.rest[i - 1], work.rest[i], work.rest[i + 1], weight[i - 1], weight[i], weight[i + 1]
        for j in range(a0.size):
            top[j], bottom[j] = a0[j] + a1[j] + a2[j], w0[j] + w1[j] + w2[j]
        for j in range(1, side - 1):
            if work.free[i, j]:
                total, all_weights = top[j - 1] + top[j] + top[j + 1], bottom[j - 1] + bottom[j] + bottom[j + 1]
                if total > 0 and all_weights > 0:
                    z = total / all_weights / np.sqrt(1 / all_weights + spread)
                    if z > first:
                        row, column, first = i, j, z
    return row, column, first
