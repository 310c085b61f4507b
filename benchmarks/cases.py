"""What `gpu4d bench kernels` times: inputs, and the bytes and flops that no implementation can do without.

Inputs are made small, of a few different patterns, and repeated where they are computed on: minutes of a host that fills gigabytes
and page-locks them would come before the first figure of a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2
from typing import Any

import numpy as np
from gpu4d.benchmarks.case import Case
from gpu4d.benchmarks.case_inputs import (
    BRIGHT_FIELD_PIXELS,
    TABLES,
    bragg,
    bright_field,
    centers,
    crowded_frames,
    disk_fit,
    errors,
    fitted_disks,
    frames,
    glass_rings,
    gradient,
    grouped_disks,
    lattices,
    masks,
    object_patches,
    peaks,
    phase_of_counts,
    ptychographic_patterns,
    raw_frames,
    raw_readout,
    side_band,
    side_band_products,
    single_fits,
    through_the_fft_library,
    tied_disks,
)
from gpu4d.benchmarks.orientation_inputs import expected_disks, library_spectra, refined_candidates, several_candidates

import gpu4d
from gpu4d.bragg.likelihood.hidden_disks import cells_of

ANNULI = np.array([[-1.0, 10.0], [10.0, 20.0], [20.0, 40.0], [40.0, 60.0]])
DISK_TOLERANCE = 5e-3  # of standard errors, whose Hessian is read at the nearest 1/64 px; positions agree to 1e-5


def transforms(shape: tuple[int, int], maps: int) -> float:
    """Flops of a pattern's real transform and the inverses to `maps` maps, products included."""
    pixels = shape[0] * shape[1]
    return (1 + maps) * 2.5 * pixels * log2(pixels) + maps * 12 * pixels / 2


def find_disks_case(shape: tuple[int, int], patterns: tuple[int, int]) -> Case:
    return Case(
        "find_disks",
        f"{shape[0]}×{shape[1]}, uint16, 21 disks",
        bragg(shape),
        patterns,
        lambda p, *_a, **_o: p.nbytes + len(p) * 32 * 5 * 8,
        lambda p, *_a, **_o: len(p) * (transforms(p.shape[1:], 2) + 21 * 2 * 6 * p.shape[1] * p.shape[2]),
        tolerance=DISK_TOLERANCE,
    )


def fit_cepstrum_case(size: int, patterns: tuple[int, int]) -> Case:
    """FFT of 1.5² times the pixels. A look at a node takes 6 × 6 samples and five derivatives, at its surroundings six values."""
    looks = 4 * (4 + 12 + 64) + 4 * 64
    return Case(
        "fit_cepstrum",
        f"{size}², uint16, 64 nodes",
        lambda n: lattices(n, size),
        patterns,
        lambda p, *_a, **_o: p.nbytes + 22 * 8 * len(p),
        lambda p, *_a, **_o: len(p) * (transforms((size * 3 // 2, size * 3 // 2), 0) + 500 * looks + 6 * 64 * 150),
        tolerance=2e-2,  # of the scatter of single maxima; vectors agree to 1e-5
    )


def refine_disks_case(size: int, patterns: tuple[int, int]) -> Case:
    return Case(
        "refine_disks",
        f"{size}², 21 peaks",
        lambda n: peaks(n, size),
        patterns,
        lambda m, x, y, c: m.nbytes + 24 * x.size,
        lambda m, x, y, c: 2.0 * 6 * m[0].size * float(c.sum()),
        sliced=(0, 1, 2, 3),
        tolerance=1e-5,
        rate="gemm",
    )


def peak_errors_case(size: int, patterns: tuple[int, int]) -> Case:
    return Case(
        "peak_errors",
        f"{size}², 21 peaks",
        lambda n: errors(n, size),
        patterns,
        lambda p, m, *_: p.nbytes + m.nbytes,
        lambda p, m, b, x, y, c: float(c.sum()) * (2.0 * b.size + 6 * m[0].size),
        sliced=(0, 1, 3, 4, 5),
        tolerance=2e-2,
        rate="gemm",
    )


def disk_fit_case(size: int, patterns: tuple[int, int]) -> Case:
    return Case(
        "poisson_fit",
        f"{size}², 21 disks, 6 parameters",
        lambda n: disk_fit(n, size),
        patterns,
        lambda p, *_: p.nbytes,
        lambda p, x, y, c, t, w: 3 * 80.0 * w.shape[-1] * float(c.sum()),
        sliced=(0, 1, 2, 3),
        rate="gemm",
    )


def hidden_disks_case(size: int, patterns: tuple[int, int]) -> Case:
    """Nine disks reach into a square of seven radii."""
    return Case(
        "hidden_disks",
        f"{size}², 21 disks, the brightest",
        lambda n: fitted_disks(n, size),
        patterns,
        lambda p, *_a, radius, **_o: len(p) * 49 * radius**2 * p.itemsize,
        lambda p, x, y, a, s, k, t, w, *_a, radius, **_o: len(p) * (9 * 6.0 * len(w) + 80 * cells_of(radius).side ** 2),
        sliced=(0, 1, 2, 3, 4, 5),
        rate="gemm",
    )


def joint_fit_case(size: int, patterns: tuple[int, int]) -> Case:
    """About ten steps of 3 × 3 sums of each disk with itself and a neighbour, and a system of 60 to 120 equations."""
    return Case(
        "joint_fit",
        f"{size}², 21 disks in one group",
        lambda n: grouped_disks(n, size),
        patterns,
        lambda p, *_a, **_o: p.nbytes,
        lambda p, x, y, h, role, t, w, **_o: 10.0 * (100.0 * len(w) * float((role > 0).sum()) + len(p) * 90**3 / 3),
        sliced=(0, 1, 2, 3, 4),
        tolerance=1e-3,
        rate="gemm",
    )


def tied_fit_case(size: int, coherence: float, patterns: tuple[int, int]) -> Case:
    """Steps of 65 sums over all pixels, and some 100 operations a pixel of every window: six, or twelve where overlaps interfere."""
    steps = 12 if coherence else 6
    return Case(
        "tied_fit",
        f"{size}², uint16, 21 disks{', interfering' if coherence else ''}",
        lambda n: tied_disks(n, size, coherence),
        patterns,
        lambda p, *_a, **_o: p.nbytes + len(p) * 8 * 64,
        lambda p, s, orders, pairs, t, w, **_o: steps * len(p) * (150.0 * size**2 + 100.0 * len(w) * len(orders)),
        sliced=(0, 1),
        tolerance=1e-3,
        rate="gemm",
    )


def separate_disks_case(size: int, patterns: tuple[int, int]) -> Case:
    """What patterns without close disks cost: a search around their brightest one."""
    return replace(
        hidden_disks_case(size, patterns),
        operation="separate_disks",
        label=f"{size}², 21 disks, none close",
        make=lambda n: single_fits(n, size),
        flops=lambda p, *a, radius, **_o: len(p) * (9 * 6.0 * len(a[9]) + 80 * cells_of(radius).side ** 2),
        sliced=(0, 1, 2, 3, 4, 5, 6, 7, 8),
    )


def weighted_sums_case(label: str, size: int, weights: int, dtype: str, patterns: tuple[int, int], gpu_only: bool) -> Case:
    return Case(
        "masked_sums",
        f"{size}², uint16, {label}",
        lambda n: ((frames(n, size), (masks(weights, size) * np.linspace(0.5, 1.5, size)).astype(dtype)), {}),
        patterns,
        lambda p, m: p.nbytes + 8 * len(m) * len(p),
        gpu_only=gpu_only,
    )


def hot_pixels_bytes(p: np.ndarray, **_: Any) -> float:
    """Frames in and out, and a byte a pixel that says whether it is hot."""
    return 2 * p.nbytes + p.size


def ssb_sum_case(side: int) -> Case:
    return Case(
        "ssb_sum",
        f"8 809 pixels, {side}² scan",
        lambda n: side_band(n, side),
        (200, 8809),
        lambda g, *_a, **_o: g.nbytes,
        lambda g, *_a, **_o: 40.0 * g.size,
        sliced=(0, 1),
        rate="gemm",
        different=100,
    )


CASES = [
    Case(
        "frame_reductions",
        "128², uint16, 4 masks",
        lambda n: ((frames(n), masks(4)), {}),
        (2048, 65536),
        lambda p, m: p.nbytes + 56 * len(p),
    ),
    Case(
        "frame_reductions",
        "128², uint16, 4 masks, one chunk",
        lambda n: ((frames(n), masks(4)), {}),
        (2048, 2048),
        lambda p, m: p.nbytes + 56 * len(p),
        gpu_only=True,
    ),
    Case(
        "frame_reductions",
        "256², uint16, 4 masks",
        lambda n: ((frames(n, 256), masks(4, 256)), {}),
        (256, 16384),
        lambda p, m: p.nbytes + 56 * len(p),
    ),
    Case("first_moments", "128², uint16", lambda n: ((frames(n),), {}), (2048, 65536), lambda p: p.nbytes + 24 * len(p)),
    Case("masked_sums", "128², uint16, 4 masks", lambda n: ((frames(n), masks(4)), {}), (2048, 65536), lambda p, m: p.nbytes + 32 * len(p)),
    weighted_sums_case("4 weights", 128, 4, "float64", (2048, 65536), False),
    weighted_sums_case("1 mask of weights", 128, 1, "float64", (2048, 65536), True),
    weighted_sums_case("4 float32 weights", 128, 4, "float32", (2048, 65536), True),
    weighted_sums_case("4 weights, one chunk", 256, 4, "float64", (256, 512), True),
    Case(
        "annular_sums",
        "128², uint16, 4 annuli",
        lambda n: ((frames(n), centers(n), ANNULI), {}),
        (2048, 65536),
        lambda p, *_: p.nbytes + 32 * len(p),
        sliced=(0, 1),
    ),
    Case("pattern_sums", "128², uint16", lambda n: ((frames(n),), {}), (2048, 65536), lambda p: p.nbytes),
    Case("pattern_maximum", "128², uint16", lambda n: ((frames(n),), {}), (2048, 65536), lambda p: p.nbytes),
    Case(
        "shifted_patterns",
        "128², uint16",
        lambda n: ((frames(n), centers(n) - 63.5), {}),
        (1024, 16384),
        lambda p, _s: p.nbytes + 8 * p.size,
        sliced=(0, 1),
    ),
    find_disks_case((128, 128), (512, 65536)),
    find_disks_case((64, 64), (1024, 65536)),
    find_disks_case((256, 256), (64, 16384)),
    find_disks_case((192, 192), (64, 16384)),
    find_disks_case((130, 128), (128, 16384)),
    replace(find_disks_case((128, 128), (512, 32768)), label="128×128, FFT library", call=through_the_fft_library, gpu_only=True),
    fit_cepstrum_case(128, (256, 8192)),
    refine_disks_case(128, (512, 32768)),
    refine_disks_case(256, (64, 8192)),
    peak_errors_case(128, (512, 16384)),
    peak_errors_case(256, (64, 8192)),
    hidden_disks_case(128, (512, 32768)),
    joint_fit_case(128, (32, 8192)),
    tied_fit_case(128, 0.0, (32, 8192)),
    tied_fit_case(128, 0.8, (32, 8192)),
    Case(
        "fit_strained_ring",
        "128², uint16, ring at 37 px",
        lambda n: glass_rings(n, 128),
        (512, 65536),
        lambda p, *_a, **_o: p.nbytes + len(p) * 8 * 20,
        lambda p, *_a, **_o: 3 * 180.0 * 0.5 * p.size,  # three steps, in which half of the pixels lie between the radii
        sliced=(0, 1),
        tolerance=1e-3,
        rate="gemm",
    ),
    separate_disks_case(128, (512, 32768)),
    disk_fit_case(128, (512, 32768)),
    disk_fit_case(256, (64, 8192)),
    Case(
        "gather_pixels",
        "128², uint16, 800 pixels",
        lambda n: ((frames(n), np.flatnonzero(gpu4d.detectors.disk(16.0).mask((128, 128)))), {"real": True}),
        (1024, 65536),
        lambda p, i, **_: len(p) * len(i) * (p.itemsize + 4),
    ),
    Case(
        "add_patches",
        "64² complex, on 256²",
        object_patches,
        (256, 8192),
        lambda v, *_a, **_o: v.nbytes,
        lambda v, *_a, **_o: 2.0 * v.size,
        sliced=(),
        rate="gemm",
        different=8192,
    ),
    Case(
        "wave_gradients",
        "64², one slice, one mode",
        ptychographic_patterns,
        (256, 8192),
        lambda _o, _c, _p, _r, _k, counts, **_: counts.nbytes,
        lambda _o, _c, _p, _r, _k, counts, **_: 4 * 5.0 * counts.size * log2(64**2),  # four complex transforms a pattern
        sliced=(1, 3, 4, 5),
    ),
    Case(
        "sideband_products",
        "256 frequencies, 3 coefficients",
        side_band_products,
        (200, 8809),
        lambda g, *_a, **_o: g.nbytes,
        lambda g, *_a, **_o: 800.0 * g.size,  # 45 products of 9 columns, and 4 polynomials at 3 places
        sliced=(0, 1, 3),
        tolerance=1e-3,
        rate="gemm",
        different=100,
    ),
    ssb_sum_case(128),
    ssb_sum_case(64),
    replace(ssb_sum_case(256), gpu_only=True),
    Case(
        "ssb_sum",
        "from counts, 256², 8.8 k pixels",
        bright_field,
        (256, 16384),
        lambda p: BRIGHT_FIELD_PIXELS * len(p) * (2 + 4 + 8.0),  # counts in; images out and in; spectra of half the frequencies in and out
        lambda p: BRIGHT_FIELD_PIXELS * len(p) * (2.5 * log2(128**2) + 20.0),  # of a scan of 128²
        check=64,
        call=phase_of_counts,
        least=16,
    ),
    Case(
        "integrate_gradient",
        "n² field, mirror",
        gradient,
        (512, 4096),
        lambda g, **_: 3 * g.nbytes,
        lambda g, **_: 3 * 2.5 * 2 * g[..., 0].size * log2(g[..., 0].size),
        sliced=(),
        least=8,
    ),
    Case(
        "integrate_iteratively",
        "n² field, padded, 10 rounds",
        lambda n: (gradient(n)[0], {"boundary": "padded", "max_iterations": 10}),
        (256, 2048),
        lambda g, **_: 10 * 12 * g.nbytes,
        lambda g, **_: 10 * 4 * 3 * 5 * g[..., 0].size * log2(4 * g[..., 0].size),
        sliced=(),
        least=8,
        tolerance=1e-3,
    ),
    Case("count_electrons", "256², uint16, 0.4 %", raw_frames, (128, 16384), lambda p, *_a, **_o: p.nbytes),
    Case("fit_electrons", "256², uint16, 1 %", crowded_frames, (16, 2048), lambda p, *_a, **_o: p.nbytes, tolerance=1e-4),
    Case("correct_frames", "128², uint16, all steps", raw_readout, (512, 32768), lambda p, *_a, **_o: p.nbytes + 4 * p.size, moved=TABLES),
    Case("hot_pixel_median", "128², uint16", lambda n: ((frames(n),), {}), (512, 32768), hot_pixels_bytes),
    Case("hot_pixel_median", "256², uint16", lambda n: ((frames(n, 256),), {}), (128, 16384), hot_pixels_bytes),
    Case(
        "hot_pixel_median",
        "256², uint16, 100 counts a pixel",
        lambda n: ((frames(n, 256, level=100.0),), {}),
        (128, 16384),
        hot_pixels_bytes,
    ),
    Case(
        "polar_transform",
        "128², uint16, 180 × 64",
        lambda n: ((frames(n), centers(n)), {"n_theta": 180, "n_r": 64}),
        (256, 16384),
        lambda p, *_a, **_o: p.nbytes + len(p) * 180 * 64 * 4,
        sliced=(0, 1),
    ),
    Case(
        "radial_sums",
        "128², uint16, 64 bins",
        lambda n: ((frames(n), centers(n)), {"n_r": 64}),
        (1024, 32768),
        lambda p, *_a, **_o: p.nbytes + len(p) * 64 * 16,
        sliced=(0, 1),
    ),
    Case(
        "radial_sums",
        "128², uint16, 64 bins, one origin",
        lambda n: ((frames(n), centers(1)[0]), {"n_r": 64}),
        (1024, 32768),
        lambda p, *_a, **_o: p.nbytes + len(p) * 64 * 16,
        sliced=(0,),
    ),
    Case(
        "ring_moments",
        "128², uint16, 64 bins, one origin",
        lambda n: ((frames(n), centers(1)[0]), {"n_r": 64}),
        (1024, 32768),
        lambda p, *_a, **_o: p.nbytes + len(p) * 64 * 24,
        sliced=(0,),
    ),
    Case(
        "ring_moments",
        "128², uint16, 64 bins, medians",
        lambda n: ((frames(n), centers(n)), {"n_r": 64, "median": True}),
        (128, 8192),
        lambda p, *_a, **_o: p.nbytes + len(p) * 64 * 32,
        sliced=(0, 1),
    ),
    Case(
        "correlate_orientations",
        "24 peaks, 248 zone axes",
        library_spectra,
        (128, 16384),
        lambda p, s, r, _i, **_: len(p) * 32 * r.shape[2],
        lambda p, s, r, _i, **_: len(p) * r.shape[2] * (8.0 * r.shape[0] * len(s) + 10 * r.shape[0] * log2(2 * r.shape[0])),
        check=4,
    ),
    Case(
        "refine_orientations",
        "12 candidates, 24 peaks, 4 steps",
        refined_candidates,
        (128, 16384),
        lambda t, p, *_a, **_o: 2 * t.nbytes + p.nbytes + 8 * t.shape[0] * t.shape[1] * (p.shape[1] + 18),
        lambda t, p, _c, g, *_a, steps, **_o: t.shape[0] * t.shape[1] * (steps + 1) * (20.0 * len(g) + 100 * p.shape[1]),
        sliced=(0, 1, 2),
    ),
    Case(
        "distinct_orientations",
        "4 of 24 candidates, 24 rotations",
        several_candidates,
        (4096, 262144),
        lambda t, c, p, *_a, **_o: t.nbytes + c.nbytes + p.nbytes,
        sliced=(0, 1, 2),
    ),
    Case(
        "spot_likelihood",
        "disks of 2.5 px on 128², uint16",
        expected_disks,
        (4096, 1048576),
        lambda p, _u, n, *_a, **_o: len(n) * (57 * (p.itemsize + 1) + 40),
        lambda _p, _u, n, *_a, **_o: len(n) * 57 * 60.0,
        sliced=(2, 3),
    ),
]
