"""Inputs of the cases of `gpu4d bench kernels`, and calls that stand for more than one operation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isqrt
from typing import Any
from unittest import mock

import numpy as np

import gpu4d


@cache
def frames(n: int, size: int = 128, dtype: str = "uint16", level: float = 0.5) -> np.ndarray:
    """Counting noise with a disk."""
    mean = level + 60 * gpu4d.probe.synthetic((size, size), size / 20)
    return np.random.default_rng(0).poisson(mean, (n, size, size)).astype(dtype)


@cache
def bragg_patterns(n: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """n patterns of which 16 are different, with about 21 disks, and their vacuum probe."""
    scale = min(shape) / 128
    scan = gpu4d.simulate.bragg_scan((4, 4), shape, radius=6.0 * scale, spacing=22.0 * scale, seed=1)
    patterns = np.asarray(scan.cube.source.read(slice(0, 4), slice(0, 4))).reshape(-1, *shape)
    return np.resize(patterns, (n, *shape)), scan.probe


def bragg(shape: tuple[int, int]) -> Callable[[int], tuple[tuple, dict]]:
    def make(n: int) -> tuple[tuple, dict]:
        from gpu4d.bragg.disk_search import Correlation
        from gpu4d.bragg.find_disks import PeakLimits

        patterns, probe = bragg_patterns(n, shape)
        template = gpu4d.probe.template(probe)
        given = Correlation.prepare(template, int(template.radius)).operands
        return (patterns, *given), {"limits": PeakLimits(min_spacing=1.5 * template.radius, max_peaks=32)}

    return make


def peaks(n: int, size: int = 128) -> tuple[tuple, dict]:
    """Correlation maps with 21 peaks, and the pixels they lie on."""
    patterns, probe = bragg_patterns(n, (size, size))
    few = min(n, 16)
    disks = gpu4d.find_bragg_disks(patterns[:few], probe, refine=None)
    count, table = disks.padded()
    maps = gpu4d.hybrid_correlation(patterns[:few], probe, power=1.0).astype(np.float32)
    whole = [np.nan_to_num(table[name]).astype(np.int32) for name in ("qx", "qy")]
    return (np.resize(maps, (n, size, size)), *(np.resize(w, (n, w.shape[1])) for w in whole), np.resize(count, n).astype(np.int32)), {}


def errors(n: int, size: int = 128) -> tuple[tuple, dict]:
    from gpu4d.bragg.template_transforms import template_moments

    patterns, probe = bragg_patterns(n, (size, size))
    moments = template_moments(gpu4d.probe.template(probe))
    reach = int(np.abs(np.fft.fftfreq(size, 1 / size))[(moments != 0).any((0, 2))].max())
    window = np.arange(-reach, reach + 1)
    box = np.ascontiguousarray(moments[:, window][:, :, window], np.float32)
    (maps, px, py, count), _ = peaks(n, size)
    return (patterns.astype(np.float32), maps, box, px.astype(float), py.astype(float), count), {}


def disk_fit(n: int, size: int = 128) -> tuple[tuple, dict]:
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile

    patterns, probe = bragg_patterns(n, (size, size))
    profile = disk_profile(probe)
    (_, px, py, count), _ = peaks(n, size)
    return (patterns, px.astype(float), py.astype(float), count, profile.table, profile.pixels), {}


def fitted_disks(n: int, size: int = 128) -> tuple[tuple, dict]:
    """Disks of `disk_fit` after their fit. In every pattern the surroundings of the brightest are looked at."""
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit

    (patterns, x, y, count, table, pixels), _ = disk_fit(n, size)
    few = min(n, 16)
    fit = poisson_fit(patterns[:few], x[:few], y[:few], count[:few], table, pixels)
    disks = [np.resize(np.nan_to_num(v), x.shape) for v in (fit.x, fit.y, fit.amplitude)]
    state, around, allowed = np.resize(fit.ok, x.shape).astype(np.uint8), np.ones(n, np.int32), np.ones((size, size), bool)
    radius = disk_profile(bragg_patterns(n, (size, size))[1]).radius
    return (patterns, *disks, state, around, table, pixels, allowed), {"radius": radius, "least": 4.5}


def grouped_disks(n: int, size: int = 128) -> tuple[tuple, dict]:
    """Disks of `disk_fit`, all in one group, because neighbours on their lattice are near enough."""
    from gpu4d.bragg.likelihood.joint_fit import NONE, OPEN

    (patterns, x, y, count, table, pixels), _ = disk_fit(n, size)
    first = np.stack([x[0], y[0]], -1)[: count[0]]
    away = np.hypot(*(first[:, None] - first[None, :]).T) + 1e9 * np.eye(len(first))
    role = np.where(np.arange(x.shape[1]) < count[:, None], OPEN, NONE)
    return (patterns, x, y, np.ones_like(x), role, table, pixels), {"spacing": float(1.3 * away.min(1).max())}


def glass_rings(n: int, size: int = 128) -> tuple[tuple, dict]:
    """Patterns of a strained glass, their origins, and the table of the ring's profile."""
    made = gpu4d.simulate.amorphous_scan((1, min(n, 32)), (size, size), radius=0.29 * size, width=3.5, dose=1e5, seed=1)
    r, profile = made.truth["profile"][::5].T
    table = np.stack([profile, np.gradient(profile, r)], axis=-1)
    patterns, origins = np.asarray(made.cube.source.read(slice(0, 1), slice(0, min(n, 32))))[0], made.truth["origin"][0]
    options = {"step": float(r[1]), "radii": (0.18 * size, 0.42 * size)}
    return (np.resize(patterns, (n, size, size)), np.resize(origins, (n, 2)), table), options


def tied_disks(n: int, size: int = 128, coherence: float = 0.0) -> tuple[tuple, dict]:
    """Patterns of 21 disks that overlap, and lattices some 0.2 px off at the outermost disk. With a coherence, overlaps interfere."""
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile
    from gpu4d.bragg.likelihood.tied_fit import overlapping

    radius, spacing = size / 10, size / 6
    orders = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if h * h + k * k < 8], float)
    true = np.array([size / 2 - 0.3, size / 2 + 0.2, spacing, 0.4, -0.3, spacing])
    places, rng = true[:2] + orders @ true[2:].reshape(2, 2), np.random.default_rng(0)
    shapes = [gpu4d.probe.synthetic((size, size), radius, center=tuple(c)) for c in places]
    heights = rng.uniform(0.4, 2.0, len(orders))
    pairs = overlapping(orders, true[2:].reshape(2, 2), radius)
    mean = 0.05 + np.tensordot(heights, np.asarray(shapes), 1)
    for i, j in pairs.T:
        mean = mean + 2 * coherence * np.cos(rng.uniform(0, 2 * np.pi)) * np.sqrt(heights[i] * heights[j]) * shapes[i] * shapes[j]
    profile = disk_profile(1e5 * gpu4d.probe.synthetic((size, size), radius))
    patterns = rng.poisson(np.maximum(mean, 0), (min(n, 32), size, size)).astype(np.uint16)
    start = true + rng.uniform(-0.1, 0.1, (n, 6))
    return (np.resize(patterns, (n, size, size)), start, orders, pairs if coherence else pairs[:, :0], profile.table, profile.pixels), {}


def lattices(n: int, size: int = 128) -> tuple[tuple, dict]:
    """Patterns of disks with nodes of their cepstrum, 64 as most scans have."""
    made = gpu4d.simulate.bragg_scan((1, n), (size, size), radius=4.0, spacing=20.0, reach=3.2, dose=200.0, seed=1)
    g = np.stack([made.truth["g1"], made.truth["g2"]])
    orders = np.array([(h, k) for h in range(7) for k in range(-6, 7) if h > 0 or k > 0])
    orders = orders[np.argsort(np.hypot(*orders.T), kind="stable")][:64]
    window = np.outer(*[np.sin(np.pi * (np.arange(size) + 0.5) / size)] * 2)
    patterns = np.concatenate([np.asarray(made.cube[0, i].data)[None] for i in range(n)]).astype(np.uint16)
    return (patterns, window, orders, np.linalg.inv(g).T * size), {"stages": (4, 12, 64)}


def single_fits(n: int, size: int = 128) -> tuple[tuple, dict]:
    """Disks of `disk_fit` after their fit, none of which is near another one."""
    (patterns, *disks, state, _, table, pixels, allowed), options = fitted_disks(n, size)
    count = np.full(n, int((state[0] > 0).sum()))
    x, y, height = (v.astype(float) for v in disks)
    small = np.full_like(x, 1e-4)
    given = (patterns, count, height, x, y, height, small, small, state > 0, table, pixels, allowed)
    return given, {"radius": options["radius"], "spacing": 2.0}


def side_band(n: int, side: int = 128) -> tuple[tuple, dict]:
    """n bright-field pixels of a square scan with a step at which the disks shift by up to three radii."""
    rng = np.random.default_rng(0)
    half = side // 2 + 1
    spectra = (rng.normal(size=(n, side, half)) + 1j * rng.normal(size=(n, side, half))).astype(np.complex64)
    radius = 16.0
    angle, r = rng.uniform(0, 2 * np.pi, n), radius * np.sqrt(rng.uniform(size=n))
    at = np.stack([r * np.cos(angle), r * np.sin(angle)], -1)
    rows = np.stack([np.fft.fftfreq(side) * 6 * radius, np.zeros(side)], -1)
    columns = np.stack([np.zeros(half), np.fft.rfftfreq(side) * 6 * radius], -1)
    return (spectra, at, rows, columns), {"radius": radius}


def object_patches(n: int, size: int = 64) -> tuple[tuple, dict]:
    """n patches at random places of an object four times as wide."""
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(1, n, size, size)) + 1j * rng.normal(size=(1, n, size, size))).astype(np.complex64)
    return (values, rng.integers(0, 3 * size + 1, (n, 2))), {"shape": (4 * size, 4 * size)}


def ptychographic_patterns(n: int, size: int = 64) -> tuple[tuple, dict]:
    """n positions of one probe on a single slice, and counts."""
    rng = np.random.default_rng(0)
    plane = np.exp(1j * rng.normal(0, 0.1, (1, 2 * size, 2 * size))).astype(np.complex64)
    probe = (rng.normal(size=(1, size, size)) + 1j * rng.normal(size=(1, size, size))).astype(np.complex64)
    ramps = [np.exp(2j * np.pi * rng.uniform(size=(n, size))).astype(np.complex64) for _ in range(2)]
    return (plane, rng.integers(0, size + 1, (n, 2)), probe, *ramps, rng.poisson(2.0, (n, size, size)).astype(np.float32)), {}


def side_band_products(n: int, frequencies: int = 256) -> tuple[tuple, dict]:
    """n bright-field pixels at some scan frequencies, for a fit of defocus and astigmatism."""
    (spectra, at, _, _), options = side_band(n, frequencies)
    rng = np.random.default_rng(1)
    shifts = rng.uniform(-1.2, 1.2, (frequencies, 2)) * options["radius"]
    chi = ((2, 0, 0.003), (0, 2, 0.0035))
    parts = (((2, 0, 1.0), (0, 2, 1.0)), ((2, 0, 1.0), (0, 2, -1.0)), ((1, 1, 2.0),))
    return (spectra[:, :, 0].copy(), at, shifts, np.ones(n)), options | {"chi": chi, "parts": parts}


def masks(m: int, size: int = 128) -> np.ndarray:
    return np.stack([gpu4d.detectors.annulus(4 * i, 4 * i + 10).mask((size, size)) for i in range(m)])


def centers(n: int, size: int = 128) -> np.ndarray:
    return (size - 1) / 2 + np.random.default_rng(1).uniform(-2, 2, (n, 2))


def gradient(n: int) -> tuple[tuple, dict]:
    """One field of n × n positions."""
    return (np.random.default_rng(2).normal(size=(n, n, 2)).astype(np.float32),), {}


TABLES = ("gain", "edge", "hits", "taken_from")  # options of a corrected readout that lie where its frames are


def raw_readout(n: int) -> tuple[tuple, dict]:
    """Frames of a readout with streaks, and all tables that correct them; a bad pixel in the middle, and no hit."""
    from gpu4d.preprocess import edge_pixels

    raw = frames(n) * np.uint16(14) + np.random.default_rng(1).integers(95, 106, (n, 128, 128)).astype("uint16")
    source = np.arange(128 * 128).reshape(128, 128)
    source[64, 64] -= 1
    limits = np.stack([np.full((128, 128), level, np.float32) for level in (0.0, 5000.0, 9000.0)])
    tables = {"gain": np.full((128, 128), 1.02), "edge": 0.8 * edge_pixels((128, 128)), "clip": 60.0, "hits": limits}
    return (raw, np.full((128, 128), 100.0)), tables | {"taken_from": source}


def raw_frames(n: int) -> tuple[tuple, dict]:
    """Direct-detector frames: dark level, noise, sparse electrons of 60 counts."""
    rng = np.random.default_rng(3)
    few = rng.normal(100, 4, (min(n, 16), 256, 256))
    few += 60 * (rng.random(few.shape) < 0.004)
    return (np.resize(few.clip(0).astype(np.uint16), (n, 256, 256)), np.full((256, 256), 100.0), 0.5, 5.0), {"electron": 60.0}


def crowded_frames(n: int) -> tuple[tuple, dict]:
    """Direct-detector frames in which one electron in ten has another one beside it."""
    from gpu4d.preprocess import ChargeModel
    from gpu4d.simulate import raw_frames as simulated

    few = simulated((1, min(n, 8)), (256, 256), occupancy=0.01, bad_pixels=0, xray_rate=0.0, seed=3)
    given = np.resize(np.asarray(few.cube)[0], (n, 256, 256)), few.darks.mean(axis=0), 0.13, 10.0, ChargeModel(0.38, 0.026)
    return given, {"electron": 120.0}


def through_the_fft_library(*args: Any, **options: Any) -> Any:
    """`find_disks` as on a card on which the fused kernel does not fit."""
    import gpu4d.kernels.find_disks

    from gpu4d.bragg.find_disks import find_disks

    with mock.patch.object(gpu4d.kernels.find_disks, "supports", lambda *_a, **_o: False):
        return find_disks(*args, **options)


BRIGHT_FIELD_RADIUS = 53.0  # pixels
BRIGHT_FIELD_PIXELS = 8.8e3  # inside it


def bright_field(n: int) -> tuple[tuple, dict]:
    """Counts of n patterns of 256² with a bright-field disk."""
    inside = np.hypot(*(np.indices((256, 256)) - 127.5)) < BRIGHT_FIELD_RADIUS
    return (np.random.default_rng(4).poisson(20.0 * inside, (n, 256, 256)).astype(np.uint16),), {}


def phase_of_counts(patterns: Any) -> Any:
    """The phase by single side band, from the counts of a square scan whose step just keeps every overlap."""
    side = isqrt(len(patterns))
    radius = gpu4d.physics.angle_to_frequency(25.0, 300e3)
    known = gpu4d.Calibration(energy=300e3, semiangle=25.0, r_pixel=0.24 / radius, q_pixel=radius / BRIGHT_FIELD_RADIUS)
    cube = gpu4d.DataCube(patterns[: side * side].reshape(side, side, *patterns.shape[1:]), known)
    return gpu4d.ssb(cube, origin=(127.5, 127.5)).phase.data
