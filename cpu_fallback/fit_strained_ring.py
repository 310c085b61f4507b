"""Fit the strain of a glass to the counts of each pattern (CPU twin). Pixels are float32, in chunks; their sums are added in float64."""

from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.pixels import by_address, read_pattern

from gpu4d.amorphous.fit_strained_ring import (
    CLOSE,
    LEAST,
    LEFT,
    LONGEST_STRAIN,
    LONGEST_WAY,
    MOST_STEPS,
    PARAMETERS,
    REGULAR,
    SHORTEST,
    TERMS,
    USELESS,
    StrainedRing,
    free_parameters,
)
from gpu4d.compiled import ALL, KEEPS_NAN, contiguous, entry, part, routine

CHUNK = 512  # pixels that are worked on at a time: their numbers stay in the first-level cache
SUMS = PARAMETERS * (PARAMETERS + 1) // 2 + PARAMETERS + 1  # the Fisher matrix, the slope of the log likelihood, Σ (I − λ)² / λ
KNOTS = 4  # numbers of a knot of the table: P, its change to the next knot, and the same of the slope


class Ring(NamedTuple):
    """What all patterns share."""

    table: np.ndarray  # (K, 4) float32
    per_px: float  # knots of the table in a pixel
    radii: tuple
    undistort: tuple
    valid: np.ndarray  # (Qx, Qy) bool
    free: np.ndarray  # (8,) bool


class Work(NamedTuple):
    """Work arrays of a thread."""

    plane: np.ndarray  # (Qx, Qy) float32
    pixels: np.ndarray  # (4, Qx Qy) float32: T (q − origin), counts, ρ
    state: np.ndarray  # (8,)
    sums: np.ndarray  # (45,)
    fisher: np.ndarray  # (8, 8)
    slope: np.ndarray  # (8,)
    system: np.ndarray  # (8, 12)


def fit_strained_ring(patterns, origins, table, /, *, step, radii, undistort=(1.0, 0.0, 1.0), mask=None, fit_origin=True, terms=TERMS):
    n, nx, ny = patterns.shape
    knots = np.asarray(table, np.float64)
    rows = np.zeros((len(knots), KNOTS), np.float32)
    rows[:, 0::2] = knots
    rows[:-1, 1::2] = np.diff(knots, axis=0)
    valid = contiguous(np.ones((nx, ny), bool) if mask is None else mask, bool)
    limits = tuple(float(value) for value in radii)
    free = contiguous(np.array(free_parameters(fit_origin, terms)))
    ring = Ring(contiguous(rows), 1 / float(step), limits, tuple(float(value) for value in undistort), valid, free)
    single = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    size = PARAMETERS
    solving = np.zeros((size, size)), np.zeros(size), np.zeros((size, size + 4))
    work = Work(single(nx, ny), single(4, nx * ny), np.zeros(size), np.zeros(SUMS), *solving)
    out = np.full((n, 9), np.nan), np.full((n, 3, 3), np.nan)
    if n:
        _owner, frames = by_address(patterns)
        _fit_all(frames, contiguous(origins, np.float64), ring, work, *out)
    values, covariance = out
    return StrainedRing(values[:, :3], covariance, values[:, 3:5], values[:, 5], values[:, 6:8], values[:, 8])


@entry(KEEPS_NAN)
def _fit_all(frames, origins, ring, work, values, covariance):
    for n in range(origins.shape[0]):
        x, y = origins[n, 0], origins[n, 1]
        if not np.isfinite(x + y):
            continue
        read_pattern(frames, n, work.plane, work.plane.shape[1])
        count, total = _collect(x, y, ring, work)
        if not (total > 0 and np.isfinite(total)):
            continue
        chi = _fit(count, total, ring, work, covariance[n])
        if not np.isfinite(chi):
            for i in range(9):
                covariance[n, i // 3, i % 3] = np.nan
            continue
        for i in range(PARAMETERS):
            values[n, i] = work.state[i]
        values[n, 3] += x
        values[n, 4] += y
        free = 0
        for i in range(PARAMETERS):
            free += ring.free[i]
        values[n, 8] = chi / (count - free) if count > free else np.nan


@routine(KEEPS_NAN)
def _collect(x, y, ring, work):
    """Collect the pixels between the radii. Return their number, and the sum of their counts."""
    inner, outer = ring.radii
    xx, xy, yy = ring.undistort
    count, total = 0, 0.0
    for i in range(work.plane.shape[0]):
        dx = i - x
        for j in range(work.plane.shape[1]):
            dy = j - y
            u, v = xx * dx + xy * dy, xy * dx + yy * dy
            square = u * u + v * v
            if inner * inner < square < outer * outer and ring.valid[i, j]:
                work.pixels[0, count], work.pixels[1, count] = u, v
                work.pixels[2, count] = work.plane[i, j]
                work.pixels[3, count] = (2 * np.sqrt(square) - inner - outer) / (outer - inner)
                total += work.plane[i, j]
                count += 1
    return count, total


@routine(KEEPS_NAN)
def _fit(count, total, ring, work, covariance):
    """Fit one pattern. Return Σ (I − λ)² / λ, or NaN where the fit does not end, or tells nothing."""
    work.state[:] = 0
    work.state[5] = _brightness(count, total, ring, work)
    least = LEAST * total / count
    chi, ended = np.nan, False
    for _ in range(MOST_STEPS):
        chi = _equations(count, least, ring, work)
        if not _solve(ring, work, covariance):
            return np.nan
        promised = 0.0
        for i in range(PARAMETERS):
            promised += 0.5 * work.system[i, PARAMETERS] * work.slope[i]
        _move(work)
        if promised < CLOSE:
            ended = True
            break
    for i in range(3):
        ended = ended and covariance[i, i] < USELESS**2
    return chi if ended else np.nan


@routine(KEEPS_NAN)
def _brightness(count, total, ring, work):
    """Return the scale that explains all counts."""
    expected, last = 0.0, ring.table.shape[0] - 1
    for k in range(count):
        at = min(np.sqrt(np.float64(work.pixels[0, k]) ** 2 + np.float64(work.pixels[1, k]) ** 2) * ring.per_px, last)
        low = min(int(at), last - 1)
        expected += ring.table[low, 0] + (at - low) * ring.table[low, 1]
    return total / expected if expected > 0 else 1.0


@routine(KEEPS_NAN)
def _equations(count, least, ring, work):
    """Set the Fisher matrix and the slope of the log likelihood. Return Σ (I − λ)² / λ."""
    work.sums[:] = 0
    for first in range(0, count, CHUNK):
        size = min(CHUNK, count - first)
        _add_sums(first, size, np.float32(least), ring, work)
    number = 0
    for i in range(PARAMETERS):
        for j in range(i + 1):
            work.fisher[i, j] = work.fisher[j, i] = work.sums[number] if ring.free[i] and ring.free[j] else 0.0
            number += 1
    for i in range(PARAMETERS):
        work.slope[i] = work.sums[number + i] if ring.free[i] else 0.0
    return work.sums[SUMS - 1]


@routine(ALL)
def _add_sums(first, size, least, ring, work):
    """Add ∇λ ∇λᵀ / λ row by row, ∇λ (I − λ) / λ and (I − λ)² / λ of one chunk to the sums.

    Nothing is stored in the loop: with sums alone LLVM computes sixteen pixels at a time.
    """
    state, (txx, txy, tyy), zero = work.state, ring.undistort, np.float32(0)
    xx, xy, yy = np.float32(txx), np.float32(txy), np.float32(tyy)
    du, dv = np.float32(txx * state[3] + txy * state[4]), np.float32(txy * state[3] + tyy * state[4])
    axx, ayy, axy = np.float32(1 + state[0]), np.float32(1 + state[1]), np.float32(state[2])
    scale, constant, tilt = np.float32(state[5]), np.float32(state[6]), np.float32(state[7])
    us, vs = work.pixels[0, first : first + size], work.pixels[1, first : first + size]
    counts, rhos = work.pixels[2, first : first + size], work.pixels[3, first : first + size]
    table, per_px = ring.table, np.float32(ring.per_px)
    last, lowest = np.float32(table.shape[0] - 1), np.int32(table.shape[0] - 2)
    h00 = h10 = h11 = h20 = h21 = h22 = h30 = h31 = h32 = h33 = h40 = h41 = h42 = h43 = h44 = h50 = h51 = h52 = zero
    h53 = h54 = h55 = h60 = h61 = h62 = h63 = h64 = h65 = h66 = h70 = h71 = h72 = h73 = h74 = h75 = h76 = h77 = zero
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = chi = zero
    for c in range(size):
        u, v, rho = us[c] - du, vs[c] - dv, rhos[c]
        a, b = axx * u + axy * v, axy * u + ayy * v
        r = max(np.sqrt(a * a + b * b), np.float32(SHORTEST))
        at = min(r * per_px, last)
        low = min(np.int32(at), lowest)
        beyond = at - np.float32(low)
        value = table[low, 0] + beyond * table[low, 1]
        push = scale * (table[low, 2] + beyond * table[low, 3]) * np.reciprocal(r)
        a, b = push * a, push * b
        along, across = axx * a + axy * b, axy * a + ayy * b
        model = max(scale * value + constant + tilt * rho, least)
        weight = np.reciprocal(model)  # not 1 / λ, whose check for 0 would keep pixels apart
        off = counts[c] - model
        g0, g1, g2, g3, g4 = a * u, b * v, a * v + b * u, -(xx * along + xy * across), -(xy * along + yy * across)
        w0, w1, w2, w3, w4, w5, w7 = weight * g0, weight * g1, weight * g2, weight * g3, weight * g4, weight * value, weight * rho
        h00 += w0 * g0
        h10, h11 = h10 + w1 * g0, h11 + w1 * g1
        h20, h21, h22 = h20 + w2 * g0, h21 + w2 * g1, h22 + w2 * g2
        h30, h31, h32, h33 = h30 + w3 * g0, h31 + w3 * g1, h32 + w3 * g2, h33 + w3 * g3
        h40, h41, h42, h43, h44 = h40 + w4 * g0, h41 + w4 * g1, h42 + w4 * g2, h43 + w4 * g3, h44 + w4 * g4
        h50, h51, h52, h53, h54 = h50 + w5 * g0, h51 + w5 * g1, h52 + w5 * g2, h53 + w5 * g3, h54 + w5 * g4
        h60, h61, h62, h63, h64 = h60 + w0, h61 + w1, h62 + w2, h63 + w3, h64 + w4
        h70, h71, h72, h73, h74 = h70 + w7 * g0, h71 + w7 * g1, h72 + w7 * g2, h73 + w7 * g3, h74 + w7 * g4
        h55, h65, h66, h75, h76, h77 = h55 + w5 * value, h65 + w5, h66 + weight, h75 + w7 * value, h76 + w7, h77 + w7 * rho
        s0, s1, s2, s3, s4 = s0 + w0 * off, s1 + w1 * off, s2 + w2 * off, s3 + w3 * off, s4 + w4 * off
        s5, s6, s7, chi = s5 + w5 * off, s6 + weight * off, s7 + w7 * off, chi + weight * off * off
    found = (
        h00, h10, h11, h20, h21, h22, h30, h31, h32, h33, h40, h41, h42, h43, h44, h50, h51, h52, h53, h54, h55, h60, h61, h62,
        h63, h64, h65, h66, h70, h71, h72, h73, h74, h75, h76, h77, s0, s1, s2, s3, s4, s5, s6, s7, chi,
    )  # fmt: skip
    for i in range(SUMS):
        work.sums[i] += found[i]


@routine(KEEPS_NAN)
def _solve(ring, work, covariance):
    """Set the step, in column 8 of the system, and the covariance of the strain. Return False where a parameter is not told."""
    size, system = PARAMETERS, work.system
    for i in range(size):
        own = work.fisher[i, i] if ring.free[i] else 1.0
        if not own > 0:
            return False
        system[i, size + 3] = 1 / np.sqrt(own)  # units in which the diagonal is 1; the column is overwritten below
    for i in range(size):
        for j in range(size):
            system[i, j] = work.fisher[i, j] * system[i, size + 3] * system[j, size + 3]
        system[i, i] = 1 + REGULAR
    for i in range(size):
        unit = system[i, size + 3]
        system[i, size] = unit * work.slope[i]
        work.slope[i] *= unit  # in the same units, until the step is known
        for j in range(3):
            system[i, size + 1 + j] = 0.0
        if i < 3:
            system[i, size + 1 + i] = 1.0
    for k in range(size):
        pivot = system[k, k]
        for j in range(k, size + 4):
            system[k, j] /= pivot
        for i in range(size):
            factor = system[i, k]
            if i != k:
                for j in range(k, size + 4):
                    system[i, j] -= factor * system[k, j]
    for i in range(3):
        for j in range(3):
            covariance[i, j] = system[i, size + 1 + j] / np.sqrt(work.fisher[i, i] * work.fisher[j, j])
    for i in range(size):
        own = work.fisher[i, i] if ring.free[i] else 1.0
        system[i, size] /= np.sqrt(own)
        work.slope[i] *= np.sqrt(own)
    return True


@part
def _move(work):
    """Take a step of limited length."""
    state, change = work.state, work.system
    ratio = 1.0
    for i in range(3):
        ratio = max(ratio, abs(change[i, PARAMETERS]) / LONGEST_STRAIN)
    for i in range(3, 5):
        ratio = max(ratio, abs(change[i, PARAMETERS]) / LONGEST_WAY)
    scale = LEFT * state[5]
    for i in range(PARAMETERS):
        state[i] += change[i, PARAMETERS] / ratio
    state[5] = max(state[5], scale)
