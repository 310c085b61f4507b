"""Make the normal equations of a group of disks: images of the model, derivatives, and their sums over the pixels.

The matrix is nearly banded: disks are ordered along the longer side of the group, and only disks with overlapping windows share an
entry. The nodes of the background come last.
"""

import weakref
from typing import NamedTuple

import numpy as np

from gpu4d.bragg.likelihood.joint_fit import BOUND, BOUNDED_STEPS, LEAST_COUNTS
from gpu4d.bragg.likelihood.poisson_fit import LEAST, RECENTRE
from gpu4d.compiled import KEEPS_NAN, part, routine

LANES = 16  # pixels of a vector: rows of patches are padded to whole vectors


class Disk(NamedTuple):
    """The disk's table on squares of pixels, and the settings of the fit."""

    table: np.ndarray  # (17, 17, 3, side, stride) float32, zero outside the round window
    inside: np.ndarray  # (side, stride) float32: 1 in the round window
    half: int
    radius: float
    rows: int  # parameters of a disk: x, y, a, and with 5 also the slopes of its intensity
    flat: bool  # the background of a small group is constant
    valid: np.ndarray  # (Qx, Qy) bool: where the detector counts; (1, 1) where all does
    columns: int  # Qy
    apart: float  # distance of the nodes of the background, pixels
    wander: float
    significance: float


class Group(NamedTuple):
    """Work arrays of a group."""

    plane: np.ndarray  # (Qx, stride) float32: the pattern
    weight: np.ndarray  # 1 / λ in the windows, else 0
    residual: np.ndarray  # (I - λ) / λ
    patch: np.ndarray  # (members, rows, side, stride) float32: derivatives of λ by the parameters of a disk
    scaled: np.ndarray  # (rows, side, stride): the same of one disk, times the weight
    corner: np.ndarray  # (members, 2) int64: first pixel of a patch
    state: np.ndarray  # (members, 5): x, y, a, cx, cy
    first: np.ndarray  # (members, 2): where it started
    moved: np.ndarray  # (members, 2): last step
    alive: np.ndarray  # (members,) bool
    result: np.ndarray  # (members, 4): xx, xy, yy, a / σ
    ground: np.ndarray  # (nodes,): background at the nodes
    matrix: np.ndarray  # (size, size) lower triangle: normal equations, then their Cholesky factor
    begin: np.ndarray  # (size,) int64: first column of a row
    answer: np.ndarray  # (size,)
    columns: np.ndarray  # (3, size)
    member: np.ndarray  # (members,) int64: number of the disk in its pattern
    box: np.ndarray  # (4,): first row and column, distances of the nodes
    nodes: np.ndarray  # (2,) int64: nodes along both axes


def square_table(table, pixels):
    """Return the table on squares (17, 17, 3, side, stride), with zeros outside the round window. It is kept for the next call."""
    global _last_table
    if _last_table is None or _last_table[0]() is not table:
        half = -int(pixels[0, 0])
        side = 2 * half + 1
        square = np.zeros((*table.shape[:3], side, -(-side // LANES) * LANES), np.float32)
        square[..., pixels[:, 0] + half, pixels[:, 1] + half] = table
        if table.flags.writeable:
            return square
        _last_table = weakref.ref(table), square
    return _last_table[1]


_last_table: tuple[weakref.ref, np.ndarray] | None = None


@part
def tent(group, a, q):
    """Return the node before pixel q along axis a, and the share of the next one."""
    if group.nodes[a] == 1:
        return 0, 0.0
    t = (q - group.box[a]) / group.box[2 + a]
    i = min(max(int(np.floor(t)), 0), group.nodes[a] - 2)
    return i, t - i


@routine(KEEPS_NAN)
def ground_at(group, x, y):
    i, s = tent(group, 0, x)
    j, t = tent(group, 1, y)
    line = group.nodes[1]
    total = (1 - s) * (1 - t) * group.ground[i * line + j]
    if group.nodes[1] > 1:
        total += (1 - s) * t * group.ground[i * line + j + 1]
    if group.nodes[0] > 1:
        total += s * (1 - t) * group.ground[(i + 1) * line + j]
        if group.nodes[1] > 1:
            total += s * t * group.ground[(i + 1) * line + j + 1]
    return total


@routine(KEEPS_NAN)
def set_images(members, disk, group, step):
    """Set patches, weight and residual. Return the number of pixels and Σ (I - λ)² / λ.

    At the first step all amplitudes are 0, and weights come from the counts: this step is a fit of amplitudes by least squares.
    """
    bounded = np.float32(BOUND if step < BOUNDED_STEPS else 0.0)
    nx, ny = group.plane.shape[0], disk.columns
    side, half = disk.inside.shape[0], disk.half
    model, weight, corner, state = group.residual, group.weight, group.corner, group.state
    patch, ground, plane, inside = group.patch, group.ground, group.plane, disk.inside
    top, bottom, left, right = nx, 0, ny, 0
    for j in range(members):
        for a in range(2):
            middle = corner[j, a] + half
            if group.alive[j] and abs(state[j, a] - middle) > RECENTRE:
                corner[j, a] = int(np.floor(state[j, a] + 0.5)) - half
        top, bottom = min(top, corner[j, 0]), max(bottom, corner[j, 0] + side)
        left, right = min(left, corner[j, 1]), max(right, corner[j, 1] + side)
    top, bottom, left, right = max(top, 0), min(bottom, nx), max(left, 0), min(right, ny)
    weight[top:bottom, left:right] = 0
    model[top:bottom, left:right] = 0
    for j in range(members):
        _set_patch(j, disk, group)
        height = np.float32(state[j, 2])
        for r in range(max(0, -corner[j, 0]), min(side, nx - corner[j, 0])):
            q = corner[j, 0] + r
            for c in range(max(0, -corner[j, 1]), min(side, ny - corner[j, 1])):
                p = corner[j, 1] + c
                weight[q, p] = max(weight[q, p], inside[r, c])
                model[q, p] += height * patch[j, 2, r, c]
                if disk.rows == 5:
                    model[q, p] += np.float32(state[j, 3]) * patch[j, 3, r, c]
                    model[q, p] += np.float32(state[j, 4]) * patch[j, 4, r, c]
    pixels, square = 0, 0.0
    masked = disk.valid.size > 1
    line, floor = group.nodes[1], np.float32(LEAST)
    for q in range(top, bottom):
        i, s = tent(group, 0, q)
        before, after = i * line, min(i + 1, group.nodes[0] - 1) * line
        for p in range(left, right):
            if weight[q, p] == 0 or (masked and not disk.valid[q, p]):
                weight[q, p], model[q, p] = 0, 0
                continue
            j, t = tent(group, 1, p)
            k = min(j + 1, line - 1)
            low = (1 - t) * ground[before + j] + t * ground[before + k]
            high = (1 - t) * ground[after + j] + t * ground[after + k]
            value = model[q, p] + np.float32((1 - s) * low + s * high)
            counts = plane[q, p]
            if step == 0:
                w = np.float32(1) / max(counts, np.float32(LEAST_COUNTS))
                residual = counts * w
            else:
                value = max(value, max(floor, bounded * counts))
                w = np.float32(1) / value
                residual = (counts - value) * w
            square += residual * (counts - value)
            weight[q, p], model[q, p] = w, residual
            pixels += 1
    return pixels, square


@routine(KEEPS_NAN)
def _set_patch(j, disk, group):
    """Set the derivatives of λ by the parameters of a disk: the nearest phase of the table, moved to first order."""
    patch, state, half = group.patch[j], group.state[j], disk.half
    if not group.alive[j]:
        patch[:] = 0
        return
    phases = disk.table.shape[0] - 1
    fx, fy = (state[0] - group.corner[j, 0] - half, state[1] - group.corner[j, 1] - half)
    p = min(max(int(np.floor((fx + 0.5) * phases + 0.5)), 0), phases)
    q = min(max(int(np.floor((fy + 0.5) * phases + 0.5)), 0), phases)
    dx, dy = np.float32(fx + 0.5 - p / phases), np.float32(fy + 0.5 - q / phases)
    t0, t1, t2 = disk.table[p, q, 0], disk.table[p, q, 1], disk.table[p, q, 2]
    side, stride = disk.inside.shape
    a, cx, cy = np.float32(state[2]), np.float32(state[3]), np.float32(state[4])
    least = np.float32(0.05) * a
    for r in range(side):
        for c in range(stride):
            patch[2, r, c] = t0[r, c] - dx * t1[r, c] - dy * t2[r, c]
        if disk.rows == 3:
            for c in range(stride):
                patch[0, r, c], patch[1, r, c] = -a * t1[r, c], -a * t2[r, c]
        else:
            u = np.float32((r - half) / half)
            for c in range(stride):
                v = np.float32((c - half) / half)
                height = max(a + cx * u + cy * v, least)
                patch[0, r, c], patch[1, r, c] = -height * t1[r, c], -height * t2[r, c]
                patch[3, r, c], patch[4, r, c] = u * patch[2, r, c], v * patch[2, r, c]


@routine(KEEPS_NAN)
def set_equations(members, disk, group, fixed):
    """Set the normal equations: matrix Σ ∇λ ∇λᵀ / λ, and gradient Σ (I - λ) ∇λ / λ."""
    nx, ny = group.plane.shape[0], disk.columns
    rows, side = disk.rows, disk.inside.shape[0]
    matrix, answer, begin, corner = group.matrix, group.answer, group.begin, group.corner
    nodes, base = group.nodes[0] * group.nodes[1], members * rows
    for j in range(members):
        first = j
        while first > 0 and _any_overlap(corner, first - 1, j, side):
            first -= 1
        for a in range(rows):
            begin[j * rows + a] = first * rows
            matrix[j * rows + a, first * rows : j * rows + a + 1] = 0
            answer[j * rows + a] = 0
    for a in range(base, base + nodes):
        begin[a] = 0
        matrix[a, : a + 1] = 0
        answer[a] = 0
    for j in range(members):
        if fixed:
            group.patch[j, :2] = 0
        r0, r1 = max(0, -corner[j, 0]), min(side, nx - corner[j, 0])
        c0, c1 = max(0, -corner[j, 1]), min(side, ny - corner[j, 1])
        for a in range(rows):
            total = np.float32(0)
            for r in range(r0, r1):
                weight = group.weight[corner[j, 0] + r, corner[j, 1] + c0 : corner[j, 1] + c1]
                residual = group.residual[corner[j, 0] + r, corner[j, 1] + c0 : corner[j, 1] + c1]
                patch, scaled = group.patch[j, a, r, c0:c1], group.scaled[a, r, c0:c1]
                for c in range(c1 - c0):
                    scaled[c] = patch[c] * weight[c]
                    total += patch[c] * residual[c]
            answer[j * rows + a] = total
        for i in range(begin[j * rows] // rows, j + 1):
            _pair(i, j, r0, r1, c0, c1, group)
        _with_nodes(j, rows, r0, r1, c0, c1, base, group)
    _nodes(members, side, base, group, nx, ny)
    for a in range(base + nodes):
        if matrix[a, a] <= 0:  # a disk that is gone, a position that is fixed, a node without a pixel
            matrix[a, a], answer[a] = 1, 0


@part
def _any_overlap(corner, i, j, side):
    """Return whether the windows of disk i, or of one before it, can overlap that of disk j."""
    for k in range(i + 1):
        if abs(corner[k, 0] - corner[j, 0]) < side and abs(corner[k, 1] - corner[j, 1]) < side:
            return True
    return False


@routine(KEEPS_NAN)
def _pair(i, j, r0, r1, c0, c1, group):
    """Add Σ ∇ᵢλ ∇ⱼλᵀ / λ over the pixels that both windows hold. `group.scaled` has the derivatives of disk j over λ."""
    rows, side = group.scaled.shape[0], group.scaled.shape[1]
    down, right = group.corner[j, 0] - group.corner[i, 0], group.corner[j, 1] - group.corner[i, 1]
    r0, r1 = max(r0, -down), min(r1, side - down)
    c0, c1 = max(c0, -right), min(c1, side - right)
    if r0 >= r1 or c0 >= c1:
        return
    for a in range(rows):
        for b in range(a + 1 if i == j else rows):
            total = np.float32(0)
            for r in range(r0, r1):
                mine, other = group.scaled[a, r, c0:c1], group.patch[i, b, r + down, c0 + right : c1 + right]
                for c in range(c1 - c0):
                    total += mine[c] * other[c]
            group.matrix[j * rows + a, i * rows + b] = total


@routine(KEEPS_NAN)
def _with_nodes(j, rows, r0, r1, c0, c1, base, group):
    """Add the entries of a disk and the nodes under its window."""
    line = group.nodes[1]
    for a in range(rows):
        for r in range(r0, r1):
            i, s = tent(group, 0, group.corner[j, 0] + r)
            c = c0
            while c < c1:  # one cell of the background after the other
                k, t = tent(group, 1, group.corner[j, 1] + c)
                end = c1
                if line > 1 and k < line - 2:
                    end = min(c1, int(np.ceil(group.box[1] + (k + 1) * group.box[3])) - group.corner[j, 1])
                    end = max(end, c + 1)
                slope = np.float32(1 / group.box[3] if line > 1 else 0.0)
                share = np.float32(t)
                whole = part = np.float32(0)
                scaled = group.scaled[a, r, c:end]
                for q in range(end - c):
                    whole += scaled[q]
                    part += scaled[q] * (share + np.float32(q) * slope)
                for down in range(min(2, group.nodes[0])):
                    weight = s if down else 1 - s
                    row = base + (i + down) * line + k
                    group.matrix[row, j * rows + a] += weight * (whole - part)
                    if line > 1:
                        group.matrix[row + 1, j * rows + a] += weight * part
                c = end


@routine(KEEPS_NAN)
def _nodes(members, side, base, group, nx, ny):
    """Add the entries of the nodes: their own, and those of neighbouring nodes."""
    top, bottom, left, right = nx, 0, ny, 0
    for j in range(members):
        top, bottom = min(top, group.corner[j, 0]), max(bottom, group.corner[j, 0] + side)
        left, right = min(left, group.corner[j, 1]), max(right, group.corner[j, 1] + side)
    top, bottom, left, right = max(top, 0), min(bottom, nx), max(left, 0), min(right, ny)
    line = group.nodes[1]
    for q in range(top, bottom):
        i, s = tent(group, 0, q)
        c = left
        while c < right:
            k, t = tent(group, 1, c)
            end = right
            if line > 1 and k < line - 2:
                end = max(c + 1, min(right, int(np.ceil(group.box[1] + (k + 1) * group.box[3]))))
            slope = np.float32(1 / group.box[3] if line > 1 else 0.0)
            share = np.float32(t)
            whole = part = square = score = score_part = np.float32(0)
            weight, residual = group.weight[q, c:end], group.residual[q, c:end]
            for p in range(end - c):
                here = share + np.float32(p) * slope
                whole += weight[p]
                part += weight[p] * here
                square += weight[p] * here * here
                score += residual[p]
                score_part += residual[p] * here
            for down in range(min(2, group.nodes[0])):
                mine = s if down else 1 - s
                row = base + (i + down) * line + k
                group.answer[row] += mine * (score - score_part)
                if line > 1:
                    group.answer[row + 1] += mine * score_part
                for up in range(down + 1):
                    other = base + (i + up) * line + k
                    both = mine * (s if up else 1 - s)
                    group.matrix[row, other] += both * (whole - 2 * part + square)
                    if line > 1:
                        group.matrix[row + 1, other] += both * (part - square)
                        group.matrix[row + 1, other + 1] += both * square
                        if down != up:
                            group.matrix[row, other + 1] += both * (part - square)
            c = end
