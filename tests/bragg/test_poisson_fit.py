"""The likelihood fit against what counts allow (the Cramér–Rao bound) and against known disks."""

import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend
from cuda_on_host.backend import kernel_names
from cuda_on_host.nvrtc import budget, usage_for

import gpu4d
from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit
from gpu4d.device.backend import inlined, using_backend
from gpu4d.errors import InputError
from gpu4d.probe import Template, synthetic, template

RADIUS, EDGE, SIZE = 6.0, 1.0, (43, 40)


def disk(centre, shape=SIZE, tilt=(0.0, 0.0)):
    slope = 1 + (np.arange(shape[0])[:, None] - centre[0]) * tilt[0] + (np.arange(shape[1])[None, :] - centre[1]) * tilt[1]
    return synthetic(shape, RADIUS, centre, EDGE) * slope


def expected(centre, amplitude, dose, tilt=(0.0, 0.0)):
    """Counts of one disk beside the peak of a Gaussian background."""
    x, y = np.arange(SIZE[0])[:, None], np.arange(SIZE[1])[None, :]
    background = 0.03 * np.exp(-((x + 5) ** 2 + (y - 3) ** 2) / 30**2) + 0.002
    return dose * (background + amplitude * disk(centre, tilt=tilt))


def bound(centre, amplitude, dose):
    """Cramér–Rao variance of (x, y), amplitude and background known: Σ ∇λ ∇λᵀ / λ inverted."""
    h = 0.01
    rate = expected(centre, amplitude, dose)
    slopes = [(expected(centre + e, amplitude, dose) - expected(centre - e, amplitude, dose)) / (2 * h) for e in h * np.eye(2)]
    return np.linalg.inv([[(a * b / rate).sum() for a in slopes] for b in slopes]).diagonal()


def many(dose, n=1500, seed=0, tilt=0.0):
    """n patterns of one disk each, their places and amplitudes, and starts as a correlation leaves them."""
    rng = np.random.default_rng(seed)
    places = np.array(SIZE) / 2 + rng.uniform(-2, 2, (n, 2))
    amplitudes = rng.uniform(0.2, 1.0, n)
    tilts = rng.normal(0, tilt / RADIUS, (n, 2))
    patterns = np.stack([expected(c, a, dose, t) for c, a, t in zip(places, amplitudes, tilts)])
    starts = places + rng.uniform(-0.15, 0.15, places.shape)
    return rng.poisson(patterns).astype("uint16"), places, amplitudes, starts


@pytest.fixture(scope="module")
def profile():
    return disk_profile(synthetic((64, 64), RADIUS, (31.7, 32.2), EDGE))


def fit(patterns, starts, profile, **options):
    n = len(patterns)
    one = np.ones(n, np.int64)
    found = poisson_fit(patterns, starts[:, :1], starts[:, 1:], one, profile.table, profile.pixels, **options)
    return found, np.stack([found.x[:, 0], found.y[:, 0]], -1)


@pytest.mark.parametrize("dose", [100, 2000])
def test_as_precise_as_the_counts_allow_and_honest_about_it(profile, dose):
    patterns, places, amplitudes, starts = many(dose)
    found, at = fit(patterns, starts, profile)
    assert found.ok.all()
    error = at - places
    least = np.mean([bound(c, a, dose) for c, a in list(zip(places, amplitudes))[:200]])
    assert np.sqrt((error**2).mean()) <= 1.10 * np.sqrt(least)
    score = error / np.sqrt(np.concatenate([found.xx, found.yy], -1))
    assert abs((np.abs(score) < 1).mean() - 0.683) < 0.05
    determinant = found.xx * found.yy - found.xy**2
    mahalanobis = (error[:, :1] ** 2 * found.yy - 2 * error[:, :1] * error[:, 1:] * found.xy + error[:, 1:] ** 2 * found.xx) / determinant
    assert abs(mahalanobis.mean() - 2) < 0.2, "two degrees of freedom: the covariance holds for both axes together"
    noise = error.std(0) / np.sqrt(len(error))
    assert (np.abs(error.mean(0)) < 3 * noise + 1e-3).all(), "biased by more than the background's curvature explains"
    # The middle of the disk is a little under its plateau where edges are soft, so amplitudes agree to a percent, not better.
    assert abs((found.amplitude[:, 0] / (dose * amplitudes)).mean() - 1) < 0.01


def test_background_slopes_are_no_shift(profile):
    patterns, places, _, starts = many(2000, 600, 1)
    x = np.arange(SIZE[0])[:, None] + np.zeros(SIZE)
    steep = np.random.default_rng(1).poisson(patterns + 12.0 * x).astype("uint16")
    bias = {p: abs((fit(steep, starts, profile, parameters=p)[1] - places).mean(0)[0]) for p in (4, 6)}
    assert bias[4] > 0.01 > 10 * bias[6]


def test_slopes_inside_the_disk_need_their_own_parameters(profile):
    patterns, places, _, starts = many(2000, 600, 2, tilt=0.1)
    rms = {p: np.sqrt(((fit(patterns, starts, profile, parameters=p)[1] - places) ** 2).mean()) for p in (6, 8)}
    assert rms[8] < 0.012 < 0.04 < rms[6]


def test_three_steps_are_enough(profile):
    patterns, _, _, starts = many(500, 200, 3)
    three, long = (fit(patterns, starts, profile, iterations=i) for i in (3, 12))
    assert np.abs(three[1] - long[1]).max() < 0.1 * np.sqrt(three[0].xx.min())


def test_strong_slopes_inside_settle_in_the_usual_steps(profile):
    """8 parameters take a step more than 6: in three, some of these disks would keep the place where a correlation leaves them."""
    rng = np.random.default_rng(6)
    places = np.array(SIZE) / 2 + rng.uniform(-2, 2, (300, 2))
    slopes = rng.choice([-0.6, 0.6], places.shape)
    patterns = rng.poisson([expected(c, 1.0, 3000, t) for c, t in zip(places, slopes / RADIUS)]).astype("uint16")
    starts = places + 0.8 * slopes  # what a radius of slope shifts a correlation by
    usual, by_hand, three, long = (fit(patterns, starts, profile, parameters=8, iterations=i) for i in (None, 4, 3, 12))
    np.testing.assert_array_equal(usual[1], by_hand[1])
    assert usual[0].ok.all() and long[0].ok.all() and not three[0].ok.all()
    assert np.abs(usual[1] - long[1]).max() < 0.3 * np.sqrt(long[0].xx.min())
    for parameters in (4, 6):
        np.testing.assert_array_equal(*(fit(patterns, places, profile, parameters=parameters, iterations=i)[1] for i in (None, 3)))


def test_a_start_too_far_is_given_back(profile):
    patterns, places, _, _ = many(300, 20, 4)
    starts = places + np.array([2.5, 0.0])
    found, at = fit(patterns, starts, profile, iterations=8)
    assert not found.ok.any()
    np.testing.assert_array_equal(at, starts)
    for part in (found.xx, found.yy, found.amplitude):
        assert np.isnan(part).all()


def test_what_holds_no_disk(profile):
    patterns, places, _, starts = many(300, 6, 5)
    patterns = patterns.astype("float32")
    patterns[0] = 0  # empty
    patterns[1, 20, 20] = np.nan
    patterns[2, 20, 20] = np.inf
    patterns[3, 0, 0] = np.nan  # outside the window
    starts[4] = (5.0, 20.0)  # the window leaves the detector
    found, at = fit(patterns, starts, profile)
    assert found.ok[:, 0].tolist() == [False, False, False, True, False, True]
    np.testing.assert_array_equal(at[[0, 1, 2, 4]], starts[[0, 1, 2, 4]])
    assert np.abs(at[[3, 5]] - places[[3, 5]]).max() < 0.1


def test_dead_pixels_have_no_say(profile):
    patterns, places, _, starts = many(2000, 100, 6)
    mask = np.ones(SIZE, bool)
    mask[18:24, 14] = mask[25, 18:22] = False
    broken = np.where(mask, patterns, 60000).astype("uint16")
    found, at = fit(broken, starts, profile, mask=mask)
    np.testing.assert_array_equal(at, fit(np.where(mask, patterns, 0).astype("uint16"), starts, profile, mask=mask)[1])
    assert found.ok.all() and np.sqrt(((at - places) ** 2).mean()) < 0.02
    assert (found.xx + found.yy > (lambda f: f.xx + f.yy)(fit(patterns, starts, profile)[0])).mean() > 0.95, "fewer pixels know less"


def test_the_profile_is_the_probe():
    counts = np.random.default_rng(0).poisson(5e4 * synthetic((64, 61), 7.3, (30.4, 29.8), 1.5))
    found = disk_profile(counts)
    middle = found.table[8, 8, 0]  # no sub-pixel shift
    r = np.hypot(*found.pixels[:, :2].T)
    np.testing.assert_allclose(middle, 1 / (1 + np.exp(4 * (r - 7.3) / 1.5)), atol=0.02)
    corner = found.table[0, 16, 0]  # (-1/2, +1/2) px
    r = np.hypot(found.pixels[:, 0] + 0.5, found.pixels[:, 1] - 0.5)
    np.testing.assert_allclose(corner, 1 / (1 + np.exp(4 * (r - 7.3) / 1.5)), atol=0.02)
    assert found.pixels[0, 0] == -found.pixels[-1, 0], "rows in order, as the fit takes them"


@pytest.mark.parametrize("center", [(32.0, 32.0), (31.7, 32.2)])
def test_a_noisy_vacuum_image_and_one_of_few_radii_are_good_enough(center):
    """Without noise in the patterns, what is left is the template's fault."""
    places = np.array(SIZE) / 2 + np.random.default_rng(1).uniform(-2, 2, (200, 2))
    patterns = np.stack([1000 * (0.05 + disk(c)) for c in places])
    for counts, worst in ((1e6, 5e-4), (1000, 3e-3)):
        vacuum = np.random.default_rng(2).poisson(counts * synthetic((64, 64), RADIUS, center, EDGE))
        at = fit(patterns, places + 0.1, disk_profile(vacuum), iterations=5)[1]
        assert np.sqrt(((at - places) ** 2).mean()) < worst


def test_rings_inside_the_disk_are_part_of_the_profile():
    def probe(shape, c):
        rings = sum(s * synthetic(shape, r, c, 1.0) for s, r in ((1.0, 9.0), (-0.9, 7.0), (0.9, 5.0), (-0.9, 3.0)))
        return rings + 0.0

    places = np.array(SIZE) / 2 + np.random.default_rng(1).uniform(-2, 2, (200, 2))
    patterns = np.stack([1000 * (0.05 + probe(SIZE, c)) for c in places])
    found, at = fit(patterns, places + 0.1, disk_profile(probe((64, 64), (31.7, 32.2))), iterations=5)
    assert found.ok.all() and np.sqrt(((at - places) ** 2).mean()) < 2e-3


def test_profiles_of_templates():
    probe = synthetic((64, 64), 5.0)
    whole = disk_profile(probe)
    np.testing.assert_array_equal(disk_profile(template(3000 * probe)).pixels, whole.pixels)
    np.testing.assert_allclose(disk_profile(template(3000 * probe)).table, whole.table, atol=1e-5)
    kernel = Template.from_kernel(np.roll(probe, (-32, -32), (0, 1)))
    assert abs(disk_profile(kernel).radius - 5.0) < 0.1


def test_what_has_no_radial_profile():
    square = np.zeros((64, 64))
    square[20:44, 26:38] = 100.0
    with pytest.raises(InputError, match="round probe"):
        disk_profile(square)
    with pytest.raises(InputError, match="one image"):
        disk_profile(np.ones((3, 64, 64)))
    with pytest.raises(InputError, match="must hold the disk"):
        disk_profile(synthetic((64, 64), 6.0), reach=3.0)


@pytest.mark.parametrize("kind", ["definition", "cpu"])
def test_unknown_numbers_of_parameters(profile, kind):
    one = np.ones((1, 1))
    for wrong in ({"parameters": 5}, {"iterations": 0}):
        with gpu4d.using(kind), pytest.raises(InputError, match="{}={}".format(*next(iter(wrong.items())))):
            poisson_fit(np.ones((1, 30, 30)), 15 * one, 15 * one, np.asarray([1]), profile.table, profile.pixels, **wrong)


def errors_of(disks, truth):
    """Errors (n, 2) of found disks, and the same over their standard errors."""
    error, score = [], []
    for found, places in zip(disks, truth.reshape(-1, *truth.shape[-2:])):
        at = np.stack([found.qx, found.qy], -1)
        nearest = np.hypot(*(at[:, None] - places[None]).transpose(2, 0, 1)).argmin(1)
        error.append(at - places[nearest])
        score.append(error[-1] / np.stack([found.sx, found.sy], -1))
    return np.concatenate(error), np.concatenate(score)


@pytest.fixture(scope="module")
def scan():
    return gpu4d.simulate.bragg_scan((8, 8), (128, 128), dose=300.0, seed=3)


def test_disks_of_a_scan_are_more_precise_than_by_correlation(scan):
    found = {r: gpu4d.find_bragg_disks(scan.cube, scan.probe, refine=r, progress=False) for r in ("correlation", "likelihood")}
    rms = {r: np.sqrt((errors_of(d, scan.truth["positions"])[0] ** 2).mean()) for r, d in found.items()}
    assert rms["likelihood"] < 0.85 * rms["correlation"]
    score = errors_of(found["likelihood"], scan.truth["positions"])[1]
    assert abs((np.abs(score) < 1).mean() - 0.683) < 0.05
    np.testing.assert_array_equal(found["likelihood"].counts, found["correlation"].counts)
    np.testing.assert_array_equal(found["likelihood"].flat("intensity"), found["correlation"].flat("intensity"))


def test_crowded_disks_are_fitted_together_and_disks_at_the_border_keep_the_correlation():
    probe = synthetic((64, 64), 5.0)
    centres = ((20.3, 20.1), (20.2, 32.4), (45.4, 46.2), (30.0, 57.7))  # two near each other, one alone, one at the border
    pattern = np.random.default_rng(0).poisson(3 + 400 * sum(synthetic((64, 64), 5.0, c) for c in centres))[None].astype("uint16")
    both = [gpu4d.find_bragg_disks(pattern, probe, refine=r)[0] for r in ("correlation", "likelihood")]
    assert len(both[0].qx) == 4
    border = np.hypot(both[0].qx - 30.0, both[0].qy - 57.7) < 1
    np.testing.assert_array_equal(both[0].qx == both[1].qx, border)
    np.testing.assert_array_equal(both[0].sx == both[1].sx, border)
    for x, y in centres[:2]:
        k = int(np.hypot(both[1].qx - x, both[1].qy - y).argmin())
        assert abs(both[1].qx[k] - x) < 4 * both[1].sx[k] and abs(both[1].qy[k] - y) < 4 * both[1].sy[k]


def test_the_definition_in_batches_gives_the_same_disks(scan):
    frames = np.stack([np.asarray(scan.cube[i // 8, i % 8])[20:108, 22:106] for i in range(3)])
    probe = scan.probe[20:108, 22:106]
    twin = gpu4d.find_bragg_disks(frames, probe, refine="likelihood", max_peaks=24)
    with gpu4d.using("definition"):
        slow = gpu4d.find_bragg_disks(frames, probe, refine="likelihood", max_peaks=24)
    for field in ("qx", "qy", "sx"):
        np.testing.assert_allclose(twin.flat(field), slow.flat(field), rtol=1e-2 if field == "sx" else 1e-5)


def test_kernels_from_detection_to_the_fit():
    """All of it through CUDA kernels, on the host shim."""
    probe = synthetic((48, 45), 4.0)
    mean = 2 + 300 * sum(synthetic((48, 45), 4.0, c) for c in ((15.3, 14.8), (32.6, 30.2)))
    frames = np.random.default_rng(0).poisson(mean, (2, 48, 45)).astype("uint16")
    host = HostBackend(seed=7)
    with using_backend(host), gpu4d.using("cuda"):
        found = gpu4d.find_bragg_disks(frames, probe, refine="likelihood", max_peaks=8)
    assert "fit_6_u16" in [name for name, *_ in host.launched]
    twin = gpu4d.find_bragg_disks(frames, probe, refine="likelihood", max_peaks=8)
    assert found.counts.tolist() == twin.counts.tolist() == [2, 2]
    for field, tolerance in (("qx", 1e-5), ("qy", 1e-5), ("sx", 1e-3), ("sy", 1e-3)):
        np.testing.assert_allclose(found.flat(field), twin.flat(field), rtol=tolerance)


def test_strain_of_multislice_gold(shared_data):
    """Disks whose inside is no plateau: the fit still beats the correlation. rms against the simulator's truth, relative to the border."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        patterns, probe = file["poisson_1e5"][:], file["truth/vacuum_probe"][:]
        border, expected_exx = file["truth/state_index"][:] == 0, file["truth/eyy"][:]  # there x is the column
    rms = {}
    for refine in ("correlation", "likelihood"):
        disks = gpu4d.find_bragg_disks(patterns, probe, refine=refine)
        origin = gpu4d.calibrate.origin(disks)
        fitted = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)
        error = gpu4d.strain_map(fitted, region=border).exx.data - expected_exx
        rms[refine] = np.sqrt(np.mean((error - np.median(error[border])) ** 2))
    assert rms["likelihood"] < 3.5e-4 and rms["likelihood"] < 0.9 * rms["correlation"]


def test_likelihood_needs_a_round_probe_and_known_parameters():
    square = np.zeros((64, 64))
    square[20:44, 26:38] = 100.0
    with pytest.raises(InputError, match="use refine='correlation'"):
        gpu4d.BraggDisks(square, refine="likelihood")
    with pytest.raises(InputError, match="parameters=7"):
        gpu4d.BraggDisks(synthetic((64, 64), 5.0), refine="likelihood", parameters=7)


def on_host(host, *args, **options):
    with using_backend(host), gpu4d.using("cuda"):
        return poisson_fit(*args, **options)


BREAKS = {
    "barrier behind the sums": (
        "  __syncwarp();\n  UNROLL for (int k = 0; k < COUNT; k++) v[k] = slot[k];",
        "  UNROLL for (int k = 0; k < COUNT; k++) v[k] = slot[k];",
    ),
    "window bound": ("x >= half && y >= half && x + half < nx && y + half < ny", "true"),
    "end of the list": ("disk - pattern * most < count[pattern]", "true"),
    "end of the window": (
        "for (int i = lane; i < m; i += 32) {\n      const int ix",
        "for (int i = lane; i < m - 31; i += 32) {\n      const int ix",
    ),
}


VARIANTS = [(kind, parameters) for kind in ("u8", "u16", "u32", "f32") for parameters in (4, 6, 8)]


@pytest.mark.parametrize(("kind", "parameters"), VARIANTS)
def test_only_the_kernel_that_runs_is_compiled(profile, kind, parameters):
    """The defines that the launcher gives leave one kernel of the file, and it is the one that is launched."""
    asked = []

    class Host(HostBackend):
        def function(self, file, name, defines):
            asked.append((name, kernel_names(inlined(file), tuple(f"-D{d}" for d in defines))))
            return super().function(file, name, defines)

    patterns = np.zeros((1, *SIZE), {"u8": "uint8", "u16": "uint16", "u32": "uint32", "f32": "float32"}[kind])
    starts = np.full((1, 1), 20.0)
    on_host(Host(), patterns, starts, starts, np.ones(1, int), profile.table, profile.pixels, parameters=parameters)
    assert asked == [(f"fit_{parameters}_{kind}", (f"fit_{parameters}_{kind}",))]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "parameters"), VARIANTS)
def test_every_kernel_compiled_alone_keeps_its_budget(need, kind, parameters):
    need("cuda.bindings.nvrtc")
    name = f"fit_{parameters}_{kind}"
    usage = usage_for(inlined("poisson_fit.cu"), "poisson_fit.cu", "sm_90", (f"-DPIXEL={kind}", f"-DPARAMETERS={parameters}"))
    assert set(usage) == {name}
    registers, shared = budget("poisson_fit.cu", name)
    used = usage[name]
    assert used.spilled == used.stack == 0 and used.registers <= registers and used.shared <= shared, used


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(profile, what):
    sources = broken_copy("poisson_fit.cu", BREAKS[what])
    patterns, _, _, starts = many(300, 3, 8)
    starts[1] = (7.0, 20.0)  # there is a disk, but its window leaves the detector
    patterns[1] = expected((7.1, 20.2), 1.0, 300)
    x, y = (np.stack([s, s + 0.1], -1) for s in starts.T)
    call = (patterns, x, y, np.ones(3, int), profile.table, profile.pixels)
    good = on_host(HostBackend(), *call)
    different = 0
    for seed in (0, 1, 2, 7):
        try:
            found = on_host(HostBackend(seed=seed, sources=sources), *call)
        except RuntimeError:  # a warp that is no longer in step waits for lanes that never come
            different += 1
            continue
        different += any(not np.allclose(a, b, atol=1e-5, equal_nan=True) for a, b in zip(found, good))
    assert different, f"without the {what} all answers are right"


def test_scans_of_more_than_two_thousand_million_pixels(profile):
    """The last pattern is read from beyond 2³¹ elements: offsets have 64 bits."""
    one, places, _, starts = many(300, 1, 9)
    n = 2**31 // (SIZE[0] * SIZE[1]) + 2
    try:
        patterns = np.zeros((n, *SIZE), np.uint8)  # pages that nobody touches take no memory
    except MemoryError:
        pytest.skip("this machine does not promise 2 GB")
    patterns[-1] = np.minimum(one[0], 255)
    count = np.zeros(n, np.int32)
    count[-1] = 1
    x = np.broadcast_to(starts[0, 0], (n, 1))
    y = np.broadcast_to(starts[0, 1], (n, 1))
    found = on_host(HostBackend(), patterns, x, y, count, profile.table, profile.pixels)
    assert found.ok[-1, 0] and not found.ok[:-1].any() and np.isnan(found.x[:-1]).all()
    assert abs(found.x[-1, 0] - places[0, 0]) < 0.1 and abs(found.y[-1, 0] - places[0, 1]) < 0.1
