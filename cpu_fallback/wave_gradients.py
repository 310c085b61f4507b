"""Compute misfit and gradients (CPU twin): some positions at a time, in buffers that stay in a core's cache and are used again.

Between the Fourier transforms there is one pass over the waves. Complex arrays are rows of real numbers here, real and imaginary parts
in turn: LLVM vectorises loops over such a row. `one` is 1 in the precision of the counts: with the literal, numba would compute in
double precision.
"""

import math
import threading

import numpy as np

from gpu4d import fft
from gpu4d.compiled import KEEPS_NAN, contiguous, entry
from gpu4d.ptychography.iterative.likelihood import TINY
from gpu4d.ptychography.iterative.wave_gradients import WaveGradients, check, check_options
from gpu4d.ptychography.iterative.wave_model import Ramps

BLOCK_BYTES = 1 << 20  # of the waves of a block, in all slices: half of a core's cache


@entry(KEEPS_NAN)
def _place_probes(probes, rows, columns, waves):
    for n in range(rows.shape[0]):
        ramp = columns[n]
        for m in range(probes.shape[0]):
            for i in range(probes.shape[1]):
                a, b = rows[n, 2 * i], rows[n, 2 * i + 1]
                probe, wave = probes[m, i], waves[n, m, i]
                for j in range(ramp.shape[0] // 2):
                    re, im = a * ramp[2 * j] - b * ramp[2 * j + 1], a * ramp[2 * j + 1] + b * ramp[2 * j]
                    wave[2 * j] = probe[2 * j] * re - probe[2 * j + 1] * im
                    wave[2 * j + 1] = probe[2 * j] * im + probe[2 * j + 1] * re


@entry(KEEPS_NAN)
def _transmit(waves, plane, corners, out):
    for n in range(waves.shape[0]):
        y = 2 * corners[n, 1]
        for m in range(waves.shape[1]):
            for i in range(waves.shape[2]):
                t, p, found = plane[corners[n, 0] + i, y : y + waves.shape[3]], waves[n, m, i], out[n, m, i]
                for j in range(p.shape[0] // 2):
                    found[2 * j] = p[2 * j] * t[2 * j] - p[2 * j + 1] * t[2 * j + 1]
                    found[2 * j + 1] = p[2 * j] * t[2 * j + 1] + p[2 * j + 1] * t[2 * j]


@entry(KEEPS_NAN)
def _filter(waves, transfer, sign):
    for n in range(waves.shape[0]):
        wave = waves[n]
        for j in range(transfer.shape[0] // 2):
            a, b = transfer[2 * j], sign * transfer[2 * j + 1]
            re, im = wave[2 * j], wave[2 * j + 1]
            wave[2 * j] = re * a - im * b
            wave[2 * j + 1] = re * b + im * a


@entry(KEEPS_NAN)
def _residuals(waves, counts, measured, poisson, background, one, ratios, factor, misfit):
    for n in range(waves.shape[0]):
        count, ratio = counts[n], ratios[n]
        for j in range(count.shape[0]):
            ratio[j] = background
        for m in range(waves.shape[1]):
            wave = waves[n, m]
            for j in range(count.shape[0]):
                ratio[j] += wave[2 * j] * wave[2 * j] + wave[2 * j + 1] * wave[2 * j + 1]
        total = 0.0
        if poisson:
            for j in range(count.shape[0]):
                total += measured[j] * (ratio[j] - count[j])
            for j in range(count.shape[0]):
                ratio[j] = count[j] / ratio[j]
                factor[j] = measured[j] * (one - ratio[j])
        else:
            for j in range(count.shape[0]):
                factor[j] = measured[j] * (one - math.sqrt(count[j] / ratio[j]))
            for j in range(count.shape[0]):
                total += ratio[j] * factor[j] * factor[j]
        misfit[n] = total
        for m in range(waves.shape[1]):
            wave = waves[n, m]
            for j in range(count.shape[0]):
                wave[2 * j] *= factor[j]
                wave[2 * j + 1] *= factor[j]


@entry(KEEPS_NAN)
def _add_logarithms(counts, logarithms, measured, misfit):
    for n in range(counts.shape[0]):
        count, logarithm, total = counts[n], logarithms[n], 0.0
        for j in range(count.shape[0]):
            total += measured[j] * count[j] * logarithm[j]
        misfit[n] += total


@entry(KEEPS_NAN)
def _back(incident, back, plane, corners, wanted, light):
    for n in range(incident.shape[0]):
        x, y = corners[n, 0], corners[n, 1]
        for m in range(incident.shape[1]):
            for i in range(incident.shape[2]):
                p, g = incident[n, m, i], back[n, m, i]
                stop = y + p.shape[0] // 2
                t, w, bright = plane[x + i, 2 * y : 2 * stop], wanted[x + i, 2 * y : 2 * stop], light[x + i, y:stop]
                for j in range(bright.shape[0]):
                    w[2 * j] += p[2 * j] * g[2 * j] + p[2 * j + 1] * g[2 * j + 1]
                    w[2 * j + 1] += p[2 * j] * g[2 * j + 1] - p[2 * j + 1] * g[2 * j]
                for j in range(bright.shape[0]):
                    bright[j] += p[2 * j] * p[2 * j] + p[2 * j + 1] * p[2 * j + 1]
                for j in range(bright.shape[0]):
                    re, im = g[2 * j], g[2 * j + 1]
                    g[2 * j] = re * t[2 * j] + im * t[2 * j + 1]
                    g[2 * j + 1] = im * t[2 * j] - re * t[2 * j + 1]


@entry(KEEPS_NAN)
def _add_probes(waves, rows, columns, probes):
    for m in range(waves.shape[1]):
        for n in range(waves.shape[0]):
            ramp = columns[n]
            for i in range(waves.shape[2]):
                a, b = rows[n, 2 * i], -rows[n, 2 * i + 1]
                wave, total = waves[n, m, i], probes[m, i]
                for j in range(ramp.shape[0] // 2):
                    re, im = a * ramp[2 * j] + b * ramp[2 * j + 1], b * ramp[2 * j] - a * ramp[2 * j + 1]
                    total[2 * j] += wave[2 * j] * re - wave[2 * j + 1] * im
                    total[2 * j + 1] += wave[2 * j] * im + wave[2 * j + 1] * re


class _Buffers(threading.local):
    """Waves of a block in all slices, one more wave, and real numbers: kept by every thread for the next call."""

    shape: tuple = ()
    dtype = None

    def of(self, shape, dtype):
        """Return buffers (S + 1, b, M, Nx, Ny) complex and (b, Nx · Ny), (Nx · Ny,) real."""
        if (shape, dtype) != (self.shape, self.dtype):
            real, pixels = np.empty(0, dtype).real.dtype, shape[3] * shape[4]
            self.waves, self.ratios, self.factor = np.empty(shape, dtype), np.empty((shape[1], pixels), real), np.empty(pixels, real)
            self.shape, self.dtype = shape, dtype
        return self.waves, self.ratios, self.factor


_buffers = _Buffers()


def _pairs(array):
    """Return a complex array (…, n) in C order as real numbers (…, 2 n)."""
    return array.view(array.real.dtype)


def _keep(buffer, result):
    """Put a transform into its buffer, unless the library made it there."""
    if not np.may_share_memory(buffer, result):
        buffer[...] = result


class _Block:
    """The arrays that all blocks of a call share, in the form that compiled code takes."""

    def __init__(self, objects, probes, measured, propagator, options):
        self.dtype, self.real = objects.dtype, objects.real.dtype
        self.planes, self.probes = (_pairs(contiguous(a, self.dtype)) for a in (objects, probes))
        pixels = probes.shape[1] * probes.shape[2]
        self.measured = contiguous(np.ones(pixels) if measured is None else measured.reshape(pixels), self.real)
        self.transfer = None if propagator is None else _pairs(contiguous(propagator, self.dtype).reshape(pixels))
        self.poisson, self.background, self.of_probes = options
        self.found = WaveGradients(
            None, np.zeros(objects.shape, self.dtype), np.zeros(objects.shape, self.real), np.zeros(probes.shape, self.dtype)
        )

    def propagated(self, wave, sign):
        """Filter a wave in place where the library does. `sign` -1 takes the conjugate transfer function."""
        wave = np.ascontiguousarray(fft.fft2_of_spent(wave))
        _filter(_pairs(wave).reshape(-1, len(self.transfer)), self.transfer, self.real.type(sign))
        return fft.ifft2_of_spent(wave)

    def add(self, corners, ramp, counts, buffers):
        """Add what the positions of a block give, and return their misfits."""
        waves, ratios, factor = buffers
        slices, (b, modes) = len(self.planes), waves.shape[1:3]
        rows, columns = (_pairs(contiguous(a, self.dtype)) for a in ramp)
        _place_probes(self.probes, rows, columns, _pairs(waves[0]))
        _keep(waves[0], fft.ifft2_of_spent(waves[0]))
        for i in range(1, slices):
            _transmit(_pairs(waves[i - 1]), self.planes[i - 1], corners, _pairs(waves[i]))
            _keep(waves[i], self.propagated(waves[i], 1))
        _transmit(_pairs(waves[slices - 1]), self.planes[-1], corners, _pairs(waves[slices]))
        back = np.ascontiguousarray(fft.fft2_of_spent(waves[slices]))
        misfit, numbers = np.empty(b), (self.real.type(max(self.background, TINY)), self.real.type(1))
        _residuals(_pairs(back).reshape(b, modes, -1), counts, self.measured, self.poisson, *numbers, ratios, factor, misfit)
        if self.poisson:
            np.maximum(ratios, self.real.type(TINY), out=ratios)
            _add_logarithms(counts, np.log(ratios, out=ratios), self.measured, misfit)
        back = np.ascontiguousarray(fft.ifft2_of_spent(back))
        for i in range(slices - 1, -1, -1):
            _back(_pairs(waves[i]), _pairs(back), self.planes[i], corners, _pairs(self.found.wanted[i]), self.found.light[i])
            if i:
                back = np.ascontiguousarray(self.propagated(back, -1))
        if self.of_probes:
            _add_probes(_pairs(np.ascontiguousarray(fft.fft2_of_spent(back))), rows, columns, _pairs(self.found.probes))
        return misfit


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
    n, patch = len(counts), np.array(counts.shape[1:])
    if n and not (corners.min() >= 0 and (corners + patch <= objects.shape[1:]).all()):
        raise IndexError(f"patches of {patch} pixels at corners {corners.min(0)} to {corners.max(0)} leave an object {objects.shape[1:]}")
    block = _Block(objects, probes, measured, propagator, (likelihood == "poisson", background, bool(of_probes)))
    corners, counts = contiguous(corners, np.int64), contiguous(counts, block.real).reshape(n, math.prod(counts.shape[1:]))
    wave = probes.nbytes * len(objects)
    size = max(1, min(n, BLOCK_BYTES // wave))
    waves, ratios, factor = _buffers.of((len(objects) + 1, size, *probes.shape), block.dtype)
    misfit = np.empty(n)
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        b = part.stop - first
        misfit[part] = block.add(corners[part], (rows[part], columns[part]), counts[part], (waves[:, :b], ratios[:b], factor))
    return block.found._replace(misfit=misfit)
