"""Launch sideband_products.cu: a block of 256 threads for one scan frequency."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.device import tables
from gpu4d.ptychography.sideband_products import check, table
from gpu4d.ptychography.ssb_sum import HIGHEST_DEGREE

FILE = "sideband_products.cu"


def sideband_products(spectra, at, frequencies, weights, /, *, radius, margin=0.0, chi=(), parts=()):
    check(spectra, at, frequencies, weights, chi, parts)
    n, m = spectra.shape
    columns = 3 + 2 * len(parts)
    out = device.empty((m, columns, columns), np.complex128)
    if m == 0:
        return out
    polynomials = (tuple(chi), *map(tuple, parts))
    coefficients = tables.named(
        ("sideband_products", polynomials), lambda: np.array([table(one, HIGHEST_DEGREE) for one in polynomials], np.float32), spectra
    )
    points = [contiguous(a.astype(np.float32, copy=False)) for a in (at, frequencies, weights)]
    arguments = (contiguous(spectra), *points, coefficients, np.float32(radius), np.float32(margin))
    device.launch(device.kernel(FILE, "sideband_products"), m, 256, (*arguments, np.int32(n), np.int32(m), np.int32(len(parts)), out))
    return out
