"""The kernel that looks for hidden disks: against the definition in float64 on scenes whose hidden disks are known."""

import gpu4d.kernels.hidden_disks as launcher
import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend

import gpu4d
from gpu4d.bragg.likelihood.hidden_disks import FITTED, MOST_HIDDEN, PLACED, cells_of, hidden_disks
from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.device.backend import inlined, using_backend

FILE = "hidden_disks.cu"
SHAPE, RADIUS = (44, 41), 3.2
BRIGHT = ((20.3, 19.6), 400.0)
AROUND = [((28.4, 19.1), 40.0), ((12.1, 20.4), 30.0), ((20.9, 28.8), 25.0)]  # hidden ones: place and height


def disk(shape, place, radius=RADIUS):
    r = np.hypot(np.arange(shape[0])[:, None] - place[0], np.arange(shape[1]) - place[1])
    return 1 / (1 + np.exp(np.clip(4 * (r - radius), -60, 60)))


def counts(disks, n=1, shape=SHAPE, radius=RADIUS, seed=0):
    """Poisson counts of disks on a background with a slope."""
    mean = 1 + 0.03 * np.arange(shape[0])[:, None] + sum(height * disk(shape, place, radius) for place, height in disks)
    return np.random.default_rng(seed).poisson(np.broadcast_to(mean, (n, *shape))).astype("uint16")


def call(frames, fitted, radius=RADIUS, placed=(), around=99, **options):
    """Arguments and options of `hidden_disks`: disks that were fitted, and others of which the place is known."""
    n, disks = len(frames), [*fitted, *((place, 0.0) for place in placed)]
    x, y, height = (np.tile(v, (n, 1)) for v in np.asarray([(*place, height) for place, height in disks]).reshape(-1, 3).T)
    state = np.tile([FITTED] * len(fitted) + [PLACED] * len(placed), (n, 1)).astype(int)
    profile = disk_profile(gpu4d.probe.synthetic((2 * int(3 * radius) + 21,) * 2, radius))
    allowed = options.pop("allowed", np.ones(frames.shape[1:], bool))
    given = (frames, x, y, height, state, np.full(n, around), profile.table, profile.pixels, allowed)
    return given, {"radius": radius, "least": 4.5, **options}


def on_host(given, options, host=None):
    with using_backend(host or HostBackend(seed=7)), gpu4d.using("cuda"):
        return hidden_disks(*given, **options)


def same_as_defined(given, options, host=None):
    """Run the kernel, compare with the definition on counts in float64, and return the places of every pattern."""
    found = on_host(given, options, host)
    expected = hidden_disks.definition(given[0].astype(float), *given[1:], **options)
    for one, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, want)
    return [np.stack([x[:k], y[:k]], -1) for k, x, y in zip(found.count, found.x, found.y)]


def assert_at(places, truth, radius=RADIUS):
    """Each hidden disk has a place nearer than a radius. Others are what a cell's middle, subtracted there, leaves beside it."""
    away = np.asarray([np.hypot(*(places - place).T) for place in truth]).reshape(len(truth), len(places))
    assert (away.min(axis=1, initial=np.inf) < radius).all()
    assert (away.min(axis=0, initial=np.inf) < 2.5 * radius).all()


@pytest.mark.parametrize("hidden", range(4))
def test_hidden_disks_beside_a_bright_one(hidden):
    frames = counts([BRIGHT, *AROUND[:hidden]], 2)
    for places in same_as_defined(*call(frames, [BRIGHT])):
        assert_at(places, [place for place, _ in AROUND[:hidden]])


@pytest.mark.parametrize("radius", [0.8, 1.5, 3.9, 4.0, 8.2, 24.0])
def test_cells_of_every_size(radius):
    """Cells of 1 to 144 pixels, which 1 to 32 lanes add up; up to 29 × 29 of them."""
    shape, middle = (int(8 * radius) + 6,) * 2, 4 * radius + 2.7
    bright, weak = ((middle, middle), 900.0), ((middle + 2.4 * radius, middle + 0.3), 150.0)
    given, options = call(counts([bright, weak], 1, shape, radius), [bright], radius)
    (places,) = same_as_defined(given, options)
    assert (cells_of(3.9).side, cells_of(24.0).size) == (29, 12)
    if radius > 1:
        assert_at(places, [weak[0]], radius)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_pixel_types_give_the_same_bits(dtype):
    frames = np.minimum(counts([((20.3, 19.6), 200.0), *AROUND]), 255)
    given, options = call(frames, [((20.3, 19.6), 200.0)])
    found = on_host((frames.astype(dtype), *given[1:]), options)
    assert found.count[0] > 2
    for one, same in zip(found, on_host(given, options), strict=True):
        assert one.tobytes() == same.tobytes()


def test_only_as_many_disks_are_examined_as_asked():
    far, beside = ((37.0, 6.0), 300.0), (37.4, 13.6)
    frames = counts([BRIGHT, far, AROUND[0], (beside, 60.0)])
    truth = [], [AROUND[0][0]], [AROUND[0][0], beside]  # the brighter one is the second of the list
    for around, hidden in enumerate(truth):
        assert_at(same_as_defined(*call(frames, [far, BRIGHT], around=around))[0], hidden)


def test_disks_of_which_the_place_is_known_keep_others_away():
    frames = counts([BRIGHT, AROUND[0]])
    (places,) = same_as_defined(*call(frames, [BRIGHT], placed=[AROUND[0][0]]))
    assert (np.hypot(*(places - AROUND[0][0]).T) >= 2.2 * RADIUS).all()
    assert not len(same_as_defined(*call(frames, [BRIGHT, AROUND[0]]))[0])


def test_masks_and_allowed_pixels():
    frames = counts([BRIGHT, *AROUND], 2)
    frames[:, 23:34, 13:25] = 60000  # broken pixels under the mask, where the first hidden disk is
    mask, allowed = np.ones(SHAPE, bool), np.ones(SHAPE, bool)
    mask[23:34, 13:25] = False
    allowed[:15] = False
    for places in same_as_defined(*call(frames, [BRIGHT], mask=mask, allowed=allowed)):
        away = [np.hypot(*(places - place).T).min() for place, _ in AROUND]
        assert (places[:, 0] >= 15).all() and away[0] > 1.5 * RADIUS and away[2] < RADIUS


def test_a_square_with_a_nan_has_no_places_but_a_masked_nan_does_no_harm():
    other = ((33.0, 33.0), 300.0)
    frames = counts([BRIGHT, AROUND[1], other, ((33.2, 25.0), 60.0)]).astype("float32")
    frames[0, 10, 12] = np.nan  # in the square of the first disk alone
    mask = np.ones(SHAPE, bool)
    mask[10, 12] = False
    (places,) = same_as_defined(*call(frames, [BRIGHT, other]))
    assert_at(places, [(33.2, 25.0)])
    (places,) = same_as_defined(*call(frames, [BRIGHT, other], mask=mask))
    assert_at(places, [AROUND[1][0], (33.2, 25.0)])


def test_patterns_without_counts_and_lists_without_disks():
    empty = np.zeros((2, *SHAPE), "uint8")
    given, options = call(empty, [BRIGHT])
    assert not on_host(given, options).count.any()
    assert not on_host(call(empty, [(BRIGHT[0], 0.0)])[0], options).count.any()
    for few in ([], [given[0][:0], *(a[:0] for a in given[1:6])]):
        some = call(empty, [])[0] if not few else (*few, *given[6:])
        found, expected = on_host(some, options), hidden_disks.definition(*some, **options)
        for one, want in zip(found, expected, strict=True):
            assert one.dtype == want.dtype
            np.testing.assert_array_equal(one, want)


def test_positions_that_are_no_numbers_or_far_away():
    """Of empty places they are not read; a disk beyond the detector has a square without pixels."""
    frames = counts([BRIGHT, AROUND[0]])
    given, options = call(frames, [BRIGHT, ((1e12, 5.0), 1e6), ((-40.0, 5.0), 9e5)], placed=[(np.nan, np.nan)])
    given[4][:, 3] = 0
    found = on_host(given, options)
    expected = on_host(*call(frames, [BRIGHT]))
    for one, want in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, want)


def crowd(most=MOST_HIDDEN + 8):
    """Small bright disks with more hidden ones around them than a list holds."""
    radius, shape = 1.5, (44, 44)
    bright = [((11.0 + 22 * i, 11.0 + 22 * j), 5000.0 + 100 * i + 10 * j) for i in (0, 1) for j in (0, 1)]
    ring = [(5.0 * np.cos(a), 5.0 * np.sin(a)) for a in 2 * np.pi * np.arange(most // 4) / (most // 4)]
    hidden = [((x + dx, y + dy), 150.0) for (x, y), _ in bright for dx, dy in ring]
    return call(counts([*bright, *hidden], 3, shape, radius), bright, radius)


def test_a_list_holds_the_first_sixteen_places():
    for places in same_as_defined(*crowd()):
        assert len(places) == MOST_HIDDEN


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_blocks_that_work_in_global_memory_give_the_same_bits(blocks, monkeypatch):
    given, options = crowd()
    in_shared, in_global = HostBackend(seed=2), HostBackend(seed=2, shared=4 * 1024)
    expected = on_host(given, options, in_shared)
    monkeypatch.setattr(launcher, "RESIDENT", blocks)
    monkeypatch.setattr(in_global, "multiprocessors", lambda: 1)
    found = on_host(given, options, in_global)
    (_, grid, _, shared), (_, whole, _, some) = in_global.launched[0], in_shared.launched[0]
    assert (grid, shared, whole) == ((min(blocks, 3),), 0, (3,)) and some > 0
    for one, same in zip(found, expected, strict=True):
        assert one.tobytes() == same.tobytes()


@pytest.mark.parametrize("radius", [0.8, 1.5, 3.2, 6.0, 13.0])
def test_memory_has_room_for_the_rows_of_every_round_window(radius):
    pixels = disk_profile(gpu4d.probe.synthetic((2 * int(3 * radius) + 21,) * 2, radius)).pixels
    assert launcher.rows_of(len(pixels)) >= len(np.unique(pixels[:, 0])) == 1 - 2 * pixels[0, 0]
    assert [launcher.rows_of(m) for m in (1, 5, 13)] == [1, 3, 5]  # diamonds: no round window has fewer pixels


@pytest.mark.parametrize("warps", [1, 3, 8])
def test_blocks_of_any_number_of_warps_find_the_same(warps, monkeypatch):
    """Kernels with other blocks can call the search, too."""
    old = "constexpr int WARPS = 4;"
    text = inlined(FILE)
    assert text.count(old) == 1 and launcher.THREADS == 4 * 32
    monkeypatch.setattr(launcher, "THREADS", 32 * warps)
    same_as_defined(*crowd(), HostBackend(seed=7, sources={FILE: text.replace(old, f"constexpr int WARPS = {warps};")}))


BREAKS = {
    "barrier behind the cells": (
        "square, near);\n      __syncthreads();\n      const float ground",
        "square, near);\n      const float ground",
    ),
    "barrier behind the sums": (
        "scratch);\n    __syncthreads();\n    if (threadIdx.x < 32) fit",
        "scratch);\n    if (threadIdx.x < 32) fit",
    ),
    "barrier behind the rest": ("scratch);\n    __syncthreads();\n    const u64 best", "scratch);\n    const u64 best"),
    "cells at the border": ("i == 0 || i == side - 1 || j == 0 || j == side - 1 || a < 0", "a < 0"),
    "the cell that was looked at": ("work.free(c) = 0;", ";"),
    "subtraction of a place": ("work.left(c) -= gone, ", ""),
    "order of the disks": ("a < height || (a == height && k > before)", "k > before"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    sources = broken_copy(FILE, BREAKS[what])
    edge = ((20.0, 8.8), 60.0)  # its highest cells are at the border of the square about the bright disk
    wide = ((21.0, 20.0), 900.0)  # of cells that two lanes add up
    scenes = [
        crowd(),
        call(counts([wide, ((35.2, 20.3), 150.0)], radius=6.0), [wide], 6.0),
        call(counts([BRIGHT, *AROUND, edge]), [((9.0, 33.0), 1.0), BRIGHT, ((35.0, 35.0), 2.0)], around=1),
    ]
    different = 0
    for given, options in scenes:
        good = on_host(given, options)
        for seed in (0, 1, 2, 7):
            found = on_host(given, options, HostBackend(seed=seed, sources=sources))
            different += any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(found, good, strict=True))
    assert different, f"without the {what} all answers are right"
