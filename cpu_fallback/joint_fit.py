"""Fit the disks of a group together by the Poisson likelihood (CPU twin). Images are float32, the normal equations float64."""

import numpy as np
from gpu4d.cpu_fallback.cholesky import factor, forward, solve
from gpu4d.cpu_fallback.joint_equations import LANES, Disk, Group, ground_at, set_equations, set_images, square_table
from gpu4d.cpu_fallback.pixels import by_address, read_pattern

from gpu4d.bragg.likelihood.joint_fit import (
    BOUNDED_STEPS,
    BRIGHTER,
    CLOSE,
    CLOSE_PART,
    DAMPED,
    FAINTEST,
    FIXED_STEPS,
    HIDDEN,
    JUDGED,
    JUDGED_FROM,
    LAST_PART,
    LEAST_APART,
    LEAST_COUNTS,
    LEAST_GROUND,
    LEFT,
    MOST_STEPS,
    MUCH_BRIGHTER,
    NONE,
    OPEN,
    JointFit,
    nodes_apart,
    wander,
)
from gpu4d.bragg.likelihood.poisson_fit import FARTHEST, LONGEST
from gpu4d.compiled import KEEPS_NAN, contiguous, entry, part, routine


def joint_fit(patterns, x, y, height, role, table, pixels, /, mask=None, parameters=6, spacing=0.0, shadow=0.0, significance=0.0):
    n, most = x.shape
    start = np.array([x, y, height], np.float64, order="C")
    role = contiguous(role, np.int8)
    out = np.full((8, n, most), np.nan)
    out[:2] = np.where(role != NONE, start[:2], np.nan)
    ok, gone, label = np.zeros((n, most), bool), np.zeros((n, most), bool), np.zeros((n, most), np.int64)
    largest = _group_all(start, role, float(spacing), float(shadow), np.zeros((3, most)), label)
    if largest:
        disk = _disk(table, np.asarray(pixels), mask, patterns.shape[2], parameters, significance)
        group = _work(largest, disk, patterns.shape[1:], max(spacing, shadow))
        _owner, frames = by_address(patterns)
        _fit_all(frames, start, role, label, disk, group, out, ok, gone)
    return JointFit(*out, ok, gone)


def _disk(table, pixels, mask, columns, parameters, significance):
    square = square_table(table, pixels)
    half = -int(pixels[0, 0])
    inside = np.zeros(square.shape[3:], np.float32)
    inside[pixels[:, 0] + half, pixels[:, 1] + half] = 1
    middle = table.shape[0] // 2
    radius = float(np.sqrt(table[middle, middle, 0].sum(dtype=np.float64) / np.pi))
    valid = contiguous(np.ones((1, 1), bool) if mask is None else mask)
    return Disk(
        square,
        inside,
        half,
        radius,
        5 if parameters == 8 else 3,
        parameters == 4,
        valid,
        columns,
        nodes_apart(half),
        wander(radius),
        float(significance),
    )


def _work(members, disk, detector, far):
    side, stride = disk.inside.shape
    rows, (nx, ny) = disk.rows, detector
    wide = -(-ny // LANES) * LANES
    # The longest group: all its disks in a row, each as far from the next as disks of one group can be.
    longest = (members - 1) * far + side
    along = [int(min(n - 1, longest) / disk.apart) + 3 for n in (nx, ny)]
    nodes = along[0] * along[1]
    size = members * rows + nodes
    return Group(
        *(np.zeros((nx, wide), np.float32) for _ in range(3)),
        np.zeros((members, rows, side, stride), np.float32),
        np.zeros((rows, side, stride), np.float32),
        np.zeros((members, 2), np.int64),
        np.zeros((members, 5)),
        np.zeros((members, 2)),
        np.zeros((members, 2)),
        np.zeros(members, bool),
        np.zeros((members, 4)),
        np.zeros(nodes),
        np.zeros((size, size)),
        np.zeros(size, np.int64),
        np.zeros(size),
        np.zeros((3, size)),
        np.zeros(members, np.int64),
        np.zeros(4),
        np.zeros(2, np.int64),
    )


@entry(KEEPS_NAN)
def _group_all(start, role, spacing, shadow, place, label):
    """Give the disks of a group that is to be fitted the number of its first disk, plus 1. Return the size of the largest group."""
    largest = 0
    most = role.shape[1]
    far = max(spacing, shadow) ** 2
    for i in range(role.shape[0]):
        end, some = 0, False  # places after the last disk take no time
        for k in range(most):
            if role[i, k] != NONE:
                end, some = k + 1, some or role[i, k] >= OPEN
                for a in range(3):
                    place[a, k] = start[a, i, k]
        if some or (shadow > 0 and _any_near(place, role[i], end, far)):
            largest = max(largest, _group(place, role[i, :end], spacing, shadow, label[i]))
    return largest


@part
def _any_near(place, role, end, far):
    for k in range(end):
        x, y = place[0, k], place[1, k]
        for j in range(k):
            dx, dy = place[0, j] - x, place[1, j] - y
            if dx * dx + dy * dy < far and role[j] != NONE and role[k] != NONE:
                return True
    return False


@routine(KEEPS_NAN)
def _group(start, role, spacing, shadow, label):
    n = role.size
    joined = False
    for k in range(n):
        label[k] = k + 1 if role[k] != NONE else 0
        for j in range(k):
            if label[j] and label[k] and label[j] != label[k] and _belong_together(j, k, start, role, spacing, shadow):
                joined = True
                keep, drop = min(label[j], label[k]), max(label[j], label[k])
                for q in range(k + 1):
                    if label[q] == drop:
                        label[q] = keep
    largest = 0
    for first in range(1, n + 1):
        size, still_open, hidden = 0, False, False
        for k in range(first - 1, n if joined else first):
            if label[k] == first:
                size += 1
                still_open, hidden = still_open or role[k] == OPEN, hidden or role[k] == HIDDEN
        if size == 1 and still_open:
            still_open = _is_brightest(first - 1, start, role)
        elif size > 1 and shadow > 0:
            still_open = True
        if hidden or still_open:
            largest = max(largest, size)
        elif size:
            for k in range(first - 1, n if joined else first):
                if label[k] == first:
                    label[k] = 0
    return largest


@part
def _belong_together(j, k, start, role, spacing, shadow):
    """Return whether windows overlap, or one disk is so much weaker that the other one may have moved its start."""
    dx, dy = start[0, j] - start[0, k], start[1, j] - start[1, k]
    away = dx * dx + dy * dy
    if away < spacing * spacing:
        return True
    if away >= shadow * shadow:
        return False
    weak, bright = (j, k) if start[2, j] < start[2, k] else (k, j)
    times = BRIGHTER if role[weak] == OPEN else MUCH_BRIGHTER
    return start[2, bright] > times * start[2, weak]


@part
def _is_brightest(k, start, role):
    for j in range(role.size):
        if role[j] != NONE and start[2, j] > start[2, k]:
            return False
    return True


@entry(KEEPS_NAN)
def _fit_all(frames, start, role, label, disk, group, out, ok, gone):
    for i in range(role.shape[0]):
        ready = False
        for first in range(1, role.shape[1] + 1):
            members = 0
            for k in range(role.shape[1]):
                if label[i, k] == first:
                    group.member[members] = k
                    members += 1
            if members:
                if not ready:
                    read_pattern(frames, i, group.plane, disk.columns)
                    ready = True
                _sort_along(start[:2, i], group.member[:members])
                _fit_group(start[:, i], role[i], members, disk, group, out[:, i], ok[i], gone[i])


@routine(KEEPS_NAN)
def _sort_along(start, member):
    """Order the members along the longer side of the group."""
    top = left = np.inf
    bottom = right = -np.inf
    for k in member:
        top, bottom = min(top, start[0, k]), max(bottom, start[0, k])
        left, right = min(left, start[1, k]), max(right, start[1, k])
    axis = 1 if right - left > bottom - top else 0
    for i in range(1, member.size):
        k = member[i]
        j = i - 1
        while j >= 0 and start[axis, member[j]] > start[axis, k]:
            member[j + 1] = member[j]
            j -= 1
        member[j + 1] = k


@routine(KEEPS_NAN)
def _fit_group(start, role, members, disk, group, out, ok, gone):
    """Fit a group, and write its disks to `out`, `ok` and `gone`. If the fit does not end, nothing is written."""
    for j in range(members):
        k = group.member[j]
        for a in range(2):
            group.first[j, a] = group.state[j, a] = start[a, k]
            group.corner[j, a] = int(np.floor(start[a, k] + 0.5)) - disk.half
            group.moved[j, a] = 0.0
        group.state[j, 2:] = 0.0
        group.alive[j] = True
    _place_nodes(members, disk, group)
    nodes = group.nodes[0] * group.nodes[1]
    group.ground[:nodes] = 0.0
    size = members * disk.rows + nodes
    good = False
    for step in range(MOST_STEPS):
        fixed = step < FIXED_STEPS
        pixels, square = set_images(members, disk, group, step)
        set_equations(members, disk, group, fixed)
        if not (factor(group.matrix, group.begin, size) and np.isfinite(group.answer[size - 1]) and np.isfinite(square)):
            return
        solve(group.matrix, group.begin, group.answer, size)
        if not np.isfinite(group.answer[0]):
            return
        good = step >= BOUNDED_STEPS and _close(members, disk, group)
        last = step == MOST_STEPS - 1
        if good or last or (step >= JUDGED_FROM and step % JUDGED == 0):
            _uncertainties(members, disk, group, size)
            scale = np.sqrt(max(1.0, square / max(pixels - size, 1)))
            while _drop_weakest(role, members, disk, group, scale):
                good = False
                if not last:
                    break
        if step >= DAMPED:
            for a in range(size):
                group.answer[a] *= 0.5
        _move(members, disk, group, nodes, fixed)
        if good:
            break
    for j in range(members):
        k = group.member[j]
        xx, yy = group.result[j, 0], group.result[j, 2]
        short = (2 * group.moved[j, 0]) ** 2 <= LAST_PART**2 * xx and (2 * group.moved[j, 1]) ** 2 <= LAST_PART**2 * yy
        gone[k] = not group.alive[j]
        ok[k] = group.alive[j] and (good or (short and xx < FARTHEST**2 and yy < FARTHEST**2))
        if group.alive[j]:
            out[0, k], out[1, k], out[2, k] = group.state[j, 0], group.state[j, 1], group.state[j, 2]
            out[3, k] = ground_at(group, group.state[j, 0], group.state[j, 1])
            out[4, k], out[5, k], out[6, k], out[7, k] = group.result[j, 0], group.result[j, 1], group.result[j, 2], group.result[j, 3]


@routine(KEEPS_NAN)
def _place_nodes(members, disk, group):
    """Spread the nodes of the background over the windows: about one window apart."""
    half = disk.half
    for a in range(2):
        least, most = group.corner[0, a], group.corner[0, a]
        for j in range(members):
            least, most = min(least, group.corner[j, a]), max(most, group.corner[j, a])
        least, most = max(least, 0), min(most + 2 * half, (group.plane.shape[0] if a == 0 else disk.columns) - 1)
        cells = int(np.floor((most - least) / disk.apart + 0.5))
        if disk.flat:
            group.nodes[a] = max(cells, 1)
        else:
            group.nodes[a] = max(cells, 1) + 1
        group.box[a] = least
        group.box[2 + a] = (most - least) / max(group.nodes[a] - 1, 1)


@routine(KEEPS_NAN)
def _uncertainties(members, disk, group, size):
    """Set covariance of the position and a / σ of every disk. The inverse matrix is Zᵀ Z, with L Z = 1."""
    rows, columns = disk.rows, group.columns
    for j in range(members):
        first = j * rows
        for q in range(3):
            columns[q, first:size] = 0
            columns[q, first + q] = 1
            forward(group.matrix, group.begin, columns[q], first, size)
        xx = xy = yy = aa = 0.0
        for k in range(first, size):
            xx += columns[0, k] * columns[0, k]
            xy += columns[0, k] * columns[1, k]
            yy += columns[1, k] * columns[1, k]
            aa += columns[2, k] * columns[2, k]
        group.result[j, 0], group.result[j, 1], group.result[j, 2] = xx, xy, yy
        group.result[j, 3] = group.state[j, 2] / np.sqrt(aa)


@part
def _close(members, disk, group):
    """Return whether the next step is short for every disk: below `CLOSE`, or a small part of the error from the counts."""
    for j in range(members):
        if group.alive[j]:
            for a in range(2):
                row = j * disk.rows + a
                step = abs(group.answer[row])
                if step > CLOSE and step > CLOSE_PART * group.matrix[row, row]:  # 1 / L is below the standard error
                    return False
    return True


@routine(KEEPS_NAN)
def _drop_weakest(role, members, disk, group, scale):
    """Remove the weakest disk that is not significant, or lies on a stronger one, and return whether there was one."""
    worst, least, highest = -1, np.inf, 0.0
    for j in range(members):
        highest = max(highest, group.state[j, 2])
    for j in range(members):
        if not group.alive[j]:
            continue
        strength, faint = group.result[j, 3], False
        if role[group.member[j]] == HIDDEN:
            strength /= scale
            faint = group.state[j, 2] < FAINTEST * highest
        bad = faint or strength < disk.significance or not max(group.result[j, 0], group.result[j, 2]) < FARTHEST**2
        for i in range(members):
            dx, dy = group.state[i, 0] - group.state[j, 0], group.state[i, 1] - group.state[j, 1]
            near = dx * dx + dy * dy < (LEAST_APART * disk.radius) ** 2
            bad = bad or (i != j and group.alive[i] and near and group.state[i, 2] > group.state[j, 2])
        if bad and strength < least:
            worst, least = j, strength
    if worst >= 0:
        _remove(worst, group)
    return worst >= 0


@part
def _remove(j, group):
    group.alive[j] = False
    group.state[j, 2:] = 0.0


@routine(KEEPS_NAN)
def _move(members, disk, group, nodes, fixed):
    """Add the step. It is limited to half a pixel, and reduces an amplitude or the background by four fifths at most."""
    answer, state, rows = group.answer, group.state, disk.rows
    for j in range(members):
        if not group.alive[j]:
            continue
        step = answer[j * rows : (j + 1) * rows]
        if state[j, 2] == 0:
            state[j, 2] = max(step[2], LEAST_COUNTS * 0.1)
        else:
            state[j, 2] = max(state[j, 2] + step[2], LEFT * state[j, 2])
        for a in range(3, rows):
            state[j, a] += step[a]
        if fixed:
            continue
        for a in range(2):
            group.moved[j, a] = min(LONGEST, max(-LONGEST, step[a]))
            state[j, a] += group.moved[j, a]
            if not abs(state[j, a] - group.first[j, a]) <= disk.wander:
                _remove(j, group)
    for k in range(nodes):
        new = group.ground[k] + answer[members * rows + k]
        group.ground[k] = max(new, LEAST_GROUND, LEFT * group.ground[k])
