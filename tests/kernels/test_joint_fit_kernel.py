"""The kernel that fits the disks of a group together: against the definition in float64, and its solver against NumPy's."""

import gpu4d.kernels.joint_fit as launcher
import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend

import gpu4d
from gpu4d.bragg.likelihood.joint_fit import ALONE, HIDDEN, NONE, OPEN, joint_fit
from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.device.backend import inlined, using_backend
from gpu4d.probe import synthetic

FILE = "joint_fit.cu"
RADIUS = 3.2
PROFILE = disk_profile(synthetic((33, 33), RADIUS))
GIVEN = (PROFILE.table, PROFILE.pixels)
SEEDS = (0, 1, 2, 7)


def counts(shape, places, heights, n=1, seed=0, dtype="uint16"):
    """Poisson counts of disks on a background with a slope."""
    mean = 2 + 0.05 * np.arange(shape[0])[:, None] + 0 * np.arange(shape[1])
    for place, height in zip(places, heights):
        r = np.hypot(np.arange(shape[0])[:, None] - place[0], np.arange(shape[1]) - place[1])
        mean = mean + height / (1 + np.exp(np.clip(4 * (r - RADIUS), -60, 60)))
    return np.random.default_rng(seed).poisson(np.broadcast_to(mean, (n, *shape))).astype(dtype)


def call(frames, places, heights, role=OPEN, empty=0, seed=1, **options):
    """Arguments and options of `joint_fit`. Starts are half a pixel off; `empty` places follow."""
    n, k = len(frames), len(places)
    start = np.full((n, k + empty, 2), np.nan)
    start[:, :k] = np.asarray(places).reshape(-1, 2) + np.random.default_rng(seed).uniform(-0.5, 0.5, (n, k, 2))
    high, roles = np.zeros((n, k + empty)), np.full((n, k + empty), NONE)
    high[:, :k], roles[:, :k] = heights, role
    options = {"spacing": PROFILE.spacing, "shadow": 3.8 * RADIUS, "significance": 4.0, **options}
    return (frames, start[..., 0].copy(), start[..., 1].copy(), high, roles, *GIVEN), options


def on_host(given, options, host=None):
    with using_backend(host or HostBackend(seed=7)), gpu4d.using("cuda"):
        return joint_fit(*given, **options)


def same_as_defined(given, options, host=None):
    """Run the kernel and compare with the definition: positions within 1e-5 px, the rest within 1e-4 of its size."""
    found = on_host(given, options, host)
    with gpu4d.using("definition"):
        expected = joint_fit(given[0].astype(float), *given[1:], **options)
    for name, one, want in zip(found._fields, found, expected, strict=True):
        assert one.dtype == want.dtype and one.shape == want.shape
        limit = 1e-5 if name in "xy" else 1e-4 * np.nanmax(np.abs(want), initial=0.0, where=np.isfinite(want))
        np.testing.assert_allclose(one.astype(float), want.astype(float), rtol=0, atol=limit, err_msg=name)
    return found


def cluster(members):
    """Places of disks in rows of four whose windows overlap, and their heights."""
    places = [(9.3 + 8.1 * (j // 4) + 0.3 * (j % 3), 8.6 + 7.9 * (j % 4) + 0.5 * (j // 4)) for j in range(members)]
    return places, [400.0 / (1 + j % 5) for j in range(members)]


@pytest.mark.parametrize("members", [1, 2, 3, 5, 8, 12])
def test_groups_of_every_size(members):
    places, heights = cluster(members)
    found = same_as_defined(*call(counts((36, 42), places, heights), places, heights))
    assert found.ok.all()
    assert np.abs(found.x[0] - [x for x, _ in places]).max() < 0.5


@pytest.mark.parametrize("parameters", [4, 6, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_parameters_and_masks(parameters, masked):
    places, heights = cluster(4)
    mask = np.ones((32, 42), bool)
    mask[8:11, 12:20] = mask[15, :] = False
    frames = counts(mask.shape, places, heights, 2)
    if masked:
        frames[:, ~mask] = 60000
    same_as_defined(*call(frames, places, heights, parameters=parameters, mask=mask if masked else None))


@pytest.mark.parametrize("parameters", [6, 8])
def test_a_long_chain(parameters):
    """Windows overlap with the next two alone: the matrix is a band beside the nodes. Disks at both ends leave the detector."""
    places = [(10.2 + 0.2 * (j % 3), 1.5 + 7.3 * j) for j in range(12)]
    heights = [150.0 + 50 * (j % 3) for j in range(12)]
    frames = counts((20, 86), places, heights)
    given, options = call(frames, places, heights, parameters=parameters)
    same_as_defined(given, options)
    upright = (frames.swapaxes(1, 2).copy(), given[2], given[1], *given[3:])
    found, turned = on_host(given, options), on_host(upright, options)
    np.testing.assert_allclose(turned.y, found.x, atol=2e-3)  # the template's pixels are not turned with them


def test_groups_of_a_pattern_have_nothing_in_common():
    """Three groups of different patterns and roles; each gives what it gives alone."""
    places = [(9.2, 9.4), (9.9, 17.0), (33.1, 12.2), (33.4, 20.0), (21.0, 38.3), (28.7, 38.9)]
    heights, role = [300.0, 60.0, 200.0, 150.0, 90.0, 80.0], [ALONE, HIDDEN, OPEN, OPEN, ALONE, ALONE]
    frames = counts((44, 50), places, heights)
    given, options = call(frames, places, heights, role, shadow=0.0)
    all_of_them = same_as_defined(given, options)
    assert all_of_them.ok.tolist() == [[True] * 4 + [False] * 2], "the last group has been fitted alone"
    for some in ([0, 1], [2, 3]):
        one = on_host((frames, *(a[:, some] for a in given[1:5]), *GIVEN), options)
        for whole, part in zip(all_of_them, one):
            np.testing.assert_array_equal(whole[:, some], part)


def test_without_a_spacing_every_disk_is_alone():
    places, heights = [(9.2, 9.4), (9.9, 21.0)], [300.0, 60.0]
    frames = counts((22, 32), places, heights)
    given, options = call(frames, places, heights, HIDDEN, spacing=0.0, shadow=0.0)
    both = same_as_defined(given, options)
    for k in (0, 1):
        alone = on_host((frames, *(a[:, k : k + 1] for a in given[1:5]), *GIVEN), options)
        assert both.ok[0, k] and both.x[0, k] == alone.x[0, 0]


def test_disks_that_are_removed():
    """One where there is none, two at the same place, and one that is hidden in noise."""
    places, heights = [(12.2, 12.0), (20.1, 12.4), (30.2, 30.1)], [300.0, 200.0, 250.0]
    frames = counts((44, 44), places, heights)
    starts = [*places, (12.9, 12.8), (16.0, 20.0), (30.0, 22.0)]
    found = same_as_defined(*call(frames, starts, [300, 200, 250, 100, 50, 50], [OPEN] * 4 + [HIDDEN] * 2))
    assert found.ok[0, :3].all() and found.gone[0, 3:].all()


def test_patterns_without_counts_and_with_a_nan():
    places, heights = cluster(3)
    frames = counts((24, 40), places, heights, 3, dtype="float32")
    frames[0] = 0
    frames[1, 9, 12] = np.nan
    found = same_as_defined(*call(frames, places, heights))
    assert not found.ok[0].any() and not found.ok[1].any() and not found.gone[1].any() and found.ok[2].all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_pixel_types_give_the_same_bits(dtype):
    places, heights = cluster(3)
    frames = np.minimum(counts((24, 40), places, [100, 60, 80]), 255)
    given, options = call(frames, places, heights)
    for one, same in zip(on_host((frames.astype(dtype), *given[1:]), options), on_host(given, options), strict=True):
        assert one.tobytes() == same.tobytes()


def test_empty_lists():
    frames = counts((24, 24), [], [], 2)
    for given in (
        (frames[:0], *(np.zeros((0, 3)) for _ in range(3)), np.zeros((0, 3), int)),
        (frames, *[np.zeros((2, 0))] * 3, np.zeros((2, 0), int)),
    ):
        found = on_host((*given, *GIVEN), {})
        assert all(a.shape == given[1].shape for a in found)
    found = on_host(*call(frames, [], [], empty=5))
    assert np.isnan(found.x).all() and not found.ok.any() and not found.gone.any()


def many(parameters=6):
    """Seven patterns of groups that differ from pattern to pattern, with more places than disks."""
    places, heights = cluster(5)
    given, options = call(counts((28, 42), places, heights, 7), places, heights, empty=20, parameters=parameters)
    for i in range(7):
        given[4][i, : i % 4] = NONE
        given[1][i, : i % 4] = np.nan
    return given, options


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_that_take_several_patterns_give_the_same_bits(blocks, monkeypatch):
    given, options = many()
    one_each = on_host(given, options)
    monkeypatch.setattr(launcher, "WORK_BYTES", blocks * launcher.work_sizes((28, 42), 25, len(PROFILE.pixels), 3, PROFILE.spacing).nbytes)
    for seed in SEEDS:
        host = HostBackend(seed=seed)
        for one, same in zip(on_host(given, options, host), one_each, strict=True):
            assert one.tobytes() == same.tobytes()
        assert host.launched[0][1] == (blocks,)


def test_disks_farther_than_any_group_reaches_need_no_more_memory_than_is_there():
    """The guard zones behind the work memory say so: the longest group that can be, on a detector that it just fits into."""
    far = 3.8 * RADIUS
    places = [(10.0, 12.0 + (far - 0.6) * j) for j in range(5)]
    heights = np.where(np.arange(5) % 2, 20.0, 400.0)
    frames = counts((22, int(places[-1][1]) + 13), places, heights)
    found = same_as_defined(*call(frames, places, heights, seed=3))
    assert found.ok.all()


@pytest.mark.parametrize("m, half", [(1, 0), (5, 1), (9, 1), (13, 2), (21, 2), (29, 3), (len(PROFILE.pixels), -int(PROFILE.pixels[0, 0]))])
def test_the_radius_of_a_round_window_follows_from_its_pixels(m, half):
    """9 and 21 pixels: discs of 1.5 and 2.3 px."""
    assert launcher.half_window(m) == half


# ---------------------------------------------------------------- the solver alone

SOLVER = """
#include "cholesky.cuh"
extern "C" __global__ void solve_all(double* matrix, const double* diagonal, const int* begin, int size, int first,
                                     double* z, double* entries, int* regular) {
  __shared__ cholesky::Shared shared;
  const bool good = cholesky::factor<4>(matrix, diagonal, begin, size, shared);
  if (threadIdx.x == 0) *regular = good;
  if (!good) return;
  if (threadIdx.x < 32) {
    double found[4];
    cholesky::inverse_entries(matrix, begin, first, size, z, found);
    for (int k = 0; k < 4; k++) entries[k] = found[k];
  }
  __syncthreads();
  cholesky::solve_back<4>(matrix, size, shared);
}
"""


def solved(matrix, right, begin, first, seed):
    size = len(right)
    packed = np.concatenate([*(matrix[i, : i + 1] for i in range(size)), right, [0.0]])
    host = HostBackend(seed=seed, sources={"solver.cu": SOLVER.replace('#include "cholesky.cuh"', inlined("cholesky.cuh"))})
    given = (packed, np.diagonal(matrix).copy(), np.append(begin, 0).astype(np.int32), np.int32(size), np.int32(first))
    z, entries, regular = np.full(3 * size, np.nan), np.zeros(4), np.zeros(1, np.int32)
    host.launch(host.function("solver.cu", "solve_all", ()), (1,), (128,), (*given, z, entries, regular), 0)
    return packed[-size - 1 : -1], entries, bool(regular[0])


@pytest.mark.parametrize("size", [3, 7, 8, 9, 16, 33, 41])
def test_the_solver_gives_numpys_answer(size):
    """A band, and rows that reach over all: as disks and nodes."""
    rng = np.random.default_rng(size)
    begin = np.maximum(np.arange(size) - 4, 0)
    begin[size * 2 // 3 :] = 0
    lower = np.tril(rng.normal(size=(size, size))) + 3 * np.eye(size)
    lower[np.arange(size)[None, :] < begin[:, None]] = 0
    matrix, right, first = lower @ lower.T, rng.normal(size=size), min(size // 3, size - 3)
    want, inverse = np.linalg.solve(matrix, right), np.linalg.inv(matrix)[first : first + 3, first : first + 3]
    bits = set()
    for seed in SEEDS:
        x, entries, regular = solved(matrix, right, begin, first, seed)
        assert regular
        np.testing.assert_allclose(x, want, rtol=1e-9, atol=1e-10 * np.abs(want).max())
        np.testing.assert_allclose(entries, [inverse[0, 0], inverse[0, 1], inverse[1, 1], inverse[2, 2]], rtol=1e-9)
        bits.add(x.tobytes() + entries.tobytes())
    assert len(bits) == 1


def test_the_solver_says_where_there_is_no_inverse():
    matrix, begin = np.eye(12), np.zeros(12, int)
    matrix[10, 10] = matrix[10, 2] = matrix[2, 10] = 1.0
    assert not solved(matrix, np.ones(12), begin, 0, 0)[2]
    matrix[10, 2] = np.nan
    assert not solved(matrix, np.ones(12), begin, 0, 0)[2]


# ---------------------------------------------------------------- broken on purpose

BREAKS = {
    "barrier behind the sums": (
        "right_side);\n  __syncthreads();\n  for (int i = threadIdx.x; i < size",
        "right_side);\n  for (int i = threadIdx.x; i < size",
    ),
    "barrier before the square": ("begin[i], first, size);\n    __syncthreads();", "begin[i], first, size);"),
    "a pixel counts once": ("own = own && i >= j;", ""),
    "bounded weights": ("(step < BOUNDED_STEPS ? BOUND : 0.0f)", "0.0f"),
    "neighbours of a node": ("column + 1 < nodes.columns : column > 0", "column > 0 : column > 0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    """By another answer, a group that is not fitted, or by other bits in another order of threads."""
    sources = broken_copy(FILE, BREAKS[what])
    places, heights = cluster(6)
    ghosts = [*places, (15.0, 36.5), (12.9, 36.1)]
    given, options = call(counts((36, 42), places, heights), ghosts, [*heights, 50, 60])
    good = on_host(given, options)
    different = 0
    for seed in SEEDS:
        found = on_host(given, options, HostBackend(seed=seed, sources=sources))
        different += any(not np.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True) for a, b in zip(found, good, strict=True))
    assert different, f"without the {what} all answers are right"
