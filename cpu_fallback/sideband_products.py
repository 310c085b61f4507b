"""Sum products of side bands over pixels (CPU twin): one frequency at a time, so that its sums stay in the cache.

Polynomials are evaluated in double precision. Columns are kept as real and imaginary parts, of which the upper triangle of products is
summed.
"""

import numpy as np

from gpu4d.compiled import KEEPS_NAN, contiguous, entry, helper
from gpu4d.ptychography.sideband_products import check, table


@helper(KEEPS_NAN)
def _value(tables, which, degree, x, y):
    """Return one polynomial at a point, times π: Horner in y inside Horner in x."""
    total = 0.0
    last = tables.shape[1]
    for i in range(degree, -1, -1):
        first = last - (degree + 1 - i)
        inner = 0.0
        for j in range(last - 1, first - 1, -1):
            inner = inner * y + tables[which, j]
        total = total * x + inner
        last = first
    return total


@entry(KEEPS_NAN, allocates=True)
def _products(spectra, at, frequencies, weights, radius, margin, tables, degree, out):
    n, m, count = at.shape[0], frequencies.shape[0], tables.shape[0]
    p = count - 1
    c = 3 + 2 * p
    own = np.empty((n, count))
    for k in range(n):
        for which in range(count):
            own[k, which] = _value(tables, which, degree, at[k, 0], at[k, 1])
    re, im, sums = np.zeros(c), np.zeros(c), np.empty((2, c, c))
    for f in range(m):
        sums[:] = 0.0
        for k in range(n):
            x, y = at[k, 0], at[k, 1]
            distance = np.sqrt(x * x + y * y)
            if not distance < radius or abs(distance - radius) < margin:
                continue
            minus = np.sqrt((x - frequencies[f, 0]) ** 2 + (y - frequencies[f, 1]) ** 2)
            plus = np.sqrt((x + frequencies[f, 0]) ** 2 + (y + frequencies[f, 1]) ** 2)
            if abs(minus - radius) < margin or abs(plus - radius) < margin or not (minus < radius or plus < radius):
                continue
            re[0], im[0] = spectra[k, f, 0], spectra[k, f, 1]
            for side in range(2):
                sign = 2.0 * side - 1.0
                first = 3 + side * p
                if (plus if side else minus) < radius:
                    u, v = x + sign * frequencies[f, 0], y + sign * frequencies[f, 1]
                    turn = own[k, 0] - _value(tables, 0, degree, u, v)
                    a, b = np.cos(turn), -sign * np.sin(turn)
                    re[1 + side], im[1 + side] = a, b
                    for q in range(p):
                        slope = own[k, q + 1] - _value(tables, q + 1, degree, u, v)
                        re[first + q], im[first + q] = slope * a, slope * b
                else:
                    re[1 + side], im[1 + side] = 0.0, 0.0
                    for q in range(p):
                        re[first + q], im[first + q] = 0.0, 0.0
            w = weights[k]
            for i in range(c):
                a, b = w * re[i], w * im[i]
                for j in range(i, c):
                    sums[0, i, j] += a * re[j] + b * im[j]
                    sums[1, i, j] += a * im[j] - b * re[j]
        for i in range(c):
            for j in range(i, c):
                out[f, i, j] = complex(sums[0, i, j], sums[1, i, j])
                out[f, j, i] = complex(sums[0, i, j], -sums[1, i, j])


def sideband_products(spectra, at, frequencies, weights, /, *, radius, margin=0.0, chi=(), parts=()):
    check(spectra, at, frequencies, weights, chi, parts)
    at, frequencies, weights = (contiguous(a, np.float64) for a in (at, frequencies, weights))
    pairs = contiguous(spectra, np.complex128).view(np.float64).reshape(*spectra.shape, 2)
    degree = max((i + j for one in (chi, *parts) for i, j, _ in one), default=0)
    tables = np.array([table(one, degree) for one in (chi, *parts)])
    c = 3 + 2 * len(parts)
    out = np.zeros((len(frequencies), c, c), np.complex128)
    _products(pairs, at, frequencies, weights, float(radius), float(margin), tables, degree, out)
    return out
