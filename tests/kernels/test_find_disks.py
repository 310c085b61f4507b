"""Disk detection by kernels and FFTs, on the host shim: the choice of maxima against the definition's on maps made to be hard,
and whole patterns of every kind of detector size."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from cuda_on_host import HostBackend
from disk_options import limited
from disks_on_the_shim import OWN_PATH, arguments, on_the_shim, pattern_of
from gpu4d.kernels import find_disks as launcher
from huge_arrays import huge_array
from own_process import call_in

from gpu4d import device, operation
from gpu4d.bragg import find_disks as definition
from gpu4d.device import backend
from gpu4d.device.backend import using_backend
from gpu4d.device.memory import leaving
from gpu4d.errors import InputError

NONE = {"min_significance": 0.0, "min_relative": 0.0, "min_absolute": 0.0, "min_spacing": 0.0, "max_peaks": 9}


def moments_of(shape, reach=(2, 3)):
    """K² and three more, none but the first used here; zero outside a window."""
    rng = np.random.default_rng(5)
    moments = np.zeros((4, *shape))
    hx, hy = (min(r, (n - 1) // 2) for r, n in zip(reach, shape))
    moments[np.ix_(range(4), np.arange(-hx, hx + 1), np.arange(-hy, hy + 1))] = rng.uniform(0.1, 1.0, (4, 2 * hx + 1, 2 * hy + 1))
    return moments


def both(hybrid, cross, counts, moments, allowed, host=None, **limits):
    """Candidates of the definition and the number of those taken; the kernel and the definition choose the same pixels."""
    limits = definition.PeakLimits(**{**NONE, **limits})
    noise = np.zeros(hybrid.shape)
    for x, y in np.argwhere(moments[0]):
        noise += moments[0, x, y] * np.roll(counts.astype(float), (-x, -y), axis=(1, 2))
    maps = definition.Maps(counts.astype(float), hybrid.astype(float), cross.astype(float), None, noise)
    score = definition.candidate_scores(maps, allowed, limits)
    wx, wy, want = definition.strongest_first(score, limits.min_spacing, limits.max_peaks)
    with using_backend(host or HostBackend()):
        arrays = [np.ascontiguousarray(a, np.float32) for a in (hybrid, cross, counts)]
        px, py, found = launcher.strongest_maxima(*arrays, allowed.astype(np.uint8), launcher.centred_box(moments), limits)
    np.testing.assert_array_equal(found, want)
    for k in range(len(hybrid)):
        np.testing.assert_array_equal(px[k, : want[k]], wx[k, : want[k]])
        np.testing.assert_array_equal(py[k, : want[k]], wy[k, : want[k]])
        assert not px[k, want[k] :].any() and not py[k, want[k] :].any()
    return score, found


def steps(shape, levels, seed=0):
    """Maps of few levels: ties and plateaus everywhere."""
    return np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)


SHAPES = [(1, 1), (2, 3), (5, 4), (9, 33), (33, 31), (34, 64), (65, 20), (130, 128)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("levels", [2, 4])
def test_ties_and_plateaus(shape, levels):
    """On a torus: where all pixels are allowed, maxima at the border have neighbours on the other side."""
    hybrid = steps((2, *shape), levels)
    both(hybrid, hybrid, hybrid, moments_of(shape), np.ones(shape, bool), min_spacing=2.5)


@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_the_order_of_threads_does_not_matter(seed):
    hybrid = steps((1, 40, 33), 3, 1)
    both(hybrid, hybrid, hybrid, moments_of((40, 33)), np.ones((40, 33), bool), HostBackend(seed), min_spacing=3.0, max_peaks=40)


def test_more_candidates_than_fit_into_shared_memory():
    """The weakest of 1500 is still found: none is dropped, and the last ones taken are those left over by the others."""
    hybrid = np.zeros((2, 130, 128), np.float32)
    heights = np.random.default_rng(2).permutation(32 * 63) + 1.0
    hybrid[1, 2:128:4, 1:127:2] = heights.reshape(32, 63)
    score, found = both(
        hybrid, hybrid, np.ones_like(hybrid), moments_of((130, 128)), np.ones((130, 128), bool), min_spacing=9.0, max_peaks=300
    )
    assert np.isfinite(score[1]).sum() == 2016 and 100 < found[1] < 300 and found[0] == 0


def test_all_of_a_crowd():
    """As many peaks as there are maxima, in the order of their heights."""
    hybrid = np.zeros((1, 66, 64), np.float32)
    hybrid[0, 1:65:2, 1:63:2] = np.random.default_rng(3).permutation(32 * 31).reshape(32, 31) + 1
    _, found = both(hybrid, hybrid, np.ones_like(hybrid), moments_of((66, 64)), np.ones((66, 64), bool), max_peaks=1200)
    assert found[0] == 992


@pytest.mark.parametrize(
    "limits",
    [
        {"min_absolute": 1.2},
        {"min_relative": 0.55},
        {"min_significance": 0.4},
        {"min_significance": -0.3},
        {"min_significance": 0.3, "min_relative": 0.3, "min_absolute": 0.5},
        {"min_spacing": 7.0},
        {"min_spacing": 5.0, "max_peaks": 1},
        {"min_spacing": 4.0, "max_peaks": 60},
    ],
    ids=str,
)
def test_thresholds(limits):
    """Each of them on maps that differ from each other, negative values and empty places among them."""
    rng = np.random.default_rng(4)
    shape = (3, 37, 45)
    hybrid, cross = rng.normal(size=shape), rng.normal(size=shape) + 0.5
    hybrid, cross = hybrid.astype(np.float32), cross.astype(np.float32)
    counts = rng.poisson(0.4, shape).astype(float)
    counts[:, :15, :15] = 0
    allowed = np.zeros(shape[1:], bool)
    allowed[2:-2, 3:-3] = True
    allowed[20, 10:30] = False
    _, found = both(hybrid, cross, counts, moments_of(shape[1:]), allowed, **limits)
    assert found.sum() > 0, "the limits leave nothing to compare"


def test_the_window_of_the_noise_wraps_round():
    """A maximum near the corner takes counts from all four corners of the detector."""
    hybrid = np.zeros((1, 12, 14), np.float32)
    hybrid[0, 1, 1] = 1
    counts = np.zeros_like(hybrid)
    counts[0, -1, -2], counts[0, 0, 0], counts[0, 2, -1], counts[0, -1, 3] = 5, 7, 11, 13
    moments = moments_of((12, 14), (5, 6))
    noise = sum(counts[0, (1 + x) % 12, (1 + y) % 14] * moments[0, x, y] for x in range(-5, 6) for y in range(-6, 7))
    for z, want in ((0.999, 1), (1.001, 0)):
        _, found = both(hybrid, hybrid, counts, moments, np.ones((12, 14), bool), min_significance=z / np.sqrt(noise))
        assert found[0] == want


def test_a_large_detector_takes_a_large_block():
    rng = np.random.default_rng(6)
    hybrid = rng.normal(size=(1, 362, 363)).astype(np.float32)
    hybrid[:, ::9] += 5
    assert launcher._threads(362 * 363) == 1024
    allowed = rng.random((362, 363)) < 0.05
    both(hybrid, hybrid, np.ones_like(hybrid), moments_of((362, 363)), allowed, min_spacing=12.0, max_peaks=20)


# ---------------------------------------------------------------- whole patterns


@pytest.fixture
def batches_of(monkeypatch):
    """Sets the size of a batch, which the FFTs take at once."""

    def choose(n):
        monkeypatch.setattr(launcher, "batch_size", lambda nx, ny: n)
        monkeypatch.setattr(launcher, "unit_size", lambda nx, ny: n)

    return choose


@pytest.mark.parametrize("shape", [(61, 61), (128, 128), (130, 128), (192, 96), (97, 180), (256, 250), (514, 512)], ids=str)
def test_any_detector_with_64_kilobytes_of_shared_memory(shape, batches_of):
    """What no fused kernel takes goes through FFT batches: same disks as the definition, 1e-3 px."""
    batches_of(1)
    patterns, truth = pattern_of(shape)
    given, options = arguments(shape)
    found, launched = on_the_shim(patterns, given, options, shared=64 * 1024)
    want = definition.find_disks.definition(patterns, *given, **options)
    assert launched >= OWN_PATH
    np.testing.assert_array_equal(found.count, want.count)
    assert found.count[0] == 4
    for one, other, within in ((found.qx, want.qx, 1e-3), (found.qy, want.qy, 1e-3), (found.intensity, want.intensity, 0.02)):
        np.testing.assert_allclose(one, other, rtol=0, atol=within)
    np.testing.assert_allclose(found.sx, want.sx, rtol=5e-3)
    near = np.hypot(found.qx[0, :4, None] - truth[0, :, 0], found.qy[0, :4, None] - truth[0, :, 1]).min(axis=1)
    assert (near < 0.15).all(), "the disks are where they were put"


@pytest.mark.parametrize(
    ("size", "shared", "fused"), [(128, 227, True), (128, 99, True), (128, 64, False), (96, 64, True), (192, 99, False), (192, 163, True)]
)
def test_the_shared_memory_of_the_device_decides(size, shared, fused, batches_of):
    """64 kB are sm_75, 99 sm_86 and sm_120, 163 sm_80, 227 sm_90; the disks are the same."""
    batches_of(1)
    patterns, _ = pattern_of((size, size))
    given, options = arguments((size, size))
    found, launched = on_the_shim(patterns, given, options, shared=shared * 1024)
    want = definition.find_disks.definition(patterns, *given, **options)
    assert (f"find_disks_{size}" in launched) == fused and (launched >= OWN_PATH) != fused
    np.testing.assert_array_equal(found.count, want.count)
    np.testing.assert_allclose(found.qx, want.qx, atol=1e-3)
    np.testing.assert_allclose(found.qy, want.qy, atol=1e-3)


def test_what_the_fused_kernel_does_not_do_goes_through_batches(batches_of):
    batches_of(1)
    patterns, _ = pattern_of((64, 64))
    for mask, more in ((None, {"refine": "upsample", "upsample": 4}), (np.ones((64, 64), bool), {})):
        given, options = arguments((64, 64), mask, **more)
        assert on_the_shim(patterns, given, options)[1] >= OWN_PATH


def test_1024_pixels(batches_of):
    batches_of(1)
    patterns, truth = pattern_of((1024, 1024), radius=9.0)
    given, options = arguments((1024, 1024), radius=9.0, refine="parabola")
    found, launched = on_the_shim(patterns, given, options)
    assert launched >= OWN_PATH and found.count[0] == 4
    order = np.argsort(found.qx[0, :4])
    np.testing.assert_allclose(found.qx[0, order], np.sort(truth[0, :, 0]), atol=0.1)


def test_results_do_not_depend_on_where_a_scan_is_cut(batches_of):
    """Bit for bit, with the last batch full or nearly empty."""
    batches_of(4)
    patterns, _ = pattern_of((45, 38), n=9)
    given, options = arguments((45, 38))
    whole, _ = on_the_shim(patterns, given, options)
    for cut in (1, 4, 6):
        parts = [on_the_shim(p, given, options)[0] for p in (patterns[:cut], patterns[cut:])]
        for one, *two in zip(whole, *parts):
            assert one.tobytes() == np.concatenate(two).tobytes()


def test_a_batch_is_whole_units_within_what_the_sweep_leaves():
    """Four multiprocessors: no more than 32 patterns; 8 of 1024² are more than what an FFT is meant to take at once."""
    each = 4 * 1024 * 1024
    with using_backend(HostBackend()):
        assert launcher.unit_size(1024, 1024) == 8 and launcher.batch_size(1024, 1024) == 32
        for patterns_left, patterns in ((0, 8), (15, 8), (31, 24), (40, 32)):
            with leaving(patterns_left * launcher.ARRAYS * each):
                assert launcher.batch_size(1024, 1024) == patterns
        assert launcher.unit_size(64, 64) == launcher.batch_size(64, 64) == 32
        assert launcher.batch_size(8000, 8000) == launcher.unit_size(8000, 8000) == 8, "one unit at least"


@pytest.mark.parametrize("masked", [False, True])
def test_results_do_not_depend_on_the_memory_that_is_left(masked, monkeypatch):
    monkeypatch.setattr(launcher, "UNIT_BYTES", 0)
    monkeypatch.setattr(launcher, "LEAST_UNIT", 2)
    patterns, _ = pattern_of((45, 38), n=9)
    mask = None
    if masked:
        mask = np.ones((45, 38), bool)
        mask[20:26, :12] = False
    given, options = arguments((45, 38), mask)
    results, batches = [], []
    for patterns_left in (2, 5, 100):
        with leaving(patterns_left * launcher.ARRAYS * 4 * 45 * 38):
            host = HostBackend()
            with using_backend(host), operation.using("cuda"):
                results.append(definition.find_disks(patterns, *given, **options))
        batches.append(sum(name == "strongest_maxima" for name, *_ in host.launched))
    assert batches == [5, 3, 1] and results[0].count.sum() > 20
    for one, *others in zip(*results):
        assert all(one.tobytes() == other.tobytes() for other in others)


def test_a_broken_pattern_does_not_touch_its_neighbours(batches_of):
    batches_of(3)
    patterns, _ = pattern_of((40, 43), n=5, dtype="float32")
    broken = patterns.copy()
    broken[0, 3, 3], broken[2], broken[4, -1, -1] = np.inf, 0, np.nan
    given, options = arguments((40, 43))
    found, _ = on_the_shim(broken, given, options)
    want, _ = on_the_shim(patterns, given, options)
    assert found.count.tolist() == [0, want.count[1], 0, want.count[3], 0]
    for one, other in zip(found[1:], want[1:]):
        assert np.isnan(one[[0, 2, 4]]).all()
        assert one[[1, 3]].tobytes() == other[[1, 3]].tobytes()


def test_masked_pixels_may_hold_anything(batches_of):
    batches_of(2)
    patterns, _ = pattern_of((48, 44), n=2, dtype="float32")
    mask = np.ones((48, 44), bool)
    mask[20:26, :12] = mask[40, 40] = False
    given, options = arguments((48, 44), mask)
    results = []
    for rubbish in (0, np.nan, np.inf, 1e30):
        results.append(on_the_shim(np.where(mask, patterns, np.float32(rubbish)), given, options)[0])
    want = definition.find_disks.definition(patterns, *given, **options)
    for found in results:
        np.testing.assert_array_equal(found.count, want.count)
        np.testing.assert_allclose(found.qx, want.qx, atol=1e-3)
        assert found.qx.tobytes() == results[0].qx.tobytes()


@pytest.mark.parametrize("exponent", [-90, -40, 30, 60])
def test_the_scale_of_the_data_does_not_matter(exponent, batches_of):
    """|m|² would leave the range of single precision at either end."""
    batches_of(1)
    patterns, _ = pattern_of((40, 40), dtype="float32")
    given, options = arguments((40, 40))
    options.update(limited(min_significance=0.0, min_relative=0.1, min_spacing=5.0, max_peaks=8, power=0.5, refine_power=0.5))
    found, _ = on_the_shim(patterns * np.float32(2.0) ** exponent, given, options)
    want = definition.find_disks.definition(patterns, *given, **options)
    np.testing.assert_array_equal(found.count, want.count)
    np.testing.assert_allclose(found.qx, want.qx, atol=1e-3)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_arguments_of_another_detector_are_refused(which):
    patterns, _ = pattern_of((24, 28))
    given, options = arguments((24, 28))
    given = tuple(a[..., :-1] if i == which else a for i, a in enumerate(given))
    with pytest.raises(InputError, match=("spectrum", "moments", "allowed")[which]):
        on_the_shim(patterns, given, options)


def test_other_dtypes_take_the_definition():
    patterns, _ = pattern_of((24, 28), dtype="int16")
    given, options = arguments((24, 28))
    assert "int16" in definition.find_disks.unsupported("cuda", patterns, *given, **options)
    assert definition.find_disks.unsupported("cuda", patterns.astype("uint8"), *given, **options) is None


# ---------------------------------------------------------------- offsets behind 2³¹ elements, and the tests themselves

FAR = 140_000  # patterns of 128 × 128 before the one that is looked at


def far_pattern(offset_type="long long"):
    """The last of 140 001 patterns through each kernel, the others left out: every offset has to have 64 bits."""
    text = backend.inlined(launcher.FILE).replace("typedef long long offset_t", f"typedef {offset_type} offset_t")
    text = text.replace("pattern = blockIdx.x", f"pattern = blockIdx.x + {FAR}").replace("blockIdx.y", f"(blockIdx.y + {FAR // 4})")
    rng = np.random.default_rng(1)
    n, nx, ny = FAR + 1, 128, 128
    frame = rng.integers(0, 9, (nx, ny))
    patterns, counts, spectra = huge_array((n, nx, ny), "u1"), huge_array((n, nx, ny), "f4"), huge_array((n, nx, 129), "c8")
    px, py, found, keys = huge_array((n, 9), "i4"), huge_array((n, 9), "i4"), huge_array((n,), "i4"), huge_array((n, 8, 8 * 64), "u8")
    patterns[-1], spectra[-1] = frame, frame[:, :1]
    with using_backend(HostBackend(sources={launcher.FILE: text})):
        sizes = [np.int32(v) for v in (n, nx * ny)]
        device.launch(device.kernel(launcher.FILE, "frames_to_float_u8"), 1, 256, (patterns, np.uint64(0), counts, *sizes))
        np.testing.assert_array_equal(counts[-1], frame)
        call = (spectra, np.full((nx, 129), 2j, "c8"), np.uint64(0), np.uint64(0), np.int32(n), np.int32(nx * 129))
        device.launch(device.kernel(launcher.FILE, "spectrum_products"), (65, 1), 256, (*call, *np.zeros(2, "f4"), np.float32(0.5)))
        np.testing.assert_array_equal(spectra[-1, :, 5], 1j * frame[:, 0])
        arrays = (counts, counts, counts, np.ones((nx, ny), "u1"), np.ones((1, 1), "f4"), keys, px, py, found)
        limits = (np.float32(0), np.float64(0), np.float64(0), np.float64(16), *map(np.int32, (9, nx, ny, 0, 0, 16, 512)))
        device.launch(device.kernel(launcher.FILE, "strongest_maxima"), 1, 256, (*arrays, *limits))
    assert found[-1] == 9 and (frame[px[-1], py[-1]] == 8).all() and not found[:-1:1000].any()


def test_offsets_have_64_bits():
    """In processes of their own: with offsets of 32 bits it writes elsewhere, or dies."""
    right, wrong = (call_in(Path(__file__).parent, "test_find_disks", call) for call in ("far_pattern()", "far_pattern('int')"))
    assert right.returncode == 0, right.stderr
    assert wrong.returncode != 0


BROKEN = {
    "a barrier less": ("  __syncthreads();\n  v = slots[0];", "  v = slots[0];"),
    "no wrap": ("y + 1 < ny ? y + 1 : 0", "y + 1 < ny ? y + 1 : y"),
    "no maximum of two equal pixels": ("here >= below", "here > below"),
    "a strip less": ("strip < ny; strip += 32", "strip < ny - 32; strip += 32"),
    "a row less of every band": ("x < last; x++", "x < last - 1; x++"),
    "part of the window": ("i < size; i += 32", "i < size - 1; i += 32"),
    "candidates dropped": ("q < number[w]; q += blockDim.x", "q < 32; q += blockDim.x"),
    "the last of equal heights": ("__float_as_uint(hybrid[at]), ~place", "__float_as_uint(hybrid[at]), place"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BROKEN)
def test_broken_copies_are_caught(what):
    """In a process of its own, because what is broken may well crash."""
    good, bad = BROKEN[what]
    text = backend.inlined(launcher.FILE)
    assert text.count(good) == 1, "the source has changed: break it elsewhere"
    sources = {launcher.FILE: text.replace(good, bad)}
    assert HostBackend(sources=sources).function(launcher.FILE, "strongest_maxima", ()), "it compiles"
    process = multiprocessing.get_context("fork").Process(target=on_hard_maps, args=(sources,))
    process.start()
    process.join()
    assert process.exitcode != 0


def on_hard_maps(sources):
    for seed in (0, 1, 2, 7):
        hard_maps(HostBackend(seed, sources=sources))


def test_whole_copies_pass():
    on_hard_maps({launcher.FILE: backend.inlined(launcher.FILE)})


def hard_maps(host):
    """Ties, the border, thresholds, and more candidates than shared memory holds, in one go."""
    rng = np.random.default_rng(8)
    hybrid = steps((2, 66, 100), 5, 3)
    hybrid[1] = 0
    hybrid[1, 1:65:2, 1:99:2] = rng.permutation(32 * 49).reshape(32, 49) // 2 + 1
    counts = rng.poisson(2.0, hybrid.shape)
    allowed = np.ones((66, 100), bool)
    both(hybrid, hybrid, counts, moments_of((66, 100)), allowed, host, min_spacing=3.0, max_peaks=60)
    hybrid, cross = rng.normal(size=(2, 1, 37, 45)).astype(np.float32)
    both(hybrid, cross, counts[:1, :37, :45], moments_of((37, 45)), allowed[:37, :45], host, min_significance=-0.2, max_peaks=150)
    moments, counts = moments_of((37, 45), (4, 6)), counts[:1, :37, :45] + 9
    both(hybrid, cross, counts, moments, allowed[:37, :45], host, min_significance=0.05, max_peaks=150)
