"""First moments by frame_reductions.cu, which reads 16 bytes at a time; the division is left to array arithmetic."""

from __future__ import annotations

from math import prod

import numpy as np
from gpu4d.kernels.frame_reductions import frame_sums

from gpu4d import arrays, device


def first_moments(patterns, /, mask=None):
    *batch, nx, ny = patterns.shape
    none = device.empty((0, nx, ny), np.bool_)
    sums = frame_sums(patterns.reshape(prod(batch), nx, ny), none, mask).sums
    return sums[:, :3].reshape((*batch, 3))


def center_of_mass(patterns, /, mask=None):
    moments = first_moments(patterns, mask)
    xp = arrays.namespace(moments)
    total = moments[..., :1].astype(np.float64)
    usable = (total > 0) & xp.isfinite(moments.astype(np.float64)).all(axis=-1, keepdims=True)
    return xp.where(usable, moments[..., 1:] / xp.where(usable, total, 1.0), np.nan)
