"""Divide the first moments, which frame_reductions.cu makes, by the sums. Array arithmetic is fast enough for this."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.first_moments import first_moments

from gpu4d import arrays


def center_of_mass(patterns, /, mask=None):
    moments = first_moments(patterns, mask)
    xp = arrays.namespace(moments)
    total = moments[..., :1].astype(np.float64)
    usable = (total > 0) & xp.isfinite(moments.astype(np.float64)).all(axis=-1, keepdims=True)
    return xp.where(usable, moments[..., 1:] / xp.where(usable, total, 1.0), np.nan)
