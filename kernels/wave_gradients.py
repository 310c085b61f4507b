"""Launch wave_gradients.cu between the transforms of the FFT library, and add_patches.cu at the end."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.add_patches import add_patches
from gpu4d.kernels.pixels import contiguous

from gpu4d import device, fft
from gpu4d.errors import InputError
from gpu4d.ptychography.iterative.likelihood import TINY
from gpu4d.ptychography.iterative.wave_gradients import WaveGradients, check, check_options
from gpu4d.ptychography.iterative.wave_model import Ramps

FILE = "wave_gradients.cu"
THREADS = 256  # of a block, as in the source
MOST = 65535  # positions, along the second axis of a grid
SPAN = 64  # positions that a thread of add_probes adds; constant, because sums depend on it


class _Launches:
    """The kernels of a call, with the sizes that all of them share."""

    def __init__(self, shape, modes):
        self.n, self.nx, self.ny = shape
        self.modes, self.pixels = modes, self.nx * self.ny
        self.tiles = -(-self.pixels // THREADS)
        self.sizes = np.int32(modes), np.int32(self.nx), np.int32(self.ny)

    def empty(self):
        """Return waves (n, M, Nx, Ny), not set."""
        return device.empty((self.n, self.modes, self.nx, self.ny), np.complex64)

    def __call__(self, name, *arguments, grid=None):
        """Launch a kernel for all pixels of all positions, or on another grid."""
        device.launch(device.kernel(FILE, name), grid or (self.tiles, self.n), THREADS, arguments)

    def filtered(self, waves, transfer, conjugate):
        """Return waves taken from one slice to the next, or back."""
        spectrum = fft.fft2_of_spent(waves)
        self("filter", spectrum, transfer, np.int32(self.modes), np.int32(self.pixels), np.int32(conjugate))
        return fft.ifft2_of_spent(spectrum)

    def probe_sums(self, waves, rows, columns):
        """Return waves summed over positions, each taken back from its place."""
        parts = -(-self.n // SPAN)
        partial = device.empty((parts, self.modes, self.pixels), np.complex64)
        sums = device.empty((self.modes, self.nx, self.ny), np.complex64)
        sizes = np.int32(self.n), *self.sizes[1:], np.int32(SPAN)
        self("add_probes", waves, rows, columns, partial, *sizes, grid=(self.tiles, self.modes, parts))
        self("add_parts", partial, sums, np.int32(parts), np.int32(self.pixels), grid=(self.tiles, self.modes))
        return sums


def wave_gradients(
    objects,
    corners,
    probes,
    rows,
    columns,
    counts,
    measured=None,
    propagator=None,
    /,
    *,
    likelihood="poisson",
    background=0.1,
    of_probes=True,
):
    check(objects, corners, probes, Ramps(rows, columns), counts)
    check_options(len(objects), propagator, likelihood)
    slices, shape = objects.shape[0], objects.shape[1:]
    if counts.shape[0] > MOST:
        raise InputError(f"{counts.shape[0]} positions are more than the {MOST} one launch takes")
    run = _Launches(counts.shape, probes.shape[0])
    objects, probes, rows, columns = (contiguous(a.astype(np.complex64, copy=False)) for a in (objects, probes, rows, columns))
    counts, at = contiguous(counts.astype(np.float32, copy=False)), contiguous(corners.astype(np.int32, copy=False))
    py = np.int32(shape[1])
    misfit = device.empty((run.n,), np.float64)
    if run.n == 0:
        none = np.complex64(0)
        return WaveGradients(misfit, objects * none, (objects * none).real, probes * none)
    inside = _ones(counts) if measured is None else contiguous(measured.astype(np.float32, copy=False))
    transfer = None if propagator is None else contiguous(propagator.astype(np.complex64, copy=False))
    waves = run.empty()
    run("place_probes", probes, rows, columns, waves, *run.sizes)
    incident = [fft.ifft2_of_spent(waves)]
    for i in range(slices):
        waves = run.empty()
        run("transmit", incident[i], objects[i], at, waves, *run.sizes, py)
        if i + 1 < slices:
            incident.append(run.filtered(waves, transfer, False))
    waves = fft.fft2_of_spent(waves)
    numbers = np.int32(run.modes), np.int32(run.pixels), np.float32(max(background, TINY)), np.int32(likelihood == "poisson")
    run("residuals", waves, counts, inside, misfit, *numbers, grid=(run.n,))
    waves = fft.ifft2_of_spent(waves)
    wanted = device.empty((slices, run.n, run.nx, run.ny), np.complex64)
    light = device.empty((slices, run.n, run.nx, run.ny), np.float32)
    for i in range(slices - 1, -1, -1):
        run("back", incident[i], waves, objects[i], at, wanted[i], light[i], *run.sizes, py)
        if i:
            waves = run.filtered(waves, transfer, True)
    of_probe = run.probe_sums(fft.fft2_of_spent(waves), rows, columns) if of_probes else probes * np.complex64(0)
    planes = [add_patches(values, at, shape=shape) for values in (wanted, light)]
    return WaveGradients(misfit, planes[0], planes[1], of_probe)


def _ones(counts):
    """Return a mask (Nx, Ny) that is 1 everywhere."""
    ones = device.empty(counts.shape[1:], np.float32)
    ones[...] = 1
    return ones
