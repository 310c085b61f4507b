"""Every stage of the fused disk kernel on the CPU, against float64 NumPy."""

import numpy as np
import pytest
from cuda_on_host import HostBackend
from fused_disk_stages import EVERY_SIZE, SEEDS, STAGES, a_map, a_scene, a_template, close, greedy, packed, stage, unset
from gpu4d.kernels import fused_disks
from operations.patterns import bragg_frames

from gpu4d.bragg.correlation_map import powered
from gpu4d.bragg.find_disks import correlation_maps, local_maxima, significance
from gpu4d.bragg.hybrid_correlation import template_spectrum
from gpu4d.bragg.refine import interpolate, position_errors, refine_positions
from gpu4d.device.backend import inlined

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
