"""Launch fit_cepstrum.cu: logarithms, the transforms of the FFT library, and the fit, for some patterns at a time.

The library transforms units with a fixed number of patterns, so that a pattern gives the same bits for every division of a scan.
"""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous, kind

from gpu4d import arrays, device, fft
from gpu4d.crystal.cepstrum import fill_tables
from gpu4d.crystal.fit_cepstrum import KERNEL_BATCH, UNIT, CepstrumFit, check, grid_points, kernel_tables, line_curvature
from gpu4d.device import tables

FILE = "fit_cepstrum.cu"
THREADS = 256  # of window_logs, for a pattern
FITS = 4  # patterns of a block of fit_lattices, a warp each
TAPS, STEPS = 6, 128  # of the kernel; as in the CPU twin


def fit_cepstrum(patterns, window, nodes, start, /, *, stages, offset=1.0, mask=None):
    check(patterns, window, nodes, start, stages)
    n, *shape = patterns.shape
    patterns = contiguous(patterns)
    grid = [grid_points(q) for q in shape]
    looks, scaled, total, widths = tables.made_of(window, "for cepstra", lambda: _windows(window, tuple(shape)))
    hidden, each = _hidden(mask)
    table = tables.named(("cepstral kernel", TAPS, STEPS), lambda: _kernel(tuple(shape)), patterns)
    counts = tables.named(("cepstral stages", *stages), lambda: np.array(stages, np.int32), patterns)
    fixed = (table, *(contiguous(a.astype(np.float64, copy=False)) for a in (nodes, start)), counts)
    out = [device.empty((n, *rest), np.float64) for rest in ((2, 2), (4, 4), (), ())]
    sizes = [np.int32(v) for v in (*shape, *grid)]
    numbers = [np.int32(v) for v in (STEPS, nodes.shape[0], len(stages))]
    for first in range(0, n, KERNEL_BATCH):
        count = min(KERNEL_BATCH, n - first)
        planes = -(-count // UNIT) * UNIT
        some, parts = slice(first, first + count), [a[first : first + count] for a in out]
        padded, usable = device.empty((planes, *grid), np.float32), device.empty((count,), np.uint8)
        given = (patterns[some], np.int32(kind(patterns)), looks, scaled, *hidden, padded, usable, np.int32(count), *sizes)
        logs = device.kernel(FILE, "window_logs")
        device.launch(logs, planes, THREADS, (*given, np.int32(each), np.float32(offset), total))
        spectra = contiguous(fft.in_units(padded, UNIT))
        given = (spectra, usable, *fixed, *parts, np.int32(count), *sizes, *numbers, *widths)
        device.launch(device.kernel(FILE, "fit_lattices"), -(-count // FITS), 32 * FITS, given)
    return CepstrumFit(*out)


def _kernel(shape):
    """Return the interpolation kernel (STEPS, 4, TAPS). It is the same for every shape."""
    return np.ascontiguousarray(kernel_tables(shape, TAPS, STEPS)[0], np.float32)


def _windows(window, shape):
    """Return the window, the same over the kernel's transform, its sum, and the curvature of a line seen through it."""
    weights = np.asarray(arrays.to_numpy(window), np.float64)
    both = (weights, weights * kernel_tables(shape, TAPS, STEPS)[1])
    on_device = (arrays.from_numpy(np.ascontiguousarray(a, np.float32), window) for a in both)
    return (*on_device, np.float64(weights.sum()), tuple(np.float64(v) for v in line_curvature(weights)))


def _hidden(mask):
    """Return where hidden pixels are filled from: numbers (Qx, Qy), donors and shares (h, k); and k."""
    null = np.uint64(0)
    if mask is None:
        return (null, null, null), 0
    found = tables.made_of(mask, "hidden pixels", lambda: _fill(mask))
    return found, found[1].shape[1]


def _fill(mask):
    """Return the tables of `fill_tables`, with a number for every pixel: that of a hidden one, or -1."""
    numbers, donors, shares = fill_tables(arrays.to_numpy(mask))
    place = np.full(mask.shape, -1, np.int32)
    place.reshape(-1)[numbers] = np.arange(len(numbers))
    every = (place, donors.astype(np.int32), shares.astype(np.float32))
    return tuple(arrays.from_numpy(np.ascontiguousarray(a), mask) for a in every)
