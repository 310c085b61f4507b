"""Launch poisson_fit.cu once for all disks of all patterns: one warp for each disk."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, suffix

from gpu4d import device
from gpu4d.bragg.likelihood.poisson_fit import PoissonFit, steps_of

FILE = "poisson_fit.cu"
WARPS = 4
KERNELS = {4: "fit_4", 6: "fit_6", 8: "fit_8"}


def poisson_fit(patterns, x, y, count, table, pixels, /, mask=None, parameters=6, iterations=None, spacing=0.0):
    iterations = steps_of(parameters, iterations)
    n, nx, ny = patterns.shape
    most, m = x.shape[1], pixels.shape[0]
    patterns = contiguous(patterns)
    x, y = (contiguous(a.astype(np.float64, copy=False)) for a in (x, y))
    found, pixels = contiguous(count.astype(np.int64, copy=False)), contiguous(pixels.astype(np.int32, copy=False))
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    table = contiguous(table.astype(np.float32, copy=False))
    out, ok = device.empty((7, n, most), np.float64), device.empty((n, most), np.bool_)
    sizes = map(np.int32, (most, nx, ny, m, table.shape[0] - 1, iterations))
    call = (patterns, x, y, found, valid, table, pixels, out, ok, np.int64(n * most), *sizes, np.float64(spacing))
    kind = suffix(patterns)
    function = device.kernel(FILE, f"{KERNELS[parameters]}_{kind}", f"PIXEL={kind}", f"PARAMETERS={parameters}")
    device.launch(function, -(-n * most // WARPS), 32 * WARPS, call)
    return PoissonFit._make([*out, ok])
