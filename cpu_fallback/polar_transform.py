"""Compute polar transforms, and sums over rings as `ring_moments` makes them (CPU twins)."""

from __future__ import annotations

from math import prod

import numpy as np
from gpu4d.cpu_fallback.ring_moments import sums_of_rings

from gpu4d.compiled import contiguous, entry, read_only
from gpu4d.rings.polar_transform import directions, matrix, per_pattern, radial_grid


@entry()
def _sample(patterns, origins, mask, steps, dr, polar):
    n, nx, ny = patterns.shape
    for f in range(n):
        ox, oy = origins[f]
        if not (np.isfinite(ox) and np.isfinite(oy)):
            polar[f] = np.nan
            continue
        for t in range(polar.shape[1]):
            for j in range(polar.shape[2]):
                radius = (j + 0.5) * dr
                x = min(max(ox + radius * steps[t, 0], -2.0), nx + 1.0)
                y = min(max(oy + radius * steps[t, 1], -2.0), ny + 1.0)
                x0, y0 = int(np.floor(x)), int(np.floor(y))
                fx, fy = x - x0, y - y0
                total, weights, nearest = 0.0, 0.0, False
                for a in range(2):
                    for b in range(2):
                        px, py = x0 + a, y0 + b
                        if px < 0 or py < 0 or px >= nx or py >= ny:
                            continue
                        value = np.float64(patterns[f, px, py])
                        if not np.isfinite(value) or not (mask is None or mask[px, py]):
                            continue
                        weight = (fx if a else 1.0 - fx) * (fy if b else 1.0 - fy)
                        total += weight * value
                        weights += weight
                        if (fx >= 0.5) == (a == 1) and (fy >= 0.5) == (b == 1):
                            nearest = True
                polar[f, t, j] = total / weights if nearest else np.nan


def polar_transform(patterns, origins, /, *, n_theta=180, n_r=None, r_max=None, ellipse=None, mask=None):
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    polar = np.empty((prod(batch), n_theta, n_r), np.float64 if patterns.dtype == np.float64 else np.float32)
    frames, centers = read_only(patterns.reshape(len(polar), nx, ny)), contiguous(per_pattern(patterns, origins))
    _sample(frames, centers, contiguous(mask, bool), directions(n_theta, ellipse), r_max / n_r, polar)
    return polar.reshape(*batch, n_theta, n_r)


def radial_sums(patterns, origins, /, *, n_r=None, r_max=None, ellipse=None, mask=None):
    *batch, nx, ny = patterns.shape
    n_r, r_max = radial_grid((nx, ny), n_r, r_max)
    frames, m = patterns.reshape(prod(batch), nx, ny), matrix(ellipse)
    sums, _, pixels = sums_of_rings(frames, per_pattern(patterns, origins), m, mask, (n_r, r_max), squares=False)
    return sums.reshape(*batch, n_r), pixels.reshape(*batch, n_r)
