"""Launch correlate_orientations.cu: angular spectra of the patterns, then a block for each pattern and eight zone axes."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous

from gpu4d import device
from gpu4d.device import tables
from gpu4d.orientation.correlate_orientations import check, shared_bytes

FILE = "correlate_orientations.cu"
THREADS = 128
AXES = 8


def correlate_orientations(peaks, shells, real, imaginary, /, *, width):
    check(peaks, shells, real, imaginary)
    (n, p), (h, s, axes) = peaks.shape[:2], real.shape
    peaks, shells = (contiguous(a.astype(np.float64, copy=False)) for a in (peaks, shells))
    real, imaginary = (contiguous(a.astype(np.float32, copy=False)) for a in (real, imaginary))
    spectra = device.empty((n, h, s), np.complex64)
    correlation, angle = device.empty((n, 2, axes), np.float64), device.empty((n, 2, axes), np.float64)
    sizes = np.int32(h), np.int32(s)
    first = device.kernel(FILE, "angular_spectra")
    device.launch(first, n, THREADS, (peaks, shells, spectra, np.int32(p), *sizes, np.float64(width)))
    waves = tables.named(("waves of a circle", h), lambda: _waves(h), peaks)
    second = device.kernel(FILE, "correlate")
    given = spectra, real, imaginary, waves, correlation, angle, *sizes, np.int32(axes)
    device.launch(second, (n, -(-axes // AXES)), THREADS, given, shared_bytes(h))
    return correlation, angle


def _waves(h):
    """Return exp(2πi m j / (2 h − 2)) for m, j < h."""
    turn = np.multiply.outer(np.arange(h), np.arange(h)) % (2 * h - 2) / (2 * h - 2)
    return np.exp(2j * np.pi * turn).astype(np.complex64)
