"""Integrate a gradient (CPU twins).

For mirrored edges, cosine and sine transforms of the field's own size are used, which is a quarter of the mirrored grid. Between the
transforms there is one fused step. The gradient of an iteration is computed from the spectrum of the solution.
"""

from __future__ import annotations

from math import ceil

import numpy as np

from gpu4d import fft
from gpu4d.compiled import entry, helper
from gpu4d.deflection.integrate_gradient import Integral, converged


@entry()
def _solve_mirror(sx, sy, lambda1, lambda2, v):
    """Make the cosine coefficients of V from the sine-cosine coefficients of its gradient. Sine coefficient p is at index p - 1."""
    n, nx, ny = sx.shape
    for b in range(n):
        for p in range(nx):
            kx = 0.5 * p / nx
            for q in range(ny):
                ky = 0.5 * q / ny
                square = kx * kx + ky * ky
                total = 0.0
                if p > 0:
                    total += kx * sx[b, p - 1, q]
                if q > 0:
                    total += ky * sy[b, p, q - 1]
                v[b, p, q] = -total / (2 * np.pi * (lambda1 + square + lambda2 * square * square)) if square > 0 else 0.0


@entry()
def _differentiate_mirror(v, sx, sy):
    n, nx, ny = v.shape
    for b in range(n):
        for p in range(nx):
            for q in range(ny):
                sx[b, p, q] = -np.pi * (p + 1) / nx * v[b, p + 1, q] if p + 1 < nx else 0.0
                sy[b, p, q] = -np.pi * (q + 1) / ny * v[b, p, q + 1] if q + 1 < ny else 0.0


@helper()
def _frequency(p, n):
    """Return k and the k of the derivative, which is 0 at the Nyquist frequency."""
    k = (p - n if 2 * p >= n else p) / n
    return k, 0.0 if 2 * p == n else k


@entry()
def _solve_plain(gx, gy, ny, lambda1, lambda2, v):
    n, nx, columns = gx.shape
    for b in range(n):
        for p in range(nx):
            k, kx = _frequency(p, nx)
            for q in range(columns):
                m, ky = _frequency(q, ny)
                square, full = kx * kx + ky * ky, k * k + m * m
                weight = 2 * np.pi * (lambda1 + square + lambda2 * full * full)
                v[b, p, q] = (kx * gx[b, p, q] + ky * gy[b, p, q]) * (-1j / weight) if square > 0 else 0.0


@entry()
def _differentiate_plain(v, ny, gx, gy):
    n, nx, columns = v.shape
    for b in range(n):
        for p in range(nx):
            kx = _frequency(p, nx)[1]
            for q in range(columns):
                ky = _frequency(q, ny)[1]
                gx[b, p, q] = v[b, p, q] * (2j * np.pi * kx)
                gy[b, p, q] = v[b, p, q] * (2j * np.pi * ky)


class _Mirrored:
    """Solution and gradient from the cosine coefficients of V."""

    def __init__(self, shape, lambda1, lambda2):
        self.weights = float(lambda1), float(lambda2)

    def solve(self, gx, gy):
        v = np.empty(gx.shape)
        _solve_mirror(fft.half_sample(gx, sine=-2), fft.half_sample(gy, sine=-1), *self.weights, v)
        return v

    def gradient(self, v):
        sx, sy = np.empty(v.shape), np.empty(v.shape)
        _differentiate_mirror(v, sx, sy)
        return fft.half_sample(sx, sine=-2, inverse=True), fft.half_sample(sy, sine=-1, inverse=True)

    def value(self, v):
        return fft.half_sample(v, inverse=True)


class _Plain(_Mirrored):
    """Solution and gradient from the half-plane transform of V."""

    def __init__(self, shape, lambda1, lambda2):
        super().__init__(shape, lambda1, lambda2)
        self.shape = shape

    def solve(self, gx, gy):
        x, y = fft.rfft2(gx), fft.rfft2(gy)
        v = np.empty(x.shape, np.complex128)
        _solve_plain(x, y, self.shape[1], *self.weights, v)
        return v

    def gradient(self, v):
        gx, gy = np.empty(v.shape, v.dtype), np.empty(v.shape, v.dtype)
        _differentiate_plain(v, self.shape[1], gx, gy)
        return fft.irfft2(gx, self.shape), fft.irfft2(gy, self.shape)

    def value(self, v):
        return fft.irfft2(v, self.shape)


def integrate_gradient(gradient, /, step=1.0, lambda1=0.0, lambda2=0.0, boundary="mirror", padding_factor=2.0, max_iterations=25):
    return integrate_iteratively(gradient, step, lambda1, lambda2, boundary, padding_factor, max_iterations).v


def integrate_iteratively(gradient, /, step=1.0, lambda1=0.0, lambda2=0.0, boundary="mirror", padding_factor=2.0, max_iterations=25):
    *batch, rx, ry, _ = gradient.shape
    known = np.isfinite(gradient).all(axis=-1).reshape(-1, rx, ry)
    larger = padding_factor if boundary == "padded" else 1.0
    grid = rx + ceil(rx * (larger - 1)), ry + ceil(ry * (larger - 1))
    gx, gy = np.zeros((2, len(known), *grid))
    inside = np.zeros(gx.shape, bool)
    inside[:, :rx, :ry] = known
    for component, g in enumerate((gx, gy)):
        g[inside] = gradient[..., component].reshape(-1, rx, ry)[known]
    solver = (_Mirrored if boundary == "mirror" else _Plain)(grid, lambda1, lambda2)
    v, errors = solver.solve(gx, gy), []
    scale = np.sqrt((gx * gx + gy * gy).sum())
    for _ in range(max_iterations if scale > 0 and not inside.all() else 0):
        vx, vy = solver.gradient(v)
        dx, dy = inside * (gx - vx), inside * (gy - vy)
        errors.append(float(np.sqrt((dx * dx + dy * dy).sum()) / scale))
        if converged(errors):
            break
        v = solver.solve(vx + dx, vy + dy)
    value = solver.value(v)[:, :rx, :ry] * step
    count = known.sum(axis=(-2, -1), keepdims=True)
    mean = np.where(known, value, 0.0).sum(axis=(-2, -1), keepdims=True) / np.maximum(count, 1)
    return Integral(np.where(known, value - mean, np.nan).reshape(*batch, rx, ry), np.asarray(errors, np.float64))
