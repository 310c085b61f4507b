"""Make the steps of a fit of two vectors to the maxima of a cepstrum, and its covariance.

`found` (p, 6) has |C|² of each node, its two slopes, and its curvatures xx, yy, xy.
"""

import numpy as np

from gpu4d.compiled import KEEPS_NAN, helper
from gpu4d.crystal.fit_cepstrum import LONGEST_STEP


@helper(KEEPS_NAN)
def _solve(matrix, columns, work):
    """Solve 4 × 4 equations in place by elimination with pivots, columns (4, m). Return whether the matrix is regular."""
    determinant = 1.0
    for i in range(4):
        size = 0.0
        for j in range(4):
            work[i, j] = matrix[i, j]
            size += matrix[i, j] * matrix[i, j]
        determinant *= 1.0 / np.sqrt(size) if size > 0 else 0.0
    for i in range(4):
        pivot = i
        for k in range(i + 1, 4):
            if abs(work[k, i]) > abs(work[pivot, i]):
                pivot = k
        if not abs(work[pivot, i]) > 0:
            return False
        determinant *= work[pivot, i]
        for j in range(4):
            work[i, j], work[pivot, j] = work[pivot, j], work[i, j]
        for j in range(columns.shape[1]):
            columns[i, j], columns[pivot, j] = columns[pivot, j], columns[i, j]
        for k in range(4):
            if k != i:
                factor = work[k, i] / work[i, i]
                for j in range(i, 4):
                    work[k, j] -= factor * work[i, j]
                for j in range(columns.shape[1]):
                    columns[k, j] -= factor * columns[i, j]
    for i in range(4):
        for j in range(columns.shape[1]):
            columns[i, j] /= work[i, i]
    return abs(determinant) > 1e-12


@helper(KEEPS_NAN)
def _shortened(nodes, step):
    """Shorten a step (4,) that moves a node by too much."""
    away = 0.0
    for p in range(nodes.shape[0]):
        h, k = nodes[p, 0], nodes[p, 1]
        away = max(away, abs(h * step[0] + k * step[2]), abs(h * step[1] + k * step[3]))
    if away > LONGEST_STEP:
        for i in range(4):
            step[i] *= LONGEST_STEP / away


@helper(KEEPS_NAN)
def scored_step(nodes, found, widths, step):
    """Set the step (4,) with the curvature of single lines."""
    a, b, d = 0.0, 0.0, 0.0
    for i in range(4):
        step[i] = 0.0
    for p in range(nodes.shape[0]):
        h, k, f = nodes[p, 0], nodes[p, 1], found[p, 0]
        a += f * h * h
        b += f * h * k
        d += f * k * k
        step[0] += h * found[p, 1]
        step[1] += h * found[p, 2]
        step[2] += k * found[p, 1]
        step[3] += k * found[p, 2]
    determinant = a * d - b * b
    if not abs(determinant) > 1e-12 * np.sqrt((a * a + b * b) * (b * b + d * d)):
        for i in range(4):
            step[i] = 0.0
        return
    for c in range(2):
        u, v = step[c] / (2 * widths[c]), step[2 + c] / (2 * widths[c])
        step[c] = (d * u - b * v) / determinant
        step[2 + c] = (a * v - b * u) / determinant
    _shortened(nodes, step)


@helper(KEEPS_NAN)
def _normal(nodes, found, matrix):
    """Set the negative curvature (4, 4) of the summed power."""
    for i in range(4):
        for j in range(4):
            matrix[i, j] = 0.0
    for p in range(nodes.shape[0]):
        for i in range(2):
            for j in range(2):
                pair = nodes[p, i] * nodes[p, j]
                matrix[2 * i, 2 * j] -= pair * found[p, 3]
                matrix[2 * i + 1, 2 * j + 1] -= pair * found[p, 4]
                matrix[2 * i, 2 * j + 1] -= pair * found[p, 5]
                matrix[2 * i + 1, 2 * j] -= pair * found[p, 5]


@helper(KEEPS_NAN)
def newton_step(nodes, found, widths, matrix, work, column, step):
    """Set Newton's step (4,), or the scored one where the summed power has no maximum nearby."""
    _normal(nodes, found, matrix)
    for i in range(4):
        column[i, 0] = 0.0
    for p in range(nodes.shape[0]):
        for i in range(2):
            column[2 * i, 0] += nodes[p, i] * found[p, 1]
            column[2 * i + 1, 0] += nodes[p, i] * found[p, 2]
    for i in range(4):
        step[i] = column[i, 0]
    regular = _solve(matrix, column, work)
    along = 0.0
    for i in range(4):
        along += step[i] * column[i, 0]
    if not (regular and along > 0):
        scored_step(nodes, found, widths, step)
        return
    for i in range(4):
        step[i] = column[i, 0]
    _shortened(nodes, step)


@helper(KEEPS_NAN)
def covariance_of(nodes, found, matrix, work, spread, out):
    """Set the covariance (4, 4) from the scatter of single slopes. Return whether it exists."""
    count = nodes.shape[0]
    for i in range(4):
        for j in range(4):
            total = 0.0
            for p in range(count):
                total += nodes[p, i // 2] * found[p, 1 + i % 2] * nodes[p, j // 2] * found[p, 1 + j % 2]
            spread[i, j] = total * count / (count - 2)
    _normal(nodes, found, matrix)
    regular = _solve(matrix, spread, work)
    for i in range(4):
        for j in range(4):
            out[i, j] = spread[j, i]
    return _solve(matrix, out, work) and regular
