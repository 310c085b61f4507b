"""Launch integrate_gradient.cu between real transforms. Mirrored edges need transforms of the field's own size only."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import arrays, device, fft
from gpu4d.deflection.integrate_gradient import Integral, converged

FILE = "integrate_gradient.cu"
THREADS = 256


class Field:
    """The planes of one field on the device, and the launches of the kernels that work on them."""

    def __init__(self, gradient, boundary, padding_factor):
        self.gradient = contiguous(gradient)
        *self.batch, self.rx, self.ry, _ = gradient.shape
        self.n = prod(self.batch)
        self.mirror = boundary == "mirror"
        larger = padding_factor if boundary == "padded" else 1.0
        self.grid = tuple(size + ceil(size * (larger - 1)) for size in (self.rx, self.ry))
        self.type = "f32" if gradient.dtype == np.float32 else "f64"
        self.plane = prod(self.grid)
        self.blocks = ceil(self.plane / THREADS)
        self.sizes = tuple(np.int32(v) for v in (self.rx, self.ry, *self.grid, self.mirror, self.blocks))
        self.planes = device.empty((2, self.n, *self.grid), np.float64)
        self.energy = self._partial(np.float64)
        self.unknown = self._partial(np.int32)
        self._launch("load_field", self.planes, self.energy, self.unknown, np.int64(self.n * self.plane), *self.sizes)

    def _partial(self, dtype):
        return device.empty((self.n, self.blocks), dtype)

    def _launch(self, name, *args):
        function = device.kernel(FILE, f"{name}_{self.type}")
        device.launch(function, self.n * self.blocks, THREADS, (self.gradient, *args))

    def _spectra(self, step, lambda1, lambda2):
        """Transform the planes, and apply one kernel to the spectra in place."""
        spectra = contiguous(fft.rfft2(self.planes))
        nx, ny = self.grid
        threads = (nx // 2 + 1 if self.mirror else nx) * (ny // 2 + 1)
        blocks = ceil(threads / THREADS)
        stride = self.n * nx * (ny // 2 + 1)
        function = device.kernel(FILE, step)
        numbers = (np.int64(stride), np.float64(lambda1), np.float64(lambda2), np.int32(nx), np.int32(ny), np.int32(blocks))
        device.launch(function, self.n * blocks, THREADS, (spectra, *numbers))
        return spectra

    def solve(self, *weights):
        step = "solve_mirror" if self.mirror else "solve_plain"
        return contiguous(fft.irfft2(self._spectra(step, *weights)[0], self.grid))

    def iterate(self, *weights):
        """Fill unknown positions with the solution's own gradient, and return the squared misfit at the known ones."""
        step = "project_mirror" if self.mirror else "project_plain"
        self.planes = contiguous(fft.irfft2(self._spectra(step, *weights), self.grid))
        misfit = self._partial(np.float64)
        self._launch("restore_field", self.planes, misfit, np.int64(self.n * self.plane), *self.sizes)
        return float(misfit.sum())

    def finish(self, v, step):
        sums = self._partial(np.float64)
        self._launch("sum_known", v, sums, *self.sizes)
        known = self.rx * self.ry - self.unknown.sum(axis=-1)
        mean = sums.sum(axis=-1) / known.clip(1)
        out = device.empty((self.n, self.rx, self.ry), np.float64)
        self._launch("finish_field", v, mean, out, np.float64(step), *self.sizes)
        return out.reshape((*self.batch, self.rx, self.ry))


def integrate_gradient(gradient, /, step=1.0, lambda1=0.0, lambda2=0.0, boundary="mirror", padding_factor=2.0, max_iterations=25):
    return integrate_iteratively(gradient, step, lambda1, lambda2, boundary, padding_factor, max_iterations).v


def integrate_iteratively(gradient, /, step=1.0, lambda1=0.0, lambda2=0.0, boundary="mirror", padding_factor=2.0, max_iterations=25):
    field = Field(gradient, boundary, padding_factor)
    errors = []
    if boundary == "padded" or int(field.unknown.sum()):
        scale = float(field.energy.sum()) ** 0.5
        for _ in range(max_iterations if scale > 0 else 0):
            before = field.planes
            errors.append(field.iterate(lambda1, lambda2) ** 0.5 / scale)
            if converged(errors):
                field.planes = before  # the result is the solution of these
                break
    v = field.solve(lambda1, lambda2)
    return Integral(field.finish(v, step), arrays.from_numpy(np.asarray(errors), v))
