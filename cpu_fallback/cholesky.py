"""Solve nearly banded systems of equations by Cholesky's method. A row is kept from its first entry that is not zero."""

import numpy as np

from gpu4d.compiled import KEEPS_NAN, routine

PIVOT = 1e-9  # of the diagonal: with a smaller pivot the matrix has no inverse


@routine(KEEPS_NAN)
def factor(a, begin, size):
    """Factor by Cholesky's method in place, with 1 / L on the diagonal, and return whether the matrix has an inverse."""
    for i in range(size):
        diagonal = a[i, i]
        for j in range(begin[i], i + 1):
            first = max(begin[i], begin[j])
            mine, other = a[i, first:j], a[j, first:j]
            s = 0.0
            for k in range(j - first):
                s += mine[k] * other[k]
            s = a[i, j] - s
            if j < i:
                a[i, j] = s * a[j, j]
            elif s > PIVOT * diagonal:
                a[i, i] = 1 / np.sqrt(s)
            else:
                return False
    return True


@routine(KEEPS_NAN)
def forward(a, begin, x, first, size):
    """Solve L z = x in place. `x` is zero before `first`."""
    for i in range(first, size):
        low = max(begin[i], first)
        row, known = a[i, low:i], x[low:i]
        s = 0.0
        for k in range(i - low):
            s += row[k] * known[k]
        x[i] = (x[i] - s) * a[i, i]


@routine(KEEPS_NAN)
def solve(a, begin, x, size):
    forward(a, begin, x, 0, size)
    for i in range(size - 1, -1, -1):
        x[i] *= a[i, i]
        row, rest = a[i, begin[i] : i], x[begin[i] : i]
        for k in range(i - begin[i]):
            rest[k] -= row[k] * x[i]
