"""Launches ssb_sum.cu: a block of (32, 8) threads for 32 scan frequencies, one launch for all pixels given."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.device import tables
from gpu4d.phase.ssb_sum import HIGHEST_DEGREE, OverlapSums, check

FILE = "ssb_sum.cu"
NOTHING = np.uint64(0)  # a null pointer
KERNELS = {
    "weighted": {0: "weighted_disk0", 2: "weighted_disk2", 6: "weighted_disk6", "array": "weighted_array"},
    "exact": {0: "exact_disk0", 2: "exact_disk2", 6: "exact_disk6", "array": "exact_array"},
}


def overlap_sums(spectra, at, rows, columns, /, *, radius, pupil=None, center=(0.0, 0.0), chi=(), mode="weighted"):
    check(spectra, at, rows, columns, pupil, chi, mode)
    n, nx, nk = spectra.shape
    degree = HIGHEST_DEGREE if pupil is not None else next(d for d in (0, 2, HIGHEST_DEGREE) if _degree(chi) <= d)
    planes = 2 if mode == "exact" else 1
    overlap, weight = device.empty((planes, nx, nk), np.complex128), device.empty((planes, nx, nk), np.float64)
    function = device.kernel(FILE, KERNELS[mode]["array" if pupil is not None else degree])
    points = [contiguous(a.astype(np.float32, copy=False)) for a in (at, rows, columns)]
    table = tables.named(("chi", tuple(chi), degree), lambda: _triangle(chi, degree), spectra) if degree else NOTHING
    array, shape = (NOTHING, (0, 0)) if pupil is None else (contiguous(pupil.astype(np.complex64)), pupil.shape)
    arguments = (
        *(contiguous(spectra), *points, array, np.int32(shape[0]), np.int32(shape[1])),
        *(np.float32(center[0]), np.float32(center[1]), np.float32(radius + 0.5), table),
        *(np.int32(n), np.int32(nx), np.int32(nk), overlap, weight),
    )
    device.launch(function, -(-nx * nk // 32), (32, 8), arguments)
    return OverlapSums(overlap, weight)


def _degree(chi):
    return max((i + j for i, j, _ in chi), default=0)


def _triangle(chi, degree):
    """Coefficients as the kernel reads them: rows i = 0 … degree, in each j = 0 … degree - i."""
    table = np.zeros((degree + 1, degree + 1))
    for i, j, c in chi:
        table[i, j] += c
    return np.concatenate([table[i, : degree + 1 - i] for i in range(degree + 1)]).astype(np.float32)
