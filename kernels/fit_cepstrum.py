"""Launch fit_cepstrum.cu: logarithms, the transforms of the FFT library, and the fit, for some patterns at a time.

The library transforms units with a fixed number of patterns, so that a pattern gives the same bits for every division of a scan.
"""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous, kind

from gpu4d import arrays, device, fft
from gpu4d.crystal.cepstrum import fill_tables
from gpu4d.crystal.fit_cepstrum import CepstrumFit, check, grid_points, kernel_tables, line_curvature

FILE = "fit_cepstrum.cu"
THREADS = 256  # of window_logs, for a pattern
FITS = 4  # patterns of a block of fit_lattices, a warp each
TAPS, STEPS = 6, 128  # of the kernel; as in the CPU twin
UNIT = 32  # patterns of one transform
BATCH = 8 * UNIT  # patterns of a launch: their planes and transforms are 300 kB each at 128²


def fit_cepstrum(patterns, window, nodes, start, /, *, stages, offset=1.0, mask=None):
    check(patterns, window, nodes, start, stages)
    n, *shape = patterns.shape
    patterns = contiguous(patterns)
    grid = [grid_points(q) for q in shape]
    weights = arrays.to_numpy(window).astype(np.float64)
    kernels, scale = kernel_tables(tuple(shape), TAPS, STEPS)
    put = lambda values, dtype: arrays.from_numpy(np.ascontiguousarray(values, dtype), patterns)  # noqa: E731
    looks, scaled, table = put(weights, np.float32), put(weights * scale, np.float32), put(kernels, np.float32)
    hidden, each = _hidden(mask, shape, put)
    fixed = (table, *(contiguous(a.astype(np.float64, copy=False)) for a in (nodes, start)), put(stages, np.int32))
    out = [device.empty((n, *rest), np.float64) for rest in ((2, 2), (4, 4), (), ())]
    sizes = [np.int32(v) for v in (*shape, *grid)]
    counts = [np.int32(v) for v in (STEPS, nodes.shape[0], len(stages))]
    widths = [np.float64(v) for v in line_curvature(weights)]
    for first in range(0, n, BATCH):
        count = min(BATCH, n - first)
        some, parts = slice(first, first + count), [a[first : first + count] for a in out]
        planes = -(-count // UNIT) * UNIT
        padded, usable = device.empty((planes, *grid), np.float32), device.empty((count,), np.uint8)
        given = (patterns[some], np.int32(kind(patterns)), looks, scaled, *hidden, padded, usable, np.int32(count), *sizes)
        logs = device.kernel(FILE, "window_logs")
        device.launch(logs, planes, THREADS, (*given, np.int32(each), np.float32(offset), np.float64(weights.sum())))
        spectra = contiguous(fft.in_units(padded, UNIT))
        given = (spectra, usable, *fixed, *parts, np.int32(count), *sizes, *counts, *widths)
        device.launch(device.kernel(FILE, "fit_lattices"), -(-count // FITS), 32 * FITS, given)
    return CepstrumFit(*out)


def _hidden(mask, shape, put):
    """Return where hidden pixels are filled from: numbers (Qx, Qy), donors and shares (h, k); and k."""
    null = np.uint64(0)
    if mask is None:
        return (null, null, null), 0
    numbers, donors, shares = fill_tables(arrays.to_numpy(mask))
    place = np.full(shape[0] * shape[1], -1)
    place[numbers] = np.arange(len(numbers))
    return (put(place, np.int32), put(donors, np.int32), put(shares, np.float32)), donors.shape[1]
