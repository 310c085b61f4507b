"""Transforms of the CPU path against float64, for every way a size may factor."""

import numpy as np
import pytest
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.long_primes import convolution_points, factors, prime_tables
from gpu4d.cpu_fallback.map_lanes import maps_with_slack
from gpu4d.cpu_fallback.plane_transform import (
    columns_forward,
    columns_inverse,
    half_rows,
    line_plan,
    padded,
    panels_of,
    rows_forward,
    rows_inverse,
    transform_scratch,
)
from gpu4d.cpu_fallback.power import powered, product
from numba import njit


@njit(nogil=True)
def correlate(plane, x, y, template, power, scale, spectrum, spectra, out, scratch):
    """As the twin of `find_disks`, for one map; the half spectrum of the plane is left in `spectra`."""
    columns_forward(plane, x, True, spectrum, scratch)
    size = y.n * LANES
    zr, zi, mr, mi = scratch.panels[0, 0, :size], scratch.panels[0, 1, :size], scratch.panels[1, 0, :size], scratch.panels[1, 1, :size]
    for panel in range(template.shape[1]):
        rows_forward(spectrum, panel * LANES, y, True, mr.ctypes.data, mi.ctypes.data, scratch)
        spectra[0, panel, :] = mr
        spectra[1, panel, :] = mi
        product(mr, mi, template[0, panel].reshape(-1), template[1, panel].reshape(-1))
        powered(mr, mi, power, scale, zr, zi)
        rows_inverse(zr.ctypes.data, zi.ctypes.data, y, True, spectrum, panel * LANES, scratch)
    columns_inverse(spectrum, x, True, out, scratch)


def run(image, template, power):
    nx, ny = image.shape
    plane = np.zeros((nx, padded(ny)), np.float32)
    plane[:, :ny] = image
    panels = panels_of(template, (nx, ny))
    spectra = np.zeros((2, panels.shape[1], ny * LANES), np.float32)
    spectrum, out = np.zeros((2, half_rows(nx), padded(ny)), np.float32), np.zeros_like(plane)
    correlate(
        plane,
        line_plan(nx),
        line_plan(ny),
        panels,
        np.float32(power),
        np.float32(1 / image.size),
        spectrum,
        spectra,
        out,
        transform_scratch(nx, ny),
    )
    rows = (spectra[0] + 1j * spectra[1]).reshape(-1, ny, LANES).transpose(0, 2, 1).reshape(-1, ny)
    return rows[: nx // 2 + 1], out[:, :ny]


SHAPES = [
    (128, 128),
    (96, 160),
    (3, 3),
    (1, 5),
    (8, 7),
    (16, 64),
    (13, 22),
    (33, 17),
    (63, 65),
    (11, 121),
    (211, 31),
    (34, 206),
    (100, 515),
    (514, 40),
    (40, 514),
    (151, 211),
    (131, 254),
    (179, 226),
    (347, 151),
    (359, 34),
    (1017, 6),
    (131 * 131, 3),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("power", [1.0, 0.85])
def test_correlation_of_planes_of_any_size(shape, power):
    rng = np.random.default_rng(0)
    image, other = rng.random(shape) + rng.poisson(0.1, shape), rng.random(shape)
    template = np.fft.rfft2(other)
    rows, out = run(image, template, power)
    forward = np.fft.fft2(image)
    assert np.abs(rows - forward[: shape[0] // 2 + 1]).max() <= 3e-6 * np.abs(forward).max()
    m = np.fft.rfft2(image) * template
    want = np.fft.irfft2(m * np.abs(m) ** (power - 1), s=shape)
    assert np.abs(out - want).max() <= 1e-5 * np.abs(want).max()


@pytest.mark.parametrize("n", [*range(1, 70), 101, 103, 121, 143, 169, 256, 257, 343, 512, 514, 515, 1021])
def test_passes_make_up_the_size(n):
    passes = line_plan(n).passes
    assert np.prod(passes[:, 0]) == n
    m, s = n, 1
    for radix, rest, stride, *_ in passes:
        m //= radix
        assert (rest, stride) == (m, s)
        s *= radix
    impulse = np.zeros((n, 3))
    impulse[1 % n, 0] = 1.0
    rows, _ = run(impulse, np.ones((n, 2)), 1.0)
    want = np.exp(-2j * np.pi * np.arange(n // 2 + 1) * (1 % n) / n)
    np.testing.assert_allclose(rows, np.repeat(want[:, None], 3, 1), atol=2e-6)


PRIMES = [p for p in range(3, 420) if all(p % q for q in range(2, p))] + [503, 509, 521, 1021, 1031]


@pytest.mark.parametrize("p", PRIMES)
def test_primes_by_sums_of_products_and_by_convolutions(p):
    """Whatever the plan takes for a prime: p - 1 points, more of them, or none."""
    rng = np.random.default_rng(p)
    image = rng.standard_normal((p, 5))
    rows, _ = run(image, np.ones((p, 3)), 1.0)
    want = np.fft.fft2(image)[: p // 2 + 1]
    assert np.abs(rows - want).max() <= 2e-6 * np.abs(want).max()


def test_the_plan_knows_primes_with_and_without_small_factors_before_them():
    assert [convolution_points(p) for p in (11, 43, 103, 179, 263)] == [0] * 5  # sums of products, or no short convolution nearby
    assert [convolution_points(p) for p in (131, 151, 211, 257, 521)] == [130, 150, 210, 256, 520]
    for p in (347, 359, 503):  # p - 1 is twice a prime
        points = convolution_points(p)
        assert points >= 2 * p - 3 and max(factors(points)) <= 8


@pytest.mark.parametrize("p, points", [(7, 6), (13, 12), (13, 23), (31, 30), (31, 64), (47, 46), (47, 96), (263, 525)])
def test_a_prime_is_a_convolution(p, points):
    way = prime_tables(p, points)
    x = np.random.default_rng(0).standard_normal(p)
    there, back = way.order
    assert sorted(there) == sorted(back) == list(range(1, p))
    z = np.fft.ifft(np.fft.fft(x[there], points) * way.waves * points)
    found = np.concatenate([[x.sum()], np.empty(p - 1)]).astype(complex)
    found[back] = x[0] + z[: p - 1]
    np.testing.assert_allclose(found, np.fft.fft(x), atol=1e-12 * p)


def test_scratch_begins_at_a_line_of_the_cache():
    arrays = [*transform_scratch(97, 31), zeros(3, 5), panels_of(np.ones((9, 6)), (9, 11)), maps_with_slack(2, 9, 32)]
    assert [a.ctypes.data % 64 for a in arrays] == [0] * len(arrays)
    assert [a.shape for a in arrays[-3:]] == [(3, 5), (2, 1, 11, 16), (2, 9, 32)]
    assert not any(a.any() for a in arrays[:-2])
