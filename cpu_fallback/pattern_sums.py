"""Compute the sum and the maximum over patterns (CPU twins). The inner loop goes along pixels, so that it vectorises."""

import numpy as np

from gpu4d.arrays import sums_are_exact
from gpu4d.compiled import entry, read_only


@entry()
def _sum(patterns, good, weights, out):
    for n in range(patterns.shape[0]):
        if good[n]:
            pattern, w = patterns[n], weights[n]
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
    _sum(flat, good, one, out)
    return out.reshape(patterns.shape[1:]), np.asarray(one[good].sum(), np.float64)


def pattern_maximum(patterns, /):
    flat, good = _flat(patterns)
    if sums_are_exact(patterns.dtype):
        out = np.full(flat.shape[1], np.iinfo(np.int64).min)
    else:
        out = np.full(flat.shape[1], -np.inf)
    _maximum(flat, good, out)
    return out.reshape(patterns.shape[1:])
