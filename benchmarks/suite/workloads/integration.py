"""Integration of a gradient field: Poisson's equation with free edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import COMPUTE, Check, Place, Prepared, Size, Workload, WrongAnswer, implementations, relative_error

import gpu4d

MODES = ((1, 0, 3.0), (2, 3, 1.0), (5, 1, -0.7), (0, 4, 1.3), (9, 7, 0.4))  # half cycles along x and y, and the amplitude, of the truth
NOISE = 1.0 / 64  # half width of the even noise of the field
TOLERANCE = 1e-6  # of the largest value: the field is in single precision


def poisson_solve(place: Place, size: Size, seed: int) -> Prepared:
    """Integrate a gradient field of n² positions with free edges.

    The field is read, the answer is written in float64. Three real transforms of n² values are the least: two of the field, one back.
    """
    n = size["side"]
    field = gradient_field(place, n, seed)

    def call() -> Any:
        return gpu4d.deflection.integrate_gradient(field)

    def check(found: dict[str, np.ndarray]) -> Check:
        wanted = integrated_by_cosines(place.host(field).astype(float))
        truth = true_function(n)
        noise = NOISE / math.sqrt(3) * math.sqrt(inverse_squares(n))
        away = float(np.abs(wanted - truth).max())
        if not away <= 8 * noise + 1e-5 * n:
            raise WrongAnswer(f"the oracle is {away:.2g} from the function that the field is the gradient of: it is not to be trusted")
        error = relative_error(found["function"], wanted)
        return Check(error, TOLERANCE, wanted.size, "Poisson's equation by cosine and sine transforms in float64, all values")

    return Prepared(
        call,
        lambda found: {"function": place.host(found)},
        check,
        n * n,
        data.digest(place.xp, field),
        bytes=float(field.nbytes + 8 * n * n),
        flops=3 * 2.5 * n * n * math.log2(n * n),
        implementation=implementations(field, "integrate_gradient"),
        inputs=lambda: for_peers(place.host(field)),
    )


def for_peers(field: np.ndarray) -> dict[str, np.ndarray]:
    """Return the field as a centre of mass in pixels of 1/Å at steps of 1 Å, with the truth, as `gpu4d.benchmarks.suite.peers` names it."""
    n = len(field)
    gradient = np.zeros((n, n, 2))
    for i, j, a in MODES:
        (x, dx), (y, dy) = cosines(n, i), cosines(n, j)
        gradient += a * n / 8 * np.stack([dx[:, None] * y, x[:, None] * dy], -1)
    one = np.asarray(1.0)
    return {"com": field / (2 * np.pi), "q_pixel": one, "r_pixel": one, "phase": true_function(n), "gradient": gradient}


def inverse_squares(n: int) -> float:
    """Return Σ 1 / (2π k)² over the frequencies of n² values with free edges, k in cycles per value, divided by n²."""
    k = np.arange(n) / (2 * n)
    square = (k[:, None] ** 2 + k**2).reshape(-1)[1:]
    return float((1 / (4 * np.pi**2 * square)).sum() / n**2)


def cosines(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cos(π m (x + ½) / n) and its derivative, made on the host in float64."""
    angle = np.pi * m * (np.arange(n) + 0.5) / n
    return np.cos(angle), -np.pi * m / n * np.sin(angle)


def true_function(n: int) -> np.ndarray:
    """Return the function without noise, (n, n). It grows with n, so that its gradient does not fall."""
    return n / 8 * sum(a * cosines(n, x)[0][:, None] * cosines(n, y)[0] for x, y, a in MODES)


def gradient_field(place: Place, n: int, seed: int) -> Any:
    """Return the gradient of the true function with even noise, (n, n, 2) float32.

    The cosines of the host may differ in the last bit of float64. The sum is rounded to 2⁻¹⁶, so that the field is the same almost surely.
    """
    xp = place.xp
    field = xp.empty((n, n, 2), "float32")
    rows = max(1, min(n, (1 << 22) // n))
    for first in range(0, n, rows):
        last = min(n, first + rows)
        random = data.hashed(xp, seed, first * n * 2, (last - first) * n * 2).reshape(last - first, n, 2)
        part = (random >> np.uint32(8)).astype(xp.float64) * (2 * NOISE / 2**24) - NOISE
        for i, j, a in MODES:
            (x, dx), (y, dy) = cosines(n, i), cosines(n, j)
            for axis, (u, v) in enumerate(((dx, y), (x, dy))):
                part[..., axis] += xp.asarray(a * n / 8 * u[first:last])[:, None] * xp.asarray(v)
        field[first:last] = xp.rint(part * 2.0**16) / 2.0**16
    return field


def integrated_by_cosines(field: np.ndarray) -> np.ndarray:
    """Return the least-squares function of a gradient field with free edges: the field's x is odd along x, the function is even.

    Independent of `gpu4d.deflection.integrate_gradient`, which transforms mirror images. The function's cosine of frequency k is
    -(kx Gx + ky Gy) / (2π k²), with G the sine transform along the own axis and the cosine transform along the other.
    """
    from scipy import fft as transforms

    n = len(field)
    k = np.arange(n) / (2 * n)
    total = np.zeros((n, n))
    for axis in (0, 1):
        g = transforms.dct(field[..., axis], 2, axis=1 - axis, workers=-1)
        g = np.roll(transforms.dst(g, 2, axis=axis, workers=-1), 1, axis)  # the sine of number j has the frequency of cosine j + 1
        edge = [slice(None)] * 2
        edge[axis] = slice(0, 1)
        g[tuple(edge)] = 0  # the last sine is that of half a cycle, whose function is zero
        total -= (k[:, None] if axis == 0 else k) * g
    square = k[:, None] ** 2 + k**2
    square[0, 0] = 1
    return transforms.idctn(total / (2 * np.pi * square), 2, workers=-1)


WORKLOADS = [
    Workload(
        "poisson-solve",
        "integration of a gradient field",
        COMPUTE,
        "positions",
        {tier: {"side": n} for tier, n in (("quick", 128), ("S", 768), ("M", 4096), ("L", 8192))},
        poisson_solve,
        "Poisson's equation with free edges, as in integrated centre of mass and integrated DPC.",
    ),
]
