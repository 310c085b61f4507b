"""Launch find_disks.cu and the FFTs between its kernels, for detectors of any size.

Patterns that the fused kernel supports on this device go to it instead. Others are processed in batches, as large as memory allows. Only
the disks of a batch are kept. Maps of 256 × 256 pixels come from row_column_fft.cu, all others from the FFT library. The library
transforms units with a fixed number of patterns, and the last unit is filled up. So a pattern gives the same bits for every division of
a scan and every size of memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gpu4d.kernels.fused_disks import find_disks as find_fused
from gpu4d.kernels.fused_disks import supports
from gpu4d.kernels.pixels import as_bytes, contiguous, suffix
from gpu4d.kernels.refine_disks import peak_errors, refine_disks
from gpu4d.kernels.row_column_fft import correlation_maps_256, filter_of
from gpu4d.kernels.row_column_fft import supports as has_own_fft

from gpu4d import arrays, device, fft
from gpu4d.bragg.find_disks import USUAL_LIMITS, USUAL_REFINEMENT, Disks, fill_masked
from gpu4d.device import tables
from gpu4d.device.memory import room
from gpu4d.errors import InputError

FILE = "find_disks.cu"
BATCH_BYTES = 128 << 20  # of one float32 map of all patterns of a batch
# Arrays of the size of such a map that a batch holds at most: counts, spectra, two powers of them, three maps, work areas and maxima.
ARRAYS = 8
# Bytes of one map of a unit, the patterns that one call of the FFT library transforms: 1 to 2 µs of memory traffic, where the call
# itself takes 5 µs of the host.
UNIT_BYTES = 4 << 20
LEAST_UNIT = 8  # patterns of a unit, if they are large: with their arrays 256 of the 400 bytes a pixel that a plan always counts
BLOCKS = 8  # patterns of a batch for every multiprocessor, if memory allows
LARGE = 1 << 17  # pixels from which a pattern gets a block of 1024 threads
TOGETHER = 4  # patterns that a thread of spectrum_products works on


def find_disks(
    patterns,
    spectrum,
    moments,
    allowed,
    /,
    *,
    mask=None,
    fill_width=0.0,
    refinement=USUAL_REFINEMENT,
    limits=USUAL_LIMITS,
):
    n, nx, ny = patterns.shape
    _check(patterns, spectrum, moments, allowed, mask)
    if supports((nx, ny), device.shared_memory(), refinement=refinement, masked=mask is not None, dtype=patterns.dtype):
        return find_fused(patterns, spectrum, moments, allowed, refinement=refinement, limits=limits)
    own_fft = has_own_fft((nx, ny), masked=mask is not None)
    if own_fft:
        template = tables.made_of(spectrum, "filter", lambda: filter_of(spectrum))
    else:
        template = tables.made_of(spectrum, "single", lambda: contiguous(spectrum.astype(np.complex64)))
    inside = as_bytes(allowed)
    box = tables.made_of(moments, "box", lambda: centred_box(moments))
    count = device.empty((n,), np.int64)
    fields = [device.empty((n, limits.max_peaks), np.float64) for _ in range(5)]
    unit = unit_size(nx, ny)
    size = min(batch_size(nx, ny), -(-max(n, 1) // unit) * unit)
    x = device.empty((size, nx, ny), np.float32)
    for first in range(0, n, size):
        some = slice(first, min(first + size, n))
        frames = contiguous(patterns[some])
        if own_fft:
            counts = x[: len(frames)]
            maps = _own_maps(frames, counts, template, refinement)
        else:
            counts = _as_counts(frames, x[: -(-len(frames) // unit) * unit], mask, fill_width, unit)
            maps = _maps(counts, template, refinement, unit)
            counts, *maps = (m[: len(frames)] for m in (counts, *maps))
        maps = DeviceMaps(counts, *maps)
        maxima = strongest_maxima(maps.hybrid, maps.cross, counts, inside, box, limits)
        count[some] = maxima[2]
        for field, values in zip(fields, _positions(maps, box, maxima, refinement)):
            field[some] = values
    return Disks(count, *fields)


class DeviceMaps(NamedTuple):
    """Counts and correlation maps of the patterns in flight, all (n, nx, ny) float32."""

    counts: Any
    cross: Any  # n = 1
    hybrid: Any
    refined: Any


def _positions(maps, box, maxima, refinement):
    """Refine the chosen pixels to x, y, height and standard errors; they are NaN after the last."""
    px, py, found = maxima
    x, y, height = refine_disks(maps.refined, px, py, found, refinement.refine, refinement.upsample, refinement.climb)
    if refinement.refine_power == 1.0:
        return x, y, height, *peak_errors(maps.counts, maps.cross, box, x, y, found, refinement.refine is None)
    unknown = x * np.nan
    return x, y, height, unknown, unknown


def unit_size(nx: int, ny: int) -> int:
    """Return how many patterns the FFT library transforms at once. It depends on detector and device alone."""
    return min(BLOCKS * device.multiprocessors(), max(LEAST_UNIT, UNIT_BYTES // (4 * nx * ny)))


def batch_size(nx: int, ny: int) -> int:
    """Return how many patterns a batch has: whole units within the bytes that a sweep leaves to it, and at least one unit."""
    unit, each = unit_size(nx, ny), 4 * nx * ny
    most, left = min(BLOCKS * device.multiprocessors(), BATCH_BYTES // each), room()
    if left is not None:
        most = min(most, left // (ARRAYS * each))
    return max(1, most // unit) * unit


def centred_box(moments):
    """Return the window about the centre outside which the moments are zero, centred: (4, 2hx+1, 2hy+1) float32."""
    xp = arrays.namespace(moments)
    some = (moments != 0).any(axis=0)
    index = []
    for n, line in zip(moments.shape[1:], (some.any(axis=1), some.any(axis=0))):
        i = xp.arange(n)
        reach = min(int((xp.minimum(i, n - i) * line).max()), (n - 1) // 2)
        index.append(xp.arange(-reach, reach + 1) % n)
    return contiguous(moments[:, index[0], :][:, :, index[1]].astype(np.float32))


def _as_counts(frames, x, mask, fill_width, unit):
    """Write the frames as float32 to `x`. It is zero for a frame that is not finite and after the last; masked pixels are filled."""
    size, nx, ny = x.shape
    valid = np.uint64(0) if mask is None else as_bytes(mask)
    function = device.kernel(FILE, f"frames_to_float_{suffix(frames)}")
    device.launch(function, size, _threads(nx * ny), (frames, valid, x, np.int32(len(frames)), np.int32(nx * ny)))
    for first in range(0, size if mask is not None else 0, unit):
        some = x[first : first + unit]
        some[...] = fill_masked(some.astype(np.float64), mask, fill_width)
    return x


def _own_maps(frames, counts, template, refinement):
    """Return the n = 1, the hybrid and the refined map of 256 × 256 pixels, and write the frames to `counts`."""
    wanted = (1.0, refinement.power, refinement.refine_power)
    powers = tuple(dict.fromkeys(wanted))
    maps = correlation_maps_256(frames, template, powers, counts)
    return tuple(maps[powers.index(p)] for p in wanted)


def _maps(counts, template, refinement, unit):
    """Return the n = 1, the hybrid and the refined map of a batch. Two of them are the same array where their powers are equal."""
    size, nx, ny = counts.shape
    power, refine_power = refinement.power, refinement.refine_power
    spectra = contiguous(fft.in_units(counts, unit))
    powers = [p for p in dict.fromkeys((power, refine_power)) if p != 1.0]
    raised = {p: device.empty(spectra.shape, np.complex64) for p in powers}
    hybrid, refined = (raised[p] if p in raised else None for p in (power, refine_power))
    other = None if refined is hybrid else refined
    null = np.uint64(0)
    device.launch(
        device.kernel(FILE, "spectrum_products"),
        (-(-template.size // 256), -(-size // TOGETHER)),
        256,
        (
            spectra,
            template,
            null if hybrid is None else hybrid,
            null if other is None else other,
            np.int32(size),
            np.int32(template.size),
            np.float32(power - 1.0),
            np.float32(refine_power - 1.0),
            np.float32(1.0 / (nx * ny)),
        ),
    )
    maps = {p: contiguous(fft.in_units(m, unit, (nx, ny))) for p, m in {1.0: spectra, **raised}.items()}
    return maps[1.0], maps[power], maps[refine_power]


def strongest_maxima(hybrid, cross, counts, allowed, box, limits):
    """Find the maxima that pass the limits: pixels (n, most) int32, strongest first, and their number (n,) int32.

    Parameters
    ----------
    hybrid, cross, counts : (n, nx, ny) float32
    allowed : (nx, ny) uint8
    box : (4, 2hx+1, 2hy+1) float32
        Of `centred_box`. Its first plane has the weights of the noise.
    limits : PeakLimits
    """
    n, nx, ny = hybrid.shape
    threads = _threads(nx * ny)
    warps = threads // 32
    band = -(-nx // warps)
    room = -(-band // 2) * -(-ny // 2)  # of the four pixels of a square at most one is a maximum
    most = limits.max_peaks
    scratch = device.empty((n, warps, room), np.uint64)
    px, py = device.empty((n, most), np.int32), device.empty((n, most), np.int32)
    found = device.empty((n,), np.int32)
    reach = [np.int32((side - 1) // 2) for side in box.shape[1:]]
    thresholds = [np.float64(v) for v in (limits.min_relative, limits.min_absolute, limits.min_spacing**2)]
    given = (np.float32(limits.min_significance), *thresholds, np.int32(most))
    sizes = (np.int32(nx), np.int32(ny), *reach, np.int32(band), np.int32(room))
    function = device.kernel(FILE, "strongest_maxima")
    device.launch(function, n, threads, (hybrid, cross, counts, allowed, box, scratch, px, py, found, *given, *sizes))
    return px, py, found


def _threads(pixels: int) -> int:
    return 1024 if pixels >= LARGE else 256


def _check(patterns, spectrum, moments, allowed, mask):
    _, nx, ny = patterns.shape
    need = {"spectrum": (nx, ny // 2 + 1), "moments": (4, nx, ny), "allowed": (nx, ny), "mask": (nx, ny)}
    for name, given in (("spectrum", spectrum), ("moments", moments), ("allowed", allowed), ("mask", mask)):
        if given is not None and tuple(given.shape) != need[name]:
            raise InputError(f"{name} is {tuple(given.shape)}, patterns of {nx} × {ny} pixels need {need[name]}")
