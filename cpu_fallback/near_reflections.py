"""Find the reflections near the Ewald sphere and their amplitudes, for the fit of orientations (see `refine_orientations`).

Reflections lie along rows, so that four of them are the lanes of a vector. Most are far from the sphere and stay so while a candidate
turns by a degree or two: the others are a short list.
"""

from typing import NamedTuple

import numpy as np

from gpu4d.compiled import KEEPS_NAN, helper
from gpu4d.orientation.refine_orientations import FLOOR

TURN = 0.03  # rad that a candidate may turn before the short list is made again
HIGH, LOW = 3.141592653589793, 1.2246467991473532e-16  # π in two parts


class Crystal(NamedTuple):
    """Reflections, and numbers of the fit."""

    gx: np.ndarray
    gy: np.ndarray
    gz: np.ndarray
    factor: np.ndarray
    blur: np.ndarray  # |F| min(1, πt|g| · 0.01)
    limit: np.ndarray  # largest |s| from which a turn by TURN may lead to the sphere
    numbers: np.ndarray


class Short(NamedTuple):
    """Reflections of the short list, the orientation that it was made for, and their number."""

    gx: np.ndarray
    gy: np.ndarray
    gz: np.ndarray
    factor: np.ndarray
    blur: np.ndarray
    base: np.ndarray
    count: np.ndarray


class Near(NamedTuple):
    """Reflections near the Ewald sphere, and before that all of the short list in lab axes."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    s: np.ndarray
    f: np.ndarray  # amplitude
    slope: np.ndarray  # df/ds
    blur: np.ndarray
    which: np.ndarray
    found: np.ndarray  # 1 for those that explain a peak


@helper(KEEPS_NAN)
def shorten(turn, crystal, work):
    """Make the short list for an orientation."""
    k, s, short = crystal.numbers[0], work.near.s, work.short
    gx, gy, gz = crystal.gx, crystal.gy, crystal.gz
    a, b, c = turn[2, 0], turn[2, 1], turn[2, 2]
    for j in range(len(gx)):
        z = a * gx[j] + b * gy[j] + c * gz[j]
        square = k * k + z * z - gx[j] * gx[j] - gy[j] * gy[j] - gz[j] * gz[j]
        s[j] = np.sqrt(max(square, 0.0)) - k - z
    count = 0
    for j in range(len(gx)):
        work.near.which[count] = j
        count += 1 if abs(s[j]) <= crystal.limit[j] else 0
    for i in range(count):
        j = work.near.which[i]
        short.gx[i], short.gy[i], short.gz[i], short.factor[i], short.blur[i] = gx[j], gy[j], gz[j], crystal.factor[j], crystal.blur[j]
    short.count[0] = count
    for i in range(3):
        for j in range(3):
            short.base[i, j] = turn[i, j]


@helper(KEEPS_NAN)
def project(turn, crystal, work):
    """Write the reflections near the sphere, their numbers in the short list, and return how many."""
    short, near = work.short, work.near
    moved = 0.0
    for i in range(3):
        for j in range(3):
            moved += (turn[i, j] - short.base[i, j]) * (turn[i, j] - short.base[i, j])
    if moved > TURN * TURN:  # no reflection moves by more than √moved · |g|
        shorten(turn, crystal, work)
    k, reach, many = crystal.numbers[0], crystal.numbers[3], short.count[0]
    a, b, c = turn[0, 0], turn[0, 1], turn[0, 2]
    d, e, f = turn[1, 0], turn[1, 1], turn[1, 2]
    g, h, i = turn[2, 0], turn[2, 1], turn[2, 2]
    gx, gy, gz, x, y, z, s = short.gx, short.gy, short.gz, near.x, near.y, near.z, near.s
    for j in range(many):
        x[j] = a * gx[j] + b * gy[j] + c * gz[j]
        y[j] = d * gx[j] + e * gy[j] + f * gz[j]
        z[j] = g * gx[j] + h * gy[j] + i * gz[j]
        square = k * k - x[j] * x[j] - y[j] * y[j]
        s[j] = (np.sqrt(square) if square > 0.0 else -np.inf) - k - z[j]
    count = 0
    for j in range(many):
        x[count], y[count], z[count], s[count], near.which[count] = x[j], y[j], z[j], s[j], j
        count += 1 if abs(s[j]) <= reach else 0
    return count


@helper(KEEPS_NAN)
def sine_of(x):
    """Return sin x and cos x to 1e-12, without a branch: Taylor's series within a quarter of a turn."""
    n = np.floor(x * (1.0 / HIGH) + 0.5)
    r = (x - n * HIGH) - n * LOW
    q = r * r
    sine = -1.0 / 1307674368000.0 + q * (1.0 / 355687428096000.0)
    sine = -1.0 / 39916800.0 + q * (1.0 / 6227020800.0 + q * sine)
    sine = -1.0 / 5040.0 + q * (1.0 / 362880.0 + q * sine)
    sine = r + r * q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * sine))
    cosine = -1.0 / 87178291200.0 + q * (1.0 / 20922789888000.0)
    cosine = -1.0 / 3628800.0 + q * (1.0 / 479001600.0 + q * cosine)
    cosine = -1.0 / 720.0 + q * (1.0 / 40320.0 + q * cosine)
    cosine = 1.0 + q * (-0.5 + q * (1.0 / 24.0 + q * cosine))
    sign = 1.0 - 2.0 * (n - 2.0 * np.floor(0.5 * n))
    return sign * sine, sign * cosine


@helper(KEEPS_NAN)
def amplitudes(near, count, short, thickness, rough):
    """Write amplitude, slope and blur of the reflections near the sphere."""
    pt = np.pi * thickness
    f, slope, s = near.f, near.slope, near.s
    for j in range(count):
        f[j] = short.factor[near.which[j]]
        near.blur[j] = short.blur[near.which[j]] if rough else 0.0
    for j in range(count):
        x = pt * s[j]
        wide = abs(x) > 1e-3
        safe = x if wide else 1.0
        sine, cosine = sine_of(safe)
        over = 1.0 / safe
        sinc = sine * over if wide else 1.0 - x * x * (1.0 / 6.0)
        change = (cosine - sine * over) * over if wide else -x * (1.0 / 3.0)
        square = sinc * sinc + FLOOR * FLOOR
        whole = np.sqrt(square)
        slope[j] = f[j] * sinc * change * pt / whole
        f[j] = f[j] * whole
