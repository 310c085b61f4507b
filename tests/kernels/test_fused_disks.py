"""The fused disk kernel on the CPU: every stage alone against float64 NumPy, the whole against the definition of `find_disks`, and
deliberately broken copies that these tests must catch."""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from cuda_on_host import HostBackend
from disk_options import limited, operands
from gpu4d.kernels import fused_disks
from operations.patterns import bragg_frames

from gpu4d.bragg.correlation_map import powered
from gpu4d.bragg.find_disks import Refinement, correlation_maps, find_disks, local_maxima, significance
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.bragg.refine import interpolate, position_errors, refine_positions
from gpu4d.bragg.template_transforms import template_moments
from gpu4d.device.backend import inlined, using_backend
from gpu4d.probe import Template, synthetic, template

SIZES = tuple(fused_disks.PLANS)
SEEDS = (0, 1, 2, 7)
STAGES = (Path(__file__).parent / "fused_stages.cu").read_text().replace('#include "fused_disks.cu"', inlined("fused_disks.cu"))
EVERY_SIZE = pytest.mark.parametrize("size", SIZES)


class Used(HostBackend):
    """Fresh arrays hold sevens: the usual NaN would pass for a padding nobody wrote."""

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        array.fill(7)
        return array


def stage(name: str, size: int, args: tuple, seed: int = 0) -> None:
    """Run one stage in one block."""
    host = HostBackend(seed=seed, sources={"fused_stages.cu": STAGES})
    plan = fused_disks.PLANS[size]
    function = host.function("fused_stages.cu", f"{name}_{size}", (f"SIZE={size}",))
    host.launch(function, (1,), (plan.threads,), args, plan.shared())


def packed(image: np.ndarray) -> np.ndarray:
    """Rows 2r and 2r + 1 as real and imaginary part of packed row r."""
    return np.ascontiguousarray(image[0::2] + 1j * image[1::2], np.complex64)


def unset(*shape: int, dtype: str = "complex64") -> np.ndarray:
    return np.full(shape, {"f": np.nan, "c": np.nan, "i": -7, "u": 77}[np.dtype(dtype).kind], dtype)


def close(found: np.ndarray, wanted: np.ndarray, limit: float) -> None:
    error = np.sqrt((np.abs(found - wanted) ** 2).mean() / (np.abs(wanted) ** 2).mean())
    assert error <= limit, f"error {error:.1e} of the root mean square, allowed {limit:.0e}"


def a_template(size: int, radius: float = 3.2) -> Template:
    return template(synthetic((size, size), radius))


def a_map(size: int, power: float = 0.85, seed: int = 0) -> np.ndarray:
    """A correlation map as the kernel would have it, in float32 precision."""
    counts = bragg_frames((size, size), 1, seed=seed)
    kernel = a_template(size)
    found = correlation_maps(counts, template_spectrum(kernel), template_moments(kernel), None, 0.0, power, 1.0)
    return found.hybrid[0].astype(np.float32)


# ---------------------------------------------------------------- transforms


@EVERY_SIZE
def test_plan_of_the_launcher_is_the_kernels(size):
    found = np.zeros(1, np.int32)
    host = HostBackend(sources={"fused_stages.cu": STAGES})
    host.launch(host.function("fused_stages.cu", f"workspace_{size}", (f"SIZE={size}",)), (1,), (1,), (found,), 0)
    plan = fused_disks.PLANS[size]
    assert found[0] == plan.shared()
    assert plan.a * plan.b == size
    assert f"{plan.shared():,}".replace(",", " ") in inlined("fused_disks.cu"), "the head of the file says another size"


@EVERY_SIZE
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_rows(size, dtype):
    rng = np.random.default_rng(size)
    top = {"uint8": 255, "uint16": 65535, "uint32": 2**32 - 1, "float32": 1000}[dtype]
    image = rng.integers(0, top, (size, size)).astype(dtype)
    wanted = np.fft.fft(image[0::2] + 1j * image[1::2].astype(np.float64), axis=1)
    for seed in SEEDS[: 4 if dtype == "uint16" else 1]:
        found, flaws = unset(size // 2, size), unset(1, dtype="uint32")
        stage("rows", size, (image, np.int32(fused_disks.PIXEL_TYPES[dtype]), found, flaws), seed)
        close(found, wanted, 5e-7)
        assert flaws[0] == 0


@pytest.mark.parametrize(("value", "flaw"), [(np.nan, 1), (np.inf, 1), (-np.inf, 3), (-1.0, 2)])
@pytest.mark.parametrize("where", [(0, 0), (95, 95), (40, 61)])
def test_flaws_of_a_pattern_are_seen(value, flaw, where):
    image = np.ones((96, 96), np.float32)
    image[where] = value
    found, flaws = unset(48, 96), unset(1, dtype="uint32")
    stage("rows", 96, (image, np.int32(3), found, flaws))
    assert flaws[0] == flaw


@EVERY_SIZE
def test_columns_and_packing(size):
    rng = np.random.default_rng(size)
    image = rng.normal(size=(size, size))
    spectra = np.fft.fft(image[0::2] + 1j * image[1::2], axis=1).astype(np.complex64)
    full = np.fft.fft2(image)
    wanted = 2 * full[:, : size // 2]
    wanted[:, 0] += 2j * full[:, size // 2]
    for seed in SEEDS[:2]:
        found = unset(size, size // 2)
        stage("columns", size, (spectra, found), seed)
        close(found, wanted, 1e-6)
        found = unset(size // 2, size)
        stage("packing", size, (spectra, found), seed)
        close(found, 2 * spectra, 1e-6)


@EVERY_SIZE
@pytest.mark.parametrize("power", [1.0, 0.85, 0.0])
def test_product_with_the_template(size, power):
    image = bragg_frames((size, size), 1)[0].astype(np.float64)
    spectrum = template_spectrum(a_template(size))
    by_lane, nyquist = fused_disks.lane_order(spectrum, fused_disks.PLANS[size])
    rows = np.fft.fft(image[0::2] + 1j * image[1::2], axis=1).astype(np.complex64)
    c = np.fft.irfft2(powered(np.fft.rfft2(image) * spectrum, power), (size, size))
    wanted = np.fft.fft(c[0::2] + 1j * c[1::2], axis=1) / size
    for seed in SEEDS:
        found = unset(size // 2, size)
        stage("filter", size, (rows, by_lane, nyquist, np.float32(power), found), seed)
        close(found, wanted, 3e-6 if power else 1e-3)


@EVERY_SIZE
def test_inverse_rows(size):
    rng = np.random.default_rng(size)
    image = rng.normal(size=(size, size))
    spectra = (np.fft.fft(image[0::2] + 1j * image[1::2], axis=1) / size).astype(np.complex64)
    for seed in SEEDS:
        found = unset(size // 2, size)
        stage("inverse", size, (spectra, found), seed)
        close(found, image[0::2] + 1j * image[1::2], 1e-6)


# ---------------------------------------------------------------- maxima, order, spacing


def some_maps(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    x, y = np.indices((size, size))
    return {
        "correlation": a_map(size),
        "noise": rng.normal(size=(size, size)),
        "ties": rng.integers(0, 4, (size, size)),
        "plateaus": np.kron(rng.integers(0, 9, (size // 4, size // 4)), np.ones((4, 4))),
        "equal-peaks": ((x % 2 == 1) & (y % 2 == 1)) * 1.0,
        "crowded": rng.random((size, size)) + 10 * ((x % 2 == 0) & (y % 2 == 1)),
        "empty": np.zeros((size, size)),
        "nan": np.full((size, size), np.nan),
        "negative": -rng.random((size, size)),
    }


@EVERY_SIZE
@pytest.mark.parametrize("label", list(some_maps(64)))
def test_maxima_strongest_first_and_none_dropped(size, label):
    image = some_maps(size)[label].astype(np.float32)
    rng = np.random.default_rng(1)
    inner = np.zeros((size, size), bool)
    inner[1:-1, 1:-1] = True
    for allowed, absolute, relative in ((inner, 0.0, 0.0), (inner & (rng.random((size, size)) < 0.7), 0.5, 0.3)):
        at = np.flatnonzero(local_maxima(image[None])[0] & allowed)
        height = image.ravel()[at]
        at = at[(height >= absolute) & (height >= np.float32(relative) * height.max(initial=0))]
        at = at[np.lexsort((at, -image.ravel()[at]))]
        room = fused_disks.PLANS[size].candidates
        for seed in SEEDS[:2]:
            heights, pixels, ends = unset(size**2, dtype="f4"), unset(size**2, dtype="i4"), unset(99, dtype="i4")
            args = (packed(image), allowed.astype(np.uint8), np.float32(absolute), np.float32(relative), heights, pixels, ends)
            stage("collect", size, args, seed)
            bands = ends[: max(1, -(-len(at) // room))]
            assert bands.tolist() == [min(len(at), room * (b + 1)) for b in range(len(bands))]
            assert (ends[len(bands) :] == -7).all()
            for first, end in zip([0, *bands], bands):
                assert sorted(pixels[first:end]) == sorted(at[first:end])
            assert np.array_equal(heights[: len(at)], image.ravel()[pixels[: len(at)]])
    if label in ("equal-peaks", "crowded"):
        assert len(bands) > 1 or relative, "this map is there for lists that overflow"


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 500, 512])
def test_candidates_struck_out_are_closed_up(n):
    rng = np.random.default_rng(n)
    for share in (0.0, 0.5, 1.0):
        heights = np.where(rng.random(max(n, 1)) < share, rng.random(max(n, 1)) + 1, 0).astype(np.float32)
        pixels = rng.permutation(64 * 64)[: max(n, 1)].astype(np.int32)
        for seed in SEEDS:
            h, p, kept = heights.copy(), pixels.copy(), unset(1, dtype="i4")
            stage("compact", 64, (h, p, np.int32(n), kept), seed)
            left = heights[:n] > 0
            assert kept[0] == left.sum()
            assert np.array_equal(h[: kept[0]], heights[:n][left])
            assert np.array_equal(p[: kept[0]], pixels[:n][left])


def greedy(pixels: np.ndarray, size: int, spacing: float, most: int, taken: list) -> list:
    """Pixels, strongest first, at least `spacing` from those taken."""
    for at in pixels:
        i, j = divmod(int(at), size)
        if len(taken) < most and all((i - a) ** 2 + (j - b) ** 2 >= max(spacing**2, 1) for a, b in taken):
            taken = [*taken, (i, j)]
    return taken


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 200, 512])
@pytest.mark.parametrize("spacing", [0.0, 4.8, 12.0])
def test_order_and_spacing(n, spacing):
    rng = np.random.default_rng(n)
    pixels = rng.permutation(64 * 64)[: max(n, 1)].astype(np.int32)
    heights = rng.integers(1, 50, max(n, 1)).astype(np.float32)  # with ties: then the smaller pixel number
    order = pixels[:n][np.lexsort((pixels[:n], -heights[:n]))]
    for most in (1, 7, 600):
        for already in ([], [(10, 12), (40, 33), (41, 60)][: most - 1]):
            wanted = greedy(order, 64, spacing, most, already)
            qx, qy, found = unset(most, dtype="f8"), unset(most, dtype="f8"), unset(1, dtype="i4")
            if already:
                qx[: len(already)], qy[: len(already)] = np.transpose(already)
            near = np.int32(max(1, np.ceil(spacing**2)))
            sizes = (np.int32(n), near, np.int32(most), np.int32(len(already)))
            stage("space", 64, (heights, pixels, *sizes, qx, qy, found), seed=n % 3)
            assert found[0] == len(wanted)
            assert list(zip(qx[: found[0]], qy[: found[0]])) == wanted
            assert np.isnan(qx[found[0] :]).all()


# ---------------------------------------------------------------- significance, refinement, errors


def a_scene(size: int, radius: float = 3.2, dtype: str = "uint16", seed: int = 3):
    """Counts, their maps in float64, and the template's moments."""
    kernel = a_template(size, radius)
    counts = bragg_frames((size, size), 1, dtype, seed)
    moments = template_moments(kernel)
    return counts, correlation_maps(counts, template_spectrum(kernel), moments, None, 0.0, 0.85, 1.0), moments


@EVERY_SIZE
@pytest.mark.parametrize("limit", [5.0, 0.0, -2.0])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_significance(size, limit, dtype):
    counts, maps, moments = a_scene(size, dtype=dtype)
    if dtype == "float32":  # a background taken off: sums may not stop early
        counts = counts - np.float32(1.5)
        maps = correlation_maps(counts, template_spectrum(a_template(size)), moments, None, 0.0, 0.85, 1.0)
    z = significance(maps)[0].ravel()
    rng = np.random.default_rng(size)
    pixels = np.concatenate([rng.permutation(size**2)[:150], np.argsort(z)[-50:], [0, size - 1, size**2 - 1]]).astype(np.int32)
    clear = np.abs(z[pixels] - limit) > 1e-3  # single precision may decide the others either way
    middle, reach = fused_disks.centred(moments)
    for seed in SEEDS[:2]:
        heights = unset(len(pixels), dtype="f4")
        args = (packed(maps.cross[0]), counts, np.int32(fused_disks.PIXEL_TYPES[dtype]), middle, reach, np.float32(limit))
        stage("significance", size, (*args, np.int32(dtype == "float32"), pixels, np.int32(len(pixels)), heights), seed)
        assert np.array_equal(heights[clear] > 0, (z[pixels] >= limit)[clear])
    assert 5 < (heights > 0).sum() < len(pixels)


@EVERY_SIZE
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_window_sums(size, dtype):
    """Windows of one pixel, of odd numbers, and as wide as the detector, with weights that are as large at their border as inside."""
    rng = np.random.default_rng(size)
    counts = (rng.integers(0, 200, (size, size)) - (50 if dtype == "float32" else 0)).astype(dtype)
    away = np.abs(np.fft.fftfreq(size, 1 / size))
    pixels = np.asarray([0, size - 1, size * (size - 1), size**2 - 1, *rng.integers(0, size**2, 20)], np.int32)
    for hx, hy in ((0, 0), (3, 4), (5, 1), (size // 2 - 1, 9), (size // 2, size // 2)):
        moments = np.where((away[:, None] <= hx) & (away <= hy), rng.uniform(0.5, 1.5, (4, size, size)), 0)
        spectra = np.conj(np.fft.rfft2(moments))
        wanted = np.fft.irfft2(np.fft.rfft2(np.maximum(counts, 0).astype(float)) * spectra, (size, size))
        wanted[0] = np.fft.irfft2(np.fft.rfft2(counts.astype(float)) * spectra[0], (size, size))
        found = unset(len(pixels), 4, dtype="f4")
        middle, reach = fused_disks.centred(moments)
        assert reach.tolist() == [hx, hy]
        stage("windows", size, (counts, np.int32(fused_disks.PIXEL_TYPES[dtype]), middle, reach, pixels, np.int32(len(pixels)), found))
        np.testing.assert_allclose(found, wanted.reshape(4, -1)[:, pixels].T, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@EVERY_SIZE
def test_interpolation(size):
    image = a_map(size, 1.0).astype(np.float64)
    rng = np.random.default_rng(size)
    pixels = rng.integers(-2, size + 2, (20, 2)).astype(np.int32)
    parts = rng.uniform(-1.5, 1.5, (20, 2)).astype(np.float32)
    parts[:4] = [[0, 0], [0.5, -0.5], [1e-4, -1e-4], [-0.5, 1.0]]
    spectrum = np.fft.rfft2(image)[None] / image.size
    x, y = (pixels + parts.astype(np.float64)).T[:, None]
    wanted = np.stack([q[0] for q in interpolate(spectrum, image.shape, x, y)], -1)
    for seed in SEEDS[:2]:
        found = unset(20, 6, dtype="f4")
        stage("interpolate", size, (packed(image), pixels, parts, np.int32(20), found), seed)
        assert np.abs(found - wanted).max() < 4e-6 * np.abs(image).max()


@EVERY_SIZE
@pytest.mark.parametrize("mode", [None, "parabola", "correlation"])
def test_refinement_and_errors(size, mode):
    counts, maps, moments = a_scene(size)
    at = np.flatnonzero(local_maxima(maps.hybrid)[0] & (significance(maps)[0] > 8))
    px, py = (v.astype(np.float64)[None] for v in np.divmod(at, size))
    x, y, height = refine_positions(maps.cross, px, py, mode, 16, climb=True)
    sx, sy = position_errors(maps, x, y, moments, available=True, grid=mode is None)
    for seed in SEEDS[:2]:
        fields = unset(5, len(at), dtype="f8")
        fields[:2] = px[0], py[0]
        options = (np.int32(fused_disks.REFINEMENTS[mode]), np.int32(1), np.int32(1), np.int32(len(at)))
        stage("refine", size, (packed(maps.cross[0]), counts, np.int32(1), *fused_disks.centred(moments), *options, fields), seed)
        assert np.abs(fields[0] - x[0]).max() < 2e-5
        assert np.abs(fields[1] - y[0]).max() < 2e-5
        np.testing.assert_allclose(fields[2], height[0], rtol=2e-5)
        np.testing.assert_allclose(fields[3:], [sx[0], sy[0]], rtol=3e-3)


def test_a_maximum_of_another_map_is_left_for_this_ones():
    """Starting pixels beside the maximum climb to it; one on a slope that leads further than the steps reach stays on its way there."""
    size, image = 64, a_map(64, 1.0).astype(np.float64)
    peak = np.unravel_index(image.argmax(), image.shape)
    px = np.asarray([[peak[0] - 2.0, peak[0] + 1.0, peak[0] + 2.0]])
    py = np.asarray([[peak[1] + 1.0, peak[1] - 2.0, peak[1] + 2.0]])
    x, y, _ = refine_positions(image[None], px, py, "correlation", 16, climb=True)
    fields = unset(5, 3, dtype="f8")
    fields[:2] = px[0], py[0]
    moments = np.zeros((4, size, size))
    options = (np.int32(2), np.int32(1), np.int32(0), np.int32(3))
    stage("refine", size, (packed(image), np.zeros((size, size), np.uint8), np.int32(0), *fused_disks.centred(moments), *options, fields))
    assert np.abs(fields[0] - x[0]).max() < 2e-5
    assert np.abs(fields[1] - y[0]).max() < 2e-5
    assert np.isnan(fields[3:]).all()


# ---------------------------------------------------------------- the whole


def fused(patterns: np.ndarray, given: tuple, seed: int = 0, sources: dict | None = None, **options):
    host = Used(seed=seed, sources=sources)
    with using_backend(host):
        found = fused_disks.find_disks(patterns, *given, **limited(**options))
    assert [name for name, *_ in host.launched] == [f"find_disks_{patterns.shape[-1]}"] * bool(len(patterns))
    return found


def given_for(size: int, radius: float = 3.2) -> tuple:
    return operands(a_template(size, radius))


def assert_same(found, wanted, pixels: float = 2e-5, errors: float = 3e-3) -> None:
    assert np.array_equal(found.count, wanted.count)
    for name in ("qx", "qy"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=pixels)
    np.testing.assert_allclose(found.intensity, wanted.intensity, rtol=2e-5)
    for name in ("sx", "sy"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=errors)


OPTIONS = {
    "defaults": {},
    "cross": {"power": 1.0},
    "same-map": {"refine_power": 0.85},
    "three-maps": {"power": 0.9, "refine_power": 0.8},
    "parabola": {"refine": "parabola"},
    "whole-pixels": {"refine": None},
    "thresholds": {"min_relative": 0.2, "min_absolute": 0.01, "min_significance": 0.0},
    "few": {"max_peaks": 2},
}


@EVERY_SIZE
@pytest.mark.parametrize("label", list(OPTIONS))
def test_whole_kernel(size, label):
    patterns, given = bragg_frames((size, size), 2, seed=size), given_for(size)
    options = {"min_spacing": 4.8, "max_peaks": 12, **OPTIONS[label]}
    wanted = find_disks.definition(patterns, *given, **limited(**options))
    results = [fused(patterns, given, seed, **options) for seed in (SEEDS if label == "defaults" else SEEDS[2:3])]
    assert wanted.count.min() >= 2
    assert_same(results[0], wanted)
    assert results[0].count.dtype == np.int64
    assert all(a.tobytes() == b.tobytes() for other in results[1:] for a, b in zip(results[0], other)), "thread order changes bits"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_whole_kernel_takes_every_pixel_type(dtype):
    patterns, given = np.minimum(bragg_frames((64, 64), 3), 255).astype(dtype), given_for(64)
    options = {"min_spacing": 4.8, "max_peaks": 8}
    assert_same(fused(patterns, given, **options), find_disks.definition(patterns, *given, **limited(**options)))


def test_whole_kernel_with_gaps():
    patterns, given = bragg_frames((64, 64), 6, "float32"), given_for(64)
    patterns[0] = 0
    patterns[1] = np.nan
    patterns[2, 63, 63] = np.inf
    patterns[3, 0, 0] = np.nan
    patterns[4] -= 3.0  # some negative
    options = {"min_spacing": 4.8, "max_peaks": 8}
    wanted = find_disks.definition(patterns, *given, **limited(**options))
    found = fused(patterns, given, **options)
    assert found.count[:4].tolist() == [0, 0, 0, 0]
    assert found.count[4] > 0
    assert np.isnan(found.qx[:4]).all()
    # Standard errors count negative pixels as 0, the correlation does not: the definition's for the fourth pattern as for the others
    assert_same(found, wanted)
    assert fused(patterns[:0], given, **options).qx.shape == (0, 8)


@pytest.mark.parametrize("power", [0.85, 0.0])
@pytest.mark.parametrize("exponent", [-80, -40, 40, 60])
def test_data_of_any_scale(power, exponent):
    """Multiplied by a power of two, positions stay what they are. Counts that small are not significant: no limit."""
    patterns, given = bragg_frames((64, 64), 2, "float32"), given_for(64)
    options = {"power": power, "min_significance": 0.0, "min_relative": 0.3, "min_spacing": 4.8, "max_peaks": 8}
    wanted = fused(patterns, given, **options)
    found = fused(patterns * np.float32(2.0**exponent), given, **options)
    assert np.array_equal(found.count, wanted.count)
    assert found.count.min() > 0
    scale = 2.0**exponent
    for name, factor in (("qx", 1), ("qy", 1), ("intensity", scale), ("sx", scale**-0.5), ("sy", scale**-0.5)):
        np.testing.assert_allclose(getattr(found, name), factor * getattr(wanted, name), rtol=1e-4)


def test_views_and_offsets():
    """A batch cut from a larger array, not contiguous, and starting at an odd address."""
    size, given = 64, given_for(64)
    patterns, options = bragg_frames((size, size), 2, "uint8"), {"min_spacing": 4.8, "max_peaks": 8}
    raw = np.zeros(patterns.size + 1, np.uint8)
    raw[1:] = patterns.ravel()
    wide = np.zeros((2, size, 2 * size), np.uint8)
    wide[..., ::2] = patterns
    wanted = fused(patterns, given, **options)
    for same in (raw[1:].reshape(patterns.shape), wide[..., ::2]):
        assert all(a.tobytes() == b.tobytes() for a, b in zip(fused(same, given, **options), wanted))


@pytest.mark.parametrize("size", [64, 96])
def test_more_maxima_than_there_is_room_for(size):
    """With a point for a template the n = 1 map is the pattern: every second pixel is a maximum, more than the list holds."""
    rng = np.random.default_rng(size)
    patterns = np.zeros((2, size, size), np.uint16)
    patterns[:, 1::2, 1::2] = rng.permutation(2 * (size // 2) ** 2).reshape(2, size // 2, size // 2) + 100
    point = np.zeros((size, size))
    point[0, 0] = 1.0
    kernel = Template.from_kernel(point, 1.0)
    allowed = np.zeros((size, size), bool)
    allowed[1:-1, 1:-1] = True
    moments = np.zeros((4, size, size))
    moments[0] = point
    given = (template_spectrum(kernel), moments, allowed)
    room = fused_disks.PLANS[size].candidates
    maxima = int(local_maxima(patterns.astype(float))[0][1:-1, 1:-1].sum())
    assert maxima > room
    for spacing, most in ((0.0, maxima + 3), (5.0, maxima), (0.0, room + 5), (3.0, 40)):
        found = fused(patterns, given, power=1.0, refine=None, min_significance=0.0, min_spacing=spacing, max_peaks=most, min_absolute=50.0)
        for pattern, count, qx, qy in zip(patterns, found.count, found.qx, found.qy):
            at = np.flatnonzero(local_maxima(pattern[None].astype(float))[0] & allowed)
            order = at[np.lexsort((at, -pattern.ravel()[at].astype(int)))]
            wanted = greedy(order, size, spacing, most, [])
            assert list(zip(qx[:count], qy[:count])) == wanted


@pytest.mark.parametrize("dose", ["poisson_1e5", "poisson_5e3"])
def test_patterns_of_a_strained_crystal(shared_data, dose):
    """Counts at two doses, 20 to 25 disks of unequal strength, most of the maxima noise: the definition's list, to 1e-4 px.

    Standard errors to a per cent: their Hessian is that of where the last step started, which noise lets change within 2e-3 px.
    """
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        patterns, probe = file[dose][5, 2::12], file["truth/vacuum_probe"][:]
    kernel = template(probe)
    given = operands(kernel, 6)
    options = {"min_spacing": 1.5 * kernel.radius, "max_peaks": 40}
    wanted = find_disks.definition(patterns, *given, **limited(**options))
    assert wanted.count.min() >= 19
    assert_same(fused(patterns, given, **options), wanted, 1e-4, 1e-2)


# ---------------------------------------------------------------- what it takes


def supported(size: int, shared: int, **options) -> bool:
    plain = {"refinement": Refinement(), "masked": False, "dtype": np.uint16}
    return fused_disks.supports((size, size), shared, **{**plain, **options})


def test_what_fits_a_devices_shared_memory():
    kilobytes = {"sm_75": 64, "sm_86": 99, "sm_80": 163, "sm_90": 227}
    taken = {card: [n for n in SIZES if supported(n, kb * 1024)] for card, kb in kilobytes.items()}
    assert taken == {"sm_75": [64, 96], "sm_86": [64, 96, 128], "sm_80": [64, 96, 128, 192], "sm_90": [64, 96, 128, 192]}


def test_what_is_left_to_the_staged_path():
    most = 227 * 1024
    assert not fused_disks.supports((128, 130), most, refinement=Refinement(None, 1.0), masked=False, dtype=np.uint16)
    assert not any(supported(n, most) for n in (32, 100, 130, 256, 514))
    assert not supported(64, most, masked=True)
    assert not supported(64, most, refinement=Refinement("upsample"))
    assert not any(supported(64, most, dtype=d) for d in (np.float64, np.int16, np.int32, bool))
    assert all(supported(64, most, dtype=d) for d in ("uint8", np.uint16, np.dtype("uint32"), np.float32))


def test_a_small_card_runs_what_it_supports():
    patterns, given = bragg_frames((96, 96), 1), given_for(96)
    with using_backend(HostBackend(shared=64 * 1024)):
        assert fused_disks.find_disks(patterns, *given, **limited(min_spacing=4.8, max_peaks=9)).count[0] == 5
    patterns, given = bragg_frames((128, 128), 1), given_for(128)
    with using_backend(HostBackend(shared=64 * 1024)), pytest.raises(AssertionError, match="shared memory"):
        fused_disks.find_disks(patterns, *given)


# ---------------------------------------------------------------- tests of the tests

BROKEN = {  # where in the source, what there, what instead
    "no barrier behind the columns": ("  filter_columns<N>(plane, filter, twiddle, me);\n  __syncthreads();", "__syncthreads();", ""),
    "no barrier behind the map": ("  invert_rows<N>(plane, twiddle, me);\n  __syncthreads();", "__syncthreads();", ""),
    "no barrier behind the choice": ("= there;\n      }\n      __syncthreads();", "__syncthreads();", ""),
    "no barrier in the exchange": ("  put_spread<N>(region, v, t);\n  __syncwarp();", "__syncwarp();", ""),
    "no barrier behind the list": ("  ceiling = floor;\n  __syncthreads();", "__syncthreads();", ""),
    "a row too few": ("q < S::ROWS; q += S::GROUPS) {\n    const int r = row_of", "ROWS;", "ROWS - 1;"),
    "a column too few": ("q < S::ROWS; q += S::GROUPS) {\n    const int t = fresh(me.t);\n    const ColumnTask", "ROWS;", "ROWS - 1;"),
    "the map shifted by a pixel": ("plane + (i >> 1) * Plan<N>::PITCH + j;", "j;", "j + 1;"),
    "the window cut short": ("dj <= last; dj += 8", "<=", "<"),
    "the last NaN forgotten": ("p < rules.max_peaks; p += S::THREADS)", "peaks;", "peaks - 1;"),
    "offsets in pixels for bytes": ("(offset_t)blockIdx.x * N * N * pixel_bytes", " * pixel_bytes", ""),
}


def check_thoroughly(text: str) -> None:
    """The whole kernel of this source against the definition, in every thread order."""
    patterns, (spectrum, moments, allowed) = bragg_frames((64, 64), 2, seed=64), given_for(64)
    away = np.abs(np.fft.fftfreq(64, 1 / 64))
    window = np.maximum(away[:, None], away) <= 5  # as much weight at its border as inside
    given = (spectrum, np.broadcast_to(1e-3 * window, moments.shape), allowed)
    for options in ({}, {"power": 1.0}, {"refine": "parabola"}):
        options = {"min_spacing": 4.8, "max_peaks": 12, **options}
        wanted = find_disks.definition(patterns, *given, **limited(**options))
        for seed in SEEDS:
            assert_same(fused(patterns, given, seed, {"fused_disks.cu": text}, **options), wanted)


def test_the_kernel_as_it_is_passes():
    check_thoroughly(inlined("fused_disks.cu"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", list(BROKEN))
def test_a_broken_kernel_is_caught(fault):
    text = inlined("fused_disks.cu")
    where, right, wrong = BROKEN[fault]
    assert text.count(where) == 1 == where.count(right), "the kernel has changed: say again what to break"
    with pytest.raises((AssertionError, RuntimeError)):
        check_thoroughly(text.replace(where, where.replace(right, wrong)))


@pytest.mark.slow
def test_under_sanitizers():
    """The whole kernel at its smallest size, built with address and undefined-behaviour sanitizers."""
    asan = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout.strip()
    settings = {
        "LD_PRELOAD": asan,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "GPU4D_SANITIZE": "1",
    }
    which = "whole_kernel and (64 or gaps) or room_for and 64 or odd or views"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", which]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
