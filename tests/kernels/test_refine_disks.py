"""Refinement of many peaks at once: on correlation maps of disks, on cards of every size, and broken on purpose."""

from functools import partial

import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend
from disk_options import operands

import gpu4d
from gpu4d.bragg.find_disks import PeakLimits, candidate_scores, correlation_maps
from gpu4d.bragg.refine_disks import WIDEST, peak_errors, refine_disks
from gpu4d.device.backend import using_backend
from gpu4d.probe import synthetic, template

FILE = "refine_disks.cu"


def disk_maps(shape, power, n=2, spots=9, seed=0):
    """Correlation maps of noisy disks, the pixels of maxima over 5 % of the brightest, and how many each map has."""
    rng = np.random.default_rng(seed)
    patterns = []
    for _ in range(n):
        pattern = np.full(shape, 4.0)
        for k in range(spots):
            c = ((k // 3 + 0.5) * shape[0] / 3 + rng.uniform(-1.5, 1.5), (k % 3 + 0.5) * shape[1] / 3 + rng.uniform(-1.5, 1.5))
            pattern += rng.uniform(20, 200) * synthetic(shape, 4.0, c)
        patterns.append(pattern)
    counts = rng.poisson(patterns).astype("uint16")
    probe = np.zeros(shape)
    probe[:] = synthetic(shape, 4.0)
    spectrum, moments, allowed = operands(template(probe), 5)
    maps = correlation_maps(counts, spectrum, moments, None, 0.0, power, power)
    score = candidate_scores(maps, allowed, PeakLimits(min_relative=0.05))
    found = [np.argwhere(np.isfinite(s)) for s in score]
    most = max(map(len, found))
    at = np.zeros((2, n, most), np.int32)
    for i, places in enumerate(found):
        at[:, i, : len(places)] = places.T
    return maps.refined, at[0], at[1], np.array([len(f) for f in found])


def on_host(op, *args, host=None, **options):
    with using_backend(host or HostBackend(seed=7)), gpu4d.using("cuda"):
        return op(*args, **options)


@pytest.mark.parametrize("power", [1.0, 0.85])
@pytest.mark.parametrize("shape", [(64, 64), (53, 70)])
def test_closer_than_a_thousandth_of_a_pixel(shape, power):
    case = disk_maps(shape, power)
    exact = refine_disks.definition(*case)
    assert case[3].min() >= 8
    for found in (on_host(refine_disks, *case), refine_disks(*case)):
        for position, expected in zip(found[:2], exact[:2]):
            assert np.nanmax(np.abs(position - expected)) <= 1e-3
        np.testing.assert_allclose(found[2], exact[2], rtol=1e-5)


def test_the_parabola_and_the_window_are_what_they_are_said_to_be():
    """Their distance from the exact maximum, so that nobody takes one for the other."""
    case = disk_maps((64, 64), 0.85, 4)
    exact = refine_disks.definition(*case)
    away = {
        mode: np.nanmax(np.abs(on_host(refine_disks, *case, mode=mode)[0] - exact[0])) for mode in ("parabola", "upsample", "correlation")
    }
    assert max(away["correlation"], away["upsample"]) < 1e-3 < 0.05 < away["parabola"] < 0.2, away


def test_a_peak_does_not_depend_on_its_neighbours_or_on_the_grid():
    maps, px, py, count = disk_maps((48, 50), 1.0, spots=9)
    whole = on_host(refine_disks, maps, px, py, count)

    class Large(HostBackend):
        def multiprocessors(self):
            return 1000

    class Small(HostBackend):
        def multiprocessors(self):
            return 0

    alone = [on_host(refine_disks, maps, px[:, k : k + 1], py[:, k : k + 1], np.ones(2, int)) for k in range(min(count))]
    for part, column in zip(whole, zip(*alone)):
        np.testing.assert_array_equal(part[:, : min(count)], np.concatenate(column, 1))
    for mode in ("correlation", "upsample"):
        spread, one = (on_host(refine_disks, maps, px, py, count, mode=mode, upsample=4, host=card()) for card in (Large, Small))
        for a, b in zip(spread, one):
            np.testing.assert_array_equal(a, b)


def wide_case(spots=25):
    """Two maps of 24 x 256 samples: the kernels whose teams go over a map side by side, four columns a thread."""
    rng = np.random.default_rng(0)
    x, y = np.arange(24)[:, None], np.arange(256)[None, :]
    at = np.array([(8.0 + 8 * (k % 2), 5.0 + 10 * k) for k in range(spots)]) + rng.uniform(-0.4, 0.4, (spots, 2))
    hills = sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 8) for a, b in at)
    maps = np.stack([hills, hills[:, ::-1]]).astype(np.float32)
    px = np.rint(np.stack([at[:, 0], at[:, 0]])).astype(int)
    py = np.rint(np.stack([at[:, 1], 255 - at[:, 1]])).astype(int)
    return (maps, px, py, np.array([spots, spots - 6])), at


@pytest.mark.parametrize("spots", [3, 9, 17, 25])
def test_teams_of_one_block_give_each_peak_what_it_has_alone(spots):
    (maps, px, py, count), _ = wide_case(spots)
    count = np.maximum(count, 1)
    exact = refine_disks.definition(maps, px, py, count)
    bits = set()
    for seed in (0, 1, 2, 7):
        host = HostBackend(seed=seed)
        found = on_host(refine_disks, maps, px, py, count, host=host)
        name, _, threads, shared = host.launched[0]
        assert name == "newton_peaks_wide" and threads == (64 * min(3, -(-spots // 8)),) and shared == threads[0] // 64 * 16112
        bits.add(b"".join(a.tobytes() for a in found))
    assert len(bits) == 1
    for a, b, limit in zip(found, exact, (1e-3, 1e-3, 1e-5), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5 if limit == 1e-5 else 0, atol=limit)
    alone = on_host(refine_disks, maps, px[:, -1:], py[:, -1:], np.array([1, 1]))
    for a, b in zip(found, alone, strict=True):
        np.testing.assert_array_equal(a[:1, -1:], b[:1])


def test_standard_errors_by_teams_are_the_definitions():
    (maps, px, py, count), _ = wide_case(19)
    counts = np.random.default_rng(1).poisson(20, maps.shape).astype("uint16")
    dx, dy = np.meshgrid(np.arange(-4, 5), np.arange(-4, 5), indexing="ij")
    hill = np.exp(-(dx**2 + dy**2) / 8)
    box = np.stack([hill**2, (dx * hill) ** 2, dx * dy * hill**2, (dy * hill) ** 2]).astype(np.float32)
    x, y, _ = refine_disks.definition(maps, px, py, count)
    want = peak_errors.definition(counts, maps, box, x, y, count)
    for seed in (0, 1, 2, 7):
        host = HostBackend(seed=seed)
        found = on_host(peak_errors, counts, maps, box, x, y, count, host=host)
        assert host.launched[0][0] == "peak_errors_wide" and host.launched[0][2] == (192,)
        for a, b in zip(found, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0.02)


def test_a_peak_that_runs_away_keeps_its_parabola():
    """A start on a slope: the climb leaves the pixel by more than 1.5 px, and the answer is the start, its height the map's there."""
    x, y = np.arange(40)[:, None], np.arange(36)[None, :]
    maps = (np.exp(-((x - 20.3) ** 2 + (y - 17.8) ** 2) / 40))[None].astype(np.float32)
    px, py, count = (np.asarray(v) for v in ([[23, 20]], [[18, 18]], [2]))
    exact = refine_disks.definition(maps, px, py, count)
    found = on_host(refine_disks, maps, px, py, count)
    assert abs(exact[0][0, 0] - 20.3) > 1 > abs(exact[0][0, 1] - 20.3)
    for a, b in zip(found, exact):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kilobytes", [64, 99, 227])
def test_every_card_takes_the_widest_window(kilobytes):
    maps, px, py, _ = disk_maps((36, 40), 1.0, 1, 2)
    host = HostBackend(shared=kilobytes * 1024)
    case = (maps, px[:, :1], py[:, :1], np.asarray([1]))
    found = on_host(refine_disks, *case, mode="upsample", upsample=WIDEST, host=host)
    assert host.launched
    for a, b in zip(found, refine_disks(*case, mode="upsample", upsample=WIDEST)):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_wider_window_takes_the_definition():
    maps, px, py, count = disk_maps((36, 40), 1.0, 1, 2)
    refuses = partial(refine_disks.unsupported, "cuda")
    assert "128 samples" in refuses(maps, px, py, count, mode="upsample", upsample=WIDEST + 1)
    assert "128 samples" in refuses(maps, px, py, count, "upsample", WIDEST + 1)
    assert refuses(maps, px, py, count, "upsample", WIDEST) is None
    assert refuses(maps, px, py, count, "correlation", WIDEST + 1) is None


def test_standard_errors_of_disks_are_those_of_the_counts():
    """Many noisy copies of one disk: positions scatter by the standard errors, through kernel and twin."""
    shape, rng = (40, 44), np.random.default_rng(0)
    counts = rng.poisson(np.broadcast_to(3 + 60 * synthetic(shape, 4.0, (19.3, 21.8)), (150, *shape)))
    spectrum, moments, _ = operands(template(synthetic(shape, 4.0)), 5)
    cross = correlation_maps(counts, spectrum, moments, None, 0.0, 1.0, 1.0).cross
    px, py, count = np.full((150, 1), 19), np.full((150, 1), 22), np.ones(150, int)
    half = 11
    box = np.roll(moments, (half, half), (1, 2))[:, : 2 * half + 1, : 2 * half + 1]
    for run in (on_host, lambda op, *args, **o: op(*args, **o)):
        x, y, _ = run(refine_disks, cross, px, py, count, climb=True)
        sx, sy = run(peak_errors, counts, cross, box, x, y, count)
        for values, error in ((x, sx), (y, sy)):
            assert 0.8 < values.std() / np.sqrt((error**2).mean()) < 1.25


BREAKS = {
    "barrier before new row weights": (
        "    __syncthreads();\n    for (int k = team.thread; k < CHUNK * SLOTS",
        "    for (int k = team.thread; k < CHUNK * SLOTS",
    ),
    "barrier behind the row weights": ("    __syncthreads();\n    if (split >= splits) continue;", "    if (split >= splits) continue;"),
    "row bound": ("const int rows = nx - first < CHUNK ? nx - first : CHUNK;", "const int rows = CHUNK;"),
    "column bound": ("(WHOLE || at[c] < ny);", "true;"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    sources = broken_copy(FILE, BREAKS[what])
    case = disk_maps((40, 43), 1.0, 1, 4)
    good = on_host(refine_disks, *case)
    different = 0
    for seed in (0, 1, 2, 7):
        found = on_host(refine_disks, *case, host=HostBackend(seed=seed, sources=sources))
        different += any(not np.allclose(a, b, atol=1e-3, equal_nan=True) for a, b in zip(found, good))
    assert different, f"without the {what} all answers are right"
