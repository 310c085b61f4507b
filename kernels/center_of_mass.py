"""Launches center_of_mass.cu: one block of 256 threads a pattern; the division is left to array arithmetic."""

from __future__ import annotations

from math import prod

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import arrays, device

FILE = "center_of_mass.cu"


def first_moments(patterns, /, mask=None):
    patterns = contiguous(patterns)
    *batch, nx, ny = patterns.shape
    exact = patterns.dtype.kind == "u"
    moments = device.empty((prod(batch), 3), np.int64 if exact else np.float64)
    valid = np.uint64(0) if mask is None else contiguous(mask.astype(np.uint8))
    function = device.kernel(FILE, f"first_moments_{suffix(patterns)}")
    device.launch(function, prod(batch), 256, (patterns, valid, moments, np.int32(nx), np.int32(ny)))
    return moments.reshape((*batch, 3))


def center_of_mass(patterns, /, mask=None):
    moments = first_moments(patterns, mask)
    xp = arrays.namespace(moments)
    total = moments[..., :1].astype(np.float64)
    usable = (total > 0) & xp.isfinite(moments.astype(np.float64)).all(axis=-1, keepdims=True)
    return xp.where(usable, moments[..., 1:] / xp.where(usable, total, 1.0), np.nan)
