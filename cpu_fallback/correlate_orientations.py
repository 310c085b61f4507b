"""Correlate peaks with a library of zone axes (CPU twin), in single precision.

Sixteen zone axes are the lanes of a vector. Pattern and mirrored pattern are the real and the imaginary part of one complex curve, so
one transform gives both. The spectra of sixteen axes stay in the cache while all patterns of a block use them.
"""

import weakref

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.angular_lanes import highest_rows, shell_products
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.plane_transform import line_plan, long_primes_of, transform_line, transform_scratch

from gpu4d.compiled import ALL, KEEPS_NAN, address, contiguous, entry
from gpu4d.orientation.correlate_orientations import check

BLOCK = 32  # patterns whose spectra stay in the second-level cache
KEPT = 8  # libraries whose spectra are kept: those of a call with as many structures
_kept = ()  # (references to both arrays, their spectra in lanes) of recent libraries


@entry(KEEPS_NAN)
def _pattern_spectra(peaks, shells, width, spectra, filled):
    """Write the normalised angular spectra (n, m, 2, s) of patterns, and how many shells have a peak, and which: `filled` (n, 1 + s)."""
    n, harmonics, s = spectra.shape[0], spectra.shape[1], shells.shape[0]
    for b in range(n):
        for m in range(harmonics):
            for i in range(s):
                spectra[b, m, 0, i], spectra[b, m, 1, i] = np.float32(0), np.float32(0)
        for p in range(peaks.shape[1]):
            x, y, w = peaks[b, p, 0], peaks[b, p, 1], peaks[b, p, 2]
            q = np.sqrt(x * x + y * y)
            if not (w != 0.0 and q > 0.0):
                continue
            c, sine = x / q, -y / q
            for i in range(s):
                near = 1.0 - abs(q - shells[i]) / width
                if near > 0.0:
                    re, im = w * near, 0.0
                    for m in range(harmonics):
                        spectra[b, m, 0, i] += np.float32(re)
                        spectra[b, m, 1, i] += np.float32(im)
                        re, im = re * c - im * sine, re * sine + im * c
        filled[b, 0] = 0
        for i in range(s):
            there = False
            for p in range(peaks.shape[1]):
                x, y = peaks[b, p, 0], peaks[b, p, 1]
                there = there or (peaks[b, p, 2] != 0.0 and abs(np.sqrt(x * x + y * y) - shells[i]) < width)
            if there:
                filled[b, 0] += 1
                filled[b, filled[b, 0]] = i
        total = 0.0
        for m in range(harmonics):
            twice = 2.0 if m else 1.0
            for i in range(s):
                re, im = np.float64(spectra[b, m, 0, i]), np.float64(spectra[b, m, 1, i])
                total += twice * (re * re + im * im)
        scale = np.float32(1.0 / np.sqrt(total)) if total > 0.0 else np.float32(0)
        for m in range(harmonics):
            for i in range(s):
                spectra[b, m, 0, i] *= scale
                spectra[b, m, 1, i] *= scale


@entry(ALL, allocates=True)
def _correlate(spectra, filled, real, imaginary, plan, scratch, curve, long_primes, correlation, angle):
    n, groups, samples = spectra.shape[0], real.shape[0], curve.shape[1]
    top, place = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    last = correlation.shape[2]
    unit = np.float32(2.0 * np.pi / samples)
    harmonics, shells = real.shape[1], np.int64(real.shape[2])
    re, im = address(curve[0]), address(curve[1])
    for group in range(groups):
        one, other = address(real[group]), address(imaginary[group])
        for b in range(n):
            shell_products(address(spectra[b]), address(filled[b, 1:]), filled[b, 0], one, other, shells, np.int64(harmonics), re, im)
            transform_line(plan, long_primes, im, re, np.int64(LANES), im, re, np.int64(LANES), scratch)  # exchanged: the inverse
            for side in range(2):
                highest_rows(address(curve[side]), np.int64(samples), address(top), address(place))
                for lane in range(LANES):
                    axis = group * LANES + lane
                    if axis >= last:
                        continue
                    k = int(place[lane])
                    before = curve[side, k - 1 if k else samples - 1, lane]
                    after = curve[side, k + 1 if k + 1 < samples else 0, lane]
                    bend = before - np.float32(2) * top[lane] + after
                    move = np.float32(0)
                    if bend < np.float32(0):
                        move = (before - after) / (np.float32(2) * bend)
                    correlation[b, side, axis] = top[lane] - (before - after) * move * np.float32(0.25)
                    turn = (np.float32(k) + move) * unit
                    angle[b, side, axis] = turn + np.float32(2.0 * np.pi) if turn < np.float32(0) else turn


def _in_lanes(real, imaginary):
    """Return the spectra (m, s, a) as (2, groups, m, s, 16) float32, with zeros for axes beyond the last.

    Those of read-only arrays, as a library has, are kept: every block of a scan uses them.
    """
    global _kept
    for references, lanes in _kept:
        if references[0]() is real and references[1]() is imaginary and not (real.flags.writeable or imaginary.flags.writeable):
            return lanes
    harmonics, s, axes = real.shape
    groups = -(-axes // LANES)
    out = zeros(2, groups, harmonics, s, LANES)
    for part, given in enumerate((real, imaginary)):
        wide = np.zeros((harmonics, s, groups * LANES), np.float32)
        wide[..., :axes] = given
        out[part] = wide.reshape(harmonics, s, groups, LANES).transpose(2, 0, 1, 3)
    if all(a.flags.owndata and not a.flags.writeable for a in (real, imaginary)):
        _kept = ((((weakref.ref(real, _forget), weakref.ref(imaginary, _forget)), out), *_kept))[:KEPT]
    return out


def _forget(gone):
    """Drop what is kept for an array that is gone."""
    global _kept
    _kept = tuple((references, lanes) for references, lanes in _kept if all(reference is not gone for reference in references))


def correlate_orientations(peaks, shells, real, imaginary, /, *, width):
    check(peaks, shells, real, imaginary)
    n, harmonics, samples = peaks.shape[0], real.shape[0], 2 * (real.shape[0] - 1)
    correlation, angle = (np.empty((n, 2, real.shape[2]), np.float64) for _ in range(2))
    lanes = _in_lanes(real, imaginary)
    plan, scratch, curve = line_plan(samples), transform_scratch(samples, LANES), zeros(2, samples, LANES)
    peaks, shells = contiguous(peaks, np.float64), contiguous(shells, np.float64)
    for first in range(0, n, BLOCK):
        some = slice(first, min(first + BLOCK, n))
        spectra = zeros(some.stop - first, harmonics, 2, len(shells))
        filled = np.zeros((len(spectra), 1 + len(shells)), np.int64)
        _pattern_spectra(peaks[some], shells, float(width), spectra, filled)
        _correlate(
            spectra, filled, lanes[0], lanes[1], plan, scratch, curve, long_primes_of(samples), correlation[some], angle[some]
        )  # fmt: skip
    return correlation, angle
