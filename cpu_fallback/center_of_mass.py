"""Compute the centre of mass (CPU twin): first moments and a division."""

from __future__ import annotations

import numpy as np
from gpu4d.cpu_fallback.first_moments import first_moments


def center_of_mass(patterns, /, mask=None):
    moments = first_moments(patterns, mask)
    usable = (moments[..., 0] > 0) & np.isfinite(moments).all(axis=-1)
    out = np.full((*moments.shape[:-1], 2), np.nan)
    np.divide(moments[..., 1:], moments[..., :1], out=out, where=usable[..., None])
    return out
