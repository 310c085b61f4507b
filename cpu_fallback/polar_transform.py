"""Compute polar transforms and sums over rings (CPU twins). Rings of pixels are computed once for patterns with the same origin."""

from __future__ import annotations

from math import prod

import numpy as np

from gpu4d.arrays import sums_are_exact
from gpu4d.compiled import contiguous, entry, helper, read_only
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


@helper()
def _place(ox, oy, m, scale, n_r, mask, ring):
    """Write the ring of every pixel: n_r where it is outside all rings or masked."""
    nx, ny = ring.shape
    for x in range(nx):
        dx = x - ox
        for y in range(ny):
            dy = y - oy
            u, v = m[0, 0] * dx + m[0, 1] * dy, m[1, 0] * dx + m[1, 1] * dy
            r = np.sqrt(u * u + v * v) * scale
            ring[x, y] = np.int32(r) if r < n_r else n_r
        if mask is not None:
            for y in range(ny):
                if not mask[x, y]:
                    ring[x, y] = n_r


@entry(allocates=True)
def _ring_sums(patterns, origins, mask, m, scale, zero, sums, pixels):
    n, nx, ny = patterns.shape
    n_r = sums.shape[1]
    ring = np.empty((nx, ny), np.int32)
    last = np.full(2, np.nan)
    total, number = np.empty(n_r + 1, sums.dtype), np.empty(n_r + 1, np.int64)
    for f in range(n):
        ox, oy = origins[f]
        total[:], number[:] = zero, 0
        if np.isfinite(ox) and np.isfinite(oy):
            if ox != last[0] or oy != last[1]:
                _place(ox, oy, m, scale, n_r, mask, ring)
                last[0], last[1] = ox, oy
            for x in range(nx):
                for y in range(ny):
                    value = zero + patterns[f, x, y]
                    if np.isfinite(value):
                        total[ring[x, y]] += value
                        number[ring[x, y]] += 1
        sums[f], pixels[f] = total[:n_r], number[:n_r]


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
    kind = np.int64 if sums_are_exact(patterns.dtype) else np.float64
    sums, pixels = np.empty((prod(batch), n_r), kind), np.empty((prod(batch), n_r), np.int64)
    frames, centers = read_only(patterns.reshape(len(sums), nx, ny)), contiguous(per_pattern(patterns, origins))
    _ring_sums(frames, centers, contiguous(mask, bool), matrix(ellipse), n_r / r_max, kind(0), sums, pixels)
    return sums.reshape(*batch, n_r), pixels.reshape(*batch, n_r)
