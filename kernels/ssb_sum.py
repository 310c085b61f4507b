"""Launch ssb_sum.cu: a block of (32, 8) threads for 32 scan frequencies. For a small scan pixels are split over several blocks."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.device import tables
from gpu4d.ptychography.ssb_sum import HIGHEST_DEGREE, SSBSum, check

FILE = "ssb_sum.cu"
CHUNK = 256  # pixels that a block keeps in shared memory at a time, as in the source
MOST_SPLITS = 8  # of the pixels: with more, a block would have hardly one chunk of the usual 2000 to 9000 pixels
ENOUGH_BLOCKS = 1584  # four waves of three blocks on 132 multiprocessors; constant, because no result may depend on the GPU
NOTHING = np.uint64(0)  # a null pointer
KERNELS = {
    "weighted": {0: "weighted_disk0", 2: "weighted_disk2", 6: "weighted_disk6", "array": "weighted_array"},
    "exact": {0: "exact_disk0", 2: "exact_disk2", 6: "exact_disk6", "array": "exact_array"},
}


def ssb_sum(spectra, at, rows, columns, /, *, radius, pupil=None, center=(0.0, 0.0), chi=(), mode="weighted"):
    check(spectra, at, rows, columns, pupil, chi, mode)
    n, nx, nk = spectra.shape
    degree = HIGHEST_DEGREE if pupil is not None else next(d for d in (0, 2, HIGHEST_DEGREE) if _degree(chi) <= d)
    planes = 2 if mode == "exact" else 1
    splits, span = split(n, nx * nk)
    overlap, weight = device.empty((splits, planes, nx, nk), np.complex128), device.empty((splits, planes, nx, nk), np.float64)
    function = device.kernel(FILE, KERNELS[mode]["array" if pupil is not None else degree])
    points = [contiguous(a.astype(np.float32, copy=False)) for a in (at, rows, columns)]
    table = tables.named(("chi", tuple(map(tuple, chi)), degree), lambda: _triangle(chi, degree), spectra) if degree else NOTHING
    array, shape = (NOTHING, (0, 0)) if pupil is None else (contiguous(pupil.astype(np.complex64)), pupil.shape)
    arguments = (
        *(contiguous(spectra), *points, array, np.int32(shape[0]), np.int32(shape[1])),
        *(np.float32(center[0]), np.float32(center[1]), np.float32(radius + 0.5), table),
        *(np.int32(n), np.int32(nx), np.int32(nk), np.int32(span), overlap, weight),
    )
    device.launch(function, (-(-nx * nk // 32), splits), (32, 8), arguments)
    if splits == 1:
        return SSBSum(overlap[0], weight[0])
    total = SSBSum(device.empty((planes, nx, nk), np.complex128), device.empty((planes, nx, nk), np.float64))
    add, count = device.kernel(FILE, "add_splits"), planes * nx * nk
    device.launch(add, -(-count // 256), 256, (overlap, weight, *total, np.int64(count), np.int32(splits)))
    return total


def split(n, frequencies):
    """Choose how many blocks share the pixels of 32 frequencies, and how many pixels, in whole chunks, each takes."""
    chunks, blocks = max(1, -(-n // CHUNK)), max(1, -(-frequencies // 32))
    each = -(-chunks // min(MOST_SPLITS, chunks, -(-ENOUGH_BLOCKS // blocks)))
    return -(-chunks // each), each * CHUNK


def _degree(chi):
    return max((i + j for i, j, _ in chi), default=0)


def _triangle(chi, degree):
    """Return coefficients in the order of the kernel: rows i = 0 … degree, each with j = 0 … degree - i."""
    table = np.zeros((degree + 1, degree + 1))
    for i, j, c in chi:
        table[i, j] += c
    return np.concatenate([table[i, : degree + 1 - i] for i in range(degree + 1)]).astype(np.float32)
