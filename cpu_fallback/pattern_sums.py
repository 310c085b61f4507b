"""Compute the sum and the maximum over patterns (CPU twins). The inner loop goes along pixels, so that it vectorises."""

import numpy as np

from gpu4d.arrays import sums_are_exact
from gpu4d.compiled import entry, read_only

TOGETHER = 8  # patterns of which a pixel's counts are added before the sum is stored: one load and store of the sum for all of them


@entry()
def _count(patterns, chosen, out):
    """Add whole numbers of the chosen patterns."""
    whole = chosen.size // TOGETHER * TOGETHER
    for k in range(0, whole, TOGETHER):
        a, b, c, d = patterns[chosen[k]], patterns[chosen[k + 1]], patterns[chosen[k + 2]], patterns[chosen[k + 3]]
        e, f, g, h = patterns[chosen[k + 4]], patterns[chosen[k + 5]], patterns[chosen[k + 6]], patterns[chosen[k + 7]]
        for i in range(out.size):
            out[i] += (a[i] + b[i] + c[i] + d[i]) + (e[i] + f[i] + g[i] + h[i])
    for k in range(whole, chosen.size):
        pattern = patterns[chosen[k]]
        for i in range(out.size):
            out[i] += pattern[i]


@entry()
def _sum(patterns, chosen, weights, out):
    """Add the chosen patterns times their weights, one after the other."""
    whole = chosen.size // 4 * 4
    for k in range(0, whole, 4):
        a, b, c, d = patterns[chosen[k]], patterns[chosen[k + 1]], patterns[chosen[k + 2]], patterns[chosen[k + 3]]
        p, q, r, s = weights[chosen[k]], weights[chosen[k + 1]], weights[chosen[k + 2]], weights[chosen[k + 3]]
        for i in range(out.size):
            out[i] = (((out[i] + a[i] * p) + b[i] * q) + c[i] * r) + d[i] * s
    for k in range(whole, chosen.size):
        pattern, w = patterns[chosen[k]], weights[chosen[k]]
        for i in range(out.size):
            out[i] += pattern[i] * w


@entry()
def _maximum(patterns, good, out):
    for n in range(patterns.shape[0]):
        if good[n]:
            pattern = patterns[n]
            for i in range(out.size):
                out[i] = max(out[i], pattern[i])


def _flat(patterns):
    n, qx, qy = patterns.shape
    flat = np.ascontiguousarray(patterns).reshape(n, qx * qy)
    good = np.ones(n, bool) if patterns.dtype.kind in "biu" else np.isfinite(flat).all(-1)
    return read_only(flat), good


def pattern_sums(patterns, /, *, weights=None):
    flat, good = _flat(patterns)
    exact = weights is None and sums_are_exact(patterns.dtype)
    one = np.ones(len(flat), np.int64 if exact else np.float64) if weights is None else np.asarray(weights, np.float64)
    out = np.zeros(flat.shape[1], one.dtype)
    if exact:
        _count(flat, np.flatnonzero(good), out)
    else:
        _sum(flat, np.flatnonzero(good), one, out)
    return out.reshape(patterns.shape[1:]), np.asarray(one[good].sum(), np.float64)


def pattern_maximum(patterns, /):
    flat, good = _flat(patterns)
    if sums_are_exact(patterns.dtype):
        out = np.full(flat.shape[1], np.iinfo(np.int64).min)
    else:
        out = np.full(flat.shape[1], -np.inf)
    _maximum(flat, good, out)
    return out.reshape(patterns.shape[1:])
