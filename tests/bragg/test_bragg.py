"""Bragg disks: the twin against the definition, the definition against physics and against other ways to compute it."""

import importlib
import importlib.util

import disk_options
import numpy as np
import pytest
from gpu4d.cpu_fallback.find_disks import _box as twin_window

import gpu4d
from gpu4d.bragg import explain_disks
from gpu4d.bragg.explain import REASONS
from gpu4d.bragg.find_disks import PeakLimits, Refinement, fill_masked, find_disks, local_maxima
from gpu4d.bragg.template_transforms import template_moments
from gpu4d.errors import InputError
from gpu4d.probe import Template, synthetic, template


def scene(shape=(64, 64), n=4, seed=0, dose=200.0, radius=5.0, spots=6, edge=1.0, apart=3.0):
    """Poisson patterns with disks at known places, `apart` radii from each other and two from the border."""
    rng = np.random.default_rng(seed)
    patterns, places = [], []
    for _ in range(n):
        centers = []
        while len(centers) < spots:
            c = rng.uniform(2 * radius, np.array(shape) - 2 * radius - 1)
            if all(np.hypot(*(c - d)) > apart * radius for d in centers):
                centers.append(c)
        mean = 0.02 + sum(a * synthetic(shape, radius, tuple(c), edge) for a, c in zip(rng.uniform(0.3, 1, spots), centers))
        patterns.append(rng.poisson(dose * mean))
        places.append(centers)
    return np.array(patterns).astype("uint16"), np.array(places)


def operands(probe, edge=5, mask=None):
    return disk_options.operands(template(probe), edge, mask)


def matched(disks, truth, within=2.0):
    """Errors (n, 2) of found disks, and how many were missed and invented."""
    errors, missed, false = [], 0, 0
    for found, places in zip(disks, truth):
        p = np.stack([found.qx, found.qy], -1)
        d = np.hypot(*np.moveaxis(p[:, None] - places[None], -1, 0))
        near = d.min(0, initial=np.inf) < within
        errors.append((p[d.argmin(0)] - places)[near] if len(p) else np.zeros((0, 2)))
        missed, false = missed + int((~near).sum()), false + int((d.min(1, initial=np.inf) > within).sum())
    return np.concatenate(errors), missed, false


SHAPES = [(64, 64), (63, 65), (48, 72), (65, 48)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("refine", ["correlation", "upsample", "parabola", None])
@pytest.mark.parametrize("powers", [(0.85, 1.0), (1.0, 1.0), (0.85, 0.85), (0.7, 0.9)])
def test_twin_equals_definition(shape, refine, powers):
    patterns, _ = scene(shape, n=5, spots=4)
    patterns[2] = 0
    options = {"refinement": Refinement(refine, *powers), "limits": PeakLimits(min_spacing=6.0, max_peaks=9)}
    args = (patterns, *operands(synthetic(shape, 5.0, (shape[0] / 2 + 0.3, shape[1] / 2 - 0.2))))
    with gpu4d.using("definition"):
        want = find_disks(*args, **options)
    with gpu4d.using("cpu"):
        got = find_disks(*args, **options)
    np.testing.assert_array_equal(got.count, want.count)
    assert want.count.tolist()[2] == 0 and want.count.sum() >= 16
    for name in ("qx", "qy"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-3, err_msg=name)
    np.testing.assert_allclose(got.intensity, want.intensity, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(got.sx, want.sx, rtol=5e-3)
    np.testing.assert_allclose(got.sy, want.sy, rtol=5e-3)
    assert np.isfinite(want.sx[0, 0]) == (powers[1] == 1.0)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_every_dtype_gives_the_same_disks(dtype):
    patterns, _ = scene(dose=100.0)
    probe = synthetic((64, 64), 5.0)
    want, got = (gpu4d.find_bragg_disks(p, probe, refine="correlation") for p in (patterns, patterns.astype(dtype)))
    np.testing.assert_array_equal(got.flat("qx"), want.flat("qx"))
    np.testing.assert_array_equal(got.counts, want.counts)


def test_auto_fits_counts_of_a_round_probe_and_says_so(caplog):
    patterns, _ = scene(n=2, apart=4.5, spots=3)
    probe = synthetic((64, 64), 5.0)
    by = {r: gpu4d.find_bragg_disks(patterns, probe, refine=r) for r in ("correlation", "likelihood")}
    assert (by["correlation"].flat("qx") != by["likelihood"].flat("qx")).any()

    def is_like(which, patterns, template, **options):
        with caplog.at_level("INFO", logger="gpu4d"):
            caplog.clear()
            found = gpu4d.find_bragg_disks(patterns, template, **options)
        np.testing.assert_array_equal(found.flat("qx"), by[which].flat("qx"))
        assert [m for m in caplog.messages if m.startswith(f"refine='auto' is '{which}'")], caplog.messages

    is_like("likelihood", patterns, probe)
    is_like("likelihood", gpu4d.DataCube(patterns[None]), template(probe), progress=False)
    is_like("correlation", patterns.astype("float32"), probe)
    kernel = template(probe)
    by["correlation"] = gpu4d.find_bragg_disks(patterns, kernel, refine_power=0.9, refine="correlation")
    is_like("correlation", patterns, kernel, refine_power=0.9)
    ready = Template.from_kernel(kernel.kernel)
    by["correlation"] = gpu4d.find_bragg_disks(patterns, ready, refine="correlation")
    is_like("correlation", patterns, ready)
    square = np.zeros((64, 64))
    square[26:38, 29:35] = 1.0
    long = template(square, center=(31.5, 31.5), radius=5.0)
    by["correlation"] = gpu4d.find_bragg_disks(patterns, long, refine="correlation")
    is_like("correlation", patterns, long)


def uneven(shape, center, *, stretch=0.0, slope=0.0, square=False, edge=1.0):
    """A probe of radius 6 that is an ellipse, slopes inside, or is a square."""
    x, y = np.arange(shape[0])[:, None] - center[0], np.arange(shape[1])[None, :] - center[1]
    r = np.hypot(x / (1 + stretch), y * (1 + stretch))
    distance = np.maximum(np.abs(x), np.abs(y)) - 5.3 if square else r - 6.0
    return np.clip(1 + slope * x / 6.0, 0, None) / (1 + np.exp(np.clip(4 * distance / edge, -50, 50)))


@pytest.mark.parametrize(
    "form, which, reason",
    [
        ({}, "likelihood", "round probe"),
        ({"stretch": 0.01}, "likelihood", "round probe"),
        ({"stretch": 0.06}, "likelihood", "not round"),
        ({"square": True}, "likelihood", "not round"),
        ({"slope": 0.2}, "likelihood", "not even"),
        ({"square": True, "edge": 0.5}, "correlation", "between the pixels"),
        ({"square": True, "edge": 0.05}, "correlation", "pixels"),
    ],
)
@pytest.mark.parametrize("counts", [None, 1000])
def test_auto_is_the_likelihood_where_the_vacuum_image_tells_the_form_of_the_probe(form, which, reason, counts):
    image = 1e4 * uneven((64, 64), (31.7, 32.2), **form)
    probe = image if counts is None else np.random.default_rng(3).poisson(counts / 1e4 * image)
    reduction = gpu4d.BraggDisks(probe)
    reduction.prepare(np.dtype("uint16"))
    assert reduction.refinement == which and reason in reduction.reason


@pytest.mark.parametrize("counts", [10, 30, 300])
def test_noise_of_the_vacuum_image_is_no_unevenness(counts):
    rng = np.random.default_rng(1)
    for radius in (3.5, 6.0, 11.0):
        for _ in range(3):
            reduction = gpu4d.BraggDisks(rng.poisson(counts * synthetic((80, 80), radius, (39.7, 40.2))))
            reduction.prepare(np.dtype("bool"))
            assert reduction.refinement == "likelihood", reduction.reason


@pytest.mark.parametrize("probe_center", [None, (34.0, 31.0)])
def test_likelihood_and_correlation_have_one_zero_point(probe_center):
    """Patterns mix both: disks at the border keep the correlation. A slope inside the probe moves the fit by 0.1 px, and a template
    may call any pixel its centre."""
    given = template(1e4 * uneven((64, 64), (32.0, 32.0), slope=0.2), center=probe_center, radius=6.0 if probe_center else None)
    rng = np.random.default_rng(0)
    centers = rng.uniform(29, 35, (60, 2))
    counts = rng.poisson([2000 * (uneven((64, 64), c, slope=0.2) + 0.03) for c in centers]).astype("uint16")
    error = {}
    for refine in ("correlation", "likelihood"):
        found = gpu4d.find_bragg_disks(counts, given, refine=refine, max_peaks=1, edge=4)
        error[refine] = np.stack([found.flat("qx"), found.flat("qy")], -1) - centers - ((2, -1) if probe_center else (0, 0))
    assert (error["likelihood"] != error["correlation"]).all()
    assert np.abs(error["likelihood"].mean(0) - error["correlation"].mean(0)).max() < 0.006
    assert np.abs(error["likelihood"].mean(0)).max() < (0.02 if probe_center else 0.008)  # a trench off the disk pulls


def test_a_vacuum_image_of_hardly_any_counts_says_so():
    with pytest.raises(InputError, match="hardly any counts"):
        template(np.random.default_rng(0).poisson(0.05 * synthetic((96, 96), 6.0)))


def test_one_reduction_serves_scans_of_several_kinds():
    patterns, _ = scene(n=2, apart=4.5, spots=3)
    reduction = gpu4d.BraggDisks(synthetic((64, 64), 5.0))
    for kind, which in (("uint16", "likelihood"), ("float32", "correlation"), ("int32", "likelihood")):
        found = gpu4d.sweep(gpu4d.DataCube(patterns[None].astype(kind)), reduction)
        assert reduction.refinement == which
        want = gpu4d.find_bragg_disks(patterns.astype(kind), synthetic((64, 64), 5.0), refine=which)
        np.testing.assert_array_equal(found.flat("qx"), want.flat("qx"))


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 9])
def test_block_boundaries(n):
    patterns, _ = scene(n=9)
    probe = synthetic((64, 64), 5.0)
    whole = gpu4d.find_bragg_disks(patterns, probe)
    part = gpu4d.find_bragg_disks(patterns[:n], probe)
    assert part.shape == (n,)
    np.testing.assert_array_equal(part.flat("qx"), whole.flat("qx")[: len(part)])


def test_threads_share_an_array_and_change_nothing(monkeypatch):
    patterns, _ = scene(n=9)
    many, probe = np.concatenate([patterns] * 12), synthetic((64, 64), 5.0)
    found = {}
    for threads in ("1", "3"):
        monkeypatch.setenv("GPU4D_THREADS", threads)
        found[threads] = gpu4d.find_bragg_disks(many.reshape(4, 27, 64, 64), probe)
    assert found["3"].shape == (4, 27)
    for name in ("qx", "qy", "intensity", "sx", "sy"):
        np.testing.assert_array_equal(found["1"].flat(name), found["3"].flat(name))


def test_noise_free_disk_is_found_where_it_is():
    """A disk moved by part pixels: the exact maximum is the disk's place, for every fraction; other refinements come near."""
    rng = np.random.default_rng(1)
    centers = rng.uniform(25, 38, (20, 2))
    patterns = np.array([1000 * synthetic((64, 64), 6.0, tuple(c), edge=3.0) for c in centers])
    probe = synthetic((64, 64), 6.0, (31.4, 32.3), edge=3.0)
    for refine, limit in (("correlation", 2e-3), ("upsample", 6e-3), ("parabola", 0.05), (None, 0.5001)):
        disks = gpu4d.find_bragg_disks(patterns, probe, refine=refine, min_spacing=20)
        errors, missed, false = matched(disks, centers[:, None])
        assert missed == false == 0 and np.abs(errors).max() < limit, refine


def test_maximum_is_that_of_the_interpolation():
    """Refined positions against a dense Fourier upsampling of the map around each peak."""
    patterns, _ = scene(n=1, spots=3)
    t = template(synthetic((64, 64), 5.0))
    disks = gpu4d.find_bragg_disks(patterns, t, refine="correlation")
    c = gpu4d.hybrid_correlation(patterns, t, power=1.0)[0]
    k = np.fft.fftfreq(64)
    spectrum = np.fft.fft2(c) / 64**2
    for x, y in zip(disks[0].qx, disks[0].qy):
        grid = np.arange(-20, 21) * 1e-3
        rows, columns = (np.exp(2j * np.pi * np.outer(v + grid, k)) for v in (x, y))
        fine = (rows @ spectrum @ columns.T).real
        i, j = np.unravel_index(fine.argmax(), fine.shape)
        assert abs(grid[i]) <= 1e-3 and abs(grid[j]) <= 1e-3


@pytest.mark.parametrize("refine", ["correlation", "likelihood"])
def test_standard_errors_are_honest(refine):
    """68 % of the errors inside one reported sigma, where noise is all there is: no disk in another's trench."""
    patterns, places = scene((96, 96), n=200, seed=4, dose=60.0, radius=4.0, spots=6, apart=4.6)
    disks = gpu4d.find_bragg_disks(patterns, synthetic((96, 96), 4.0), refine=refine)
    inside = []
    for found, truth in zip(disks, places):
        for c in truth:
            d = np.hypot(found.qx - c[0], found.qy - c[1])
            i = d.argmin()
            if d[i] < 2:
                inside += [abs(found.qx[i] - c[0]) < found.sx[i], abs(found.qy[i] - c[1]) < found.sy[i]]
    assert len(inside) > 2300 and abs(np.mean(inside) - 0.683) < 0.03


def test_local_maxima_break_ties_once():
    """A plateau of two equal pixels is one maximum; the neighbours that must be exceeded are those named in PEERS."""
    flat = np.zeros((1, 8, 8))
    flat[0, 3, 3] = flat[0, 3, 4] = 1.0
    assert np.argwhere(local_maxima(flat)[0]).tolist() == [[3, 3]]
    flat[0, 3, 4], flat[0, 4, 3] = 0, 1.0
    assert np.argwhere(local_maxima(flat)[0]).tolist() == [[3, 3]], "of two equal neighbours, the one with the lower index"


def test_template_has_zero_total_and_right_centre():
    for kind in ("sigmoid", "gaussian", "logistic"):
        t = template(synthetic((64, 64), 6.0, (30.3, 33.8)), kind)
        assert abs(t.kernel.sum()) < 1e-12 and abs(t.radius - 6.0) < 0.02
        np.testing.assert_allclose(t.offset, (0.3, -0.2), atol=2e-3)
        assert t.kernel[0, 0] > 0 > t.kernel[int(2 * t.radius), 0]
    assert template(synthetic((64, 64), 6.0), "flat").kernel.sum() == pytest.approx(1.0)


def test_flat_background_correlates_to_nothing():
    t = template(synthetic((64, 64), 6.0))
    assert np.abs(gpu4d.hybrid_correlation(np.full((64, 64), 700.0), t, power=1.0)).max() < 1e-9


def test_height_is_counts_per_pixel():
    t = template(synthetic((96, 96), 6.0))
    disk = 250 * synthetic((96, 96), 6.0, (40.0, 52.0)) + 30
    found = gpu4d.find_bragg_disks(disk[None], t)[0]
    weight = (t.kernel * np.roll(synthetic((96, 96), 6.0), (-48, -48), (0, 1))).sum()
    assert found.intensity[0] == pytest.approx(250 * weight, rel=1e-4)


def test_significance_is_in_standard_deviations():
    """On pure Poisson noise the n = 1 map over its predicted noise has unit variance."""
    from gpu4d.bragg.find_disks import correlation_maps, significance

    noise = np.random.default_rng(0).poisson(20.0, (20, 64, 64)).astype(float)
    s, m, _ = operands(synthetic((64, 64), 5.0))
    z = significance(correlation_maps(noise, s, m, None, 0.0, 1.0, 1.0))
    assert z.std() == pytest.approx(1.0, abs=0.03) and abs(z.mean()) < 0.02


@pytest.mark.parametrize("refine", ["correlation", "likelihood"])
def test_empty_nan_and_negative_patterns_have_no_disks(refine):
    patterns, _ = scene(n=4)
    bad = patterns.astype("float32")
    bad[0], bad[1, 3, 3], bad[2] = 0, np.nan, -1.0
    disks = gpu4d.find_bragg_disks(bad, synthetic((64, 64), 5.0), refine=refine)
    good = gpu4d.find_bragg_disks(patterns, synthetic((64, 64), 5.0), refine=refine)
    assert disks.counts.tolist()[:3] == [0, 0, 0]
    np.testing.assert_array_equal(disks[3].qx, good[3].qx)


def test_thresholds_spacing_edge_and_count():
    patterns, _ = scene((96, 96), n=1, spots=6, dose=500)
    probe = synthetic((96, 96), 5.0)
    every = gpu4d.find_bragg_disks(patterns, probe)[0]
    assert len(every) == 6
    three = gpu4d.find_bragg_disks(patterns, probe, max_peaks=3)[0]
    np.testing.assert_array_equal(three.qx, every.qx[:3])
    candidates = explain_disks(patterns[0], probe)
    heights = candidates.intensity[candidates.reason == "accepted"]
    two = gpu4d.find_bragg_disks(patterns, probe, min_absolute_intensity=(heights[1] + heights[2]) / 2)[0]
    np.testing.assert_array_equal(two.qx, every.qx[:2])
    four = gpu4d.find_bragg_disks(patterns, probe, min_relative_intensity=(heights[3] + heights[4]) / 2 / heights[0])[0]
    np.testing.assert_array_equal(four.qx, every.qx[:4])
    assert len(gpu4d.find_bragg_disks(patterns, probe, min_spacing=200)[0]) == 1
    border = np.minimum.reduce([every.qx, every.qy, 95 - every.qx, 95 - every.qy])
    limit = float(np.sort(border)[2]) + 1
    assert len(gpu4d.find_bragg_disks(patterns, probe, edge=limit)[0]) == (np.rint(border) >= np.ceil(limit)).sum() < 6


@pytest.mark.parametrize("least", [-3.0, -0.5, 0.5])
def test_negative_significance_means_the_same_everywhere(least):
    patterns, _ = scene(n=3, dose=20)
    patterns[1] = patterns[1] * (np.arange(64) > 40)  # a part without any counts
    options = {"min_significance": least, "max_peaks": 300, "min_spacing": 1.0, "refine": None}
    got = gpu4d.find_bragg_disks(patterns, synthetic((64, 64), 5.0), **options)
    with gpu4d.using("definition"):
        want = gpu4d.find_bragg_disks(patterns, synthetic((64, 64), 5.0), **options)
    np.testing.assert_array_equal(got.counts, want.counts)
    np.testing.assert_array_equal(got.flat("qx"), want.flat("qx"))


def test_no_significance_asked_is_still_no_negative_disk():
    """min_significance=0: maxima of the hybrid map where the n = 1 map is negative are no disks, in the twin as in the definition."""
    patterns, _ = scene(n=2, dose=20)
    options = {"min_significance": 0.0, "max_peaks": 200, "min_spacing": 1.0, "refine": None}
    got = gpu4d.find_bragg_disks(patterns, synthetic((64, 64), 5.0), **options)
    with gpu4d.using("definition"):
        want = gpu4d.find_bragg_disks(patterns, synthetic((64, 64), 5.0), **options)
    assert want.counts.min() > 5
    np.testing.assert_array_equal(got.counts, want.counts)
    np.testing.assert_array_equal(got.flat("qx"), want.flat("qx"))


def test_reasons_agree_with_the_disks():
    patterns, _ = scene(n=2, dose=50)
    probe = synthetic((64, 64), 5.0)
    for pattern in patterns:
        options = {"max_peaks": 4}
        found = gpu4d.find_bragg_disks(pattern[None], probe, **options)[0]
        c = explain_disks(pattern, probe, **options)
        assert set(c.reason) <= set(REASONS) and {"edge", "insignificant", "beyond max_peaks"} <= set(c.reason)
        np.testing.assert_allclose(c.qx[c.reason == "accepted"], found.qx, atol=1e-3)
        assert (c.significance[c.reason == "accepted"] >= 5).all()


def test_masked_pixels_do_not_move_disks():
    """A beam stop with nonsense under it: disks away from it are found where they are without it, and none on it."""
    patterns, places = scene((96, 96), n=6, seed=7, dose=300)
    probe = synthetic((96, 96), 5.0)
    mask = np.ones((96, 96), bool)
    mask[44:52, :50] = False
    wild = patterns.copy()
    wild[:, ~mask] = 50000
    cube = gpu4d.DataCube(wild[None], detector_mask=mask)
    disks = gpu4d.find_bragg_disks(cube, probe)
    for i, truth in enumerate(places):
        found = np.stack([disks[0, i].qx, disks[0, i].qy], -1)
        assert np.isfinite(found).all()
        covered = [mask[int(x), int(y)] and synthetic((96, 96), 5.0, (x, y))[~mask].sum() < 1 for x, y in truth]
        for c in truth[np.array(covered)]:
            assert np.hypot(*(found - c).T).min() < 0.25
        for x, y in found:
            assert not (46 <= x < 50 and y < 45), "no disk is invented on the beam stop"


def test_fill_masked_keeps_valid_pixels_and_smooth_surroundings():
    ramp = np.add.outer(np.arange(32.0), np.arange(32.0))
    mask = np.ones((32, 32), bool)
    mask[14:17, 14:17] = False
    filled = fill_masked(np.where(mask, ramp, 1e9)[None], mask, 2.0)[0]
    np.testing.assert_array_equal(filled[mask], ramp[mask])
    np.testing.assert_allclose(filled[15, 15], ramp[15, 15], rtol=1e-6)


def test_positions_of_a_cube():
    patterns, _ = scene(n=6)
    cube = gpu4d.DataCube(patterns.reshape(2, 3, 64, 64))
    probe = synthetic((64, 64), 5.0)
    whole = gpu4d.find_bragg_disks(cube, probe)
    some = gpu4d.find_bragg_disks(cube, probe, positions=[(1, 2), (0, 0)])
    assert whole.shape == (2, 3) and some.shape == (2,)
    np.testing.assert_array_equal(some[0].qx, whole[1, 2].qx)
    np.testing.assert_array_equal(some[1].qx, whole[0, 0].qx)


def test_bad_input_says_what_to_do():
    patterns, _ = scene(n=1)
    probe = synthetic((64, 64), 5.0)
    with pytest.raises(InputError, match=r"template is \(64, 64\), the patterns are \(64, 63\)"):
        gpu4d.find_bragg_disks(patterns[..., :63], probe)
    with pytest.raises(InputError, match=r"template is \(64, 64\)"):
        gpu4d.find_bragg_disks(gpu4d.DataCube(patterns[None, ..., :63]), probe)
    for options, text in (
        ({"power": 1.5}, "power=1.5"),
        ({"refine": "maximum"}, "refine='maximum'"),
        ({"upsample": 1}, "upsample=1"),
        ({"max_peaks": 0}, "max_peaks=0"),
        ({"min_significance": np.nan}, "min_significance=nan"),
        ({"min_spacing": np.nan}, "min_spacing=nan"),
        ({"edge": np.nan}, "edge=nan"),
        ({"edge": np.inf}, "edge=inf"),
    ):
        with pytest.raises(InputError, match=text):
            gpu4d.find_bragg_disks(patterns, probe, **options)
    with pytest.raises(InputError, match="NaN"):
        template(np.full((32, 32), np.nan))
    with pytest.raises(InputError, match="cut by a detector"):
        template(synthetic((64, 64), 6.0, (3.0, 32.0)), center=(3.0, 32.0), radius=6.0)
    with pytest.raises(InputError, match="no disk"):
        template(np.ones((32, 32)))


def test_ready_kernels_are_taken_as_they_are():
    kernel = np.roll(synthetic((64, 64), 5.0), (-32, -32), (0, 1))
    t = Template.from_kernel(kernel)
    assert t.radius == pytest.approx(5.0, abs=0.1) and t.offset == (0.0, 0.0)
    np.testing.assert_array_equal(t.kernel, kernel)


def test_moments_are_sums_over_the_disk():
    t = template(synthetic((64, 64), 5.0))
    moments = template_moments(t)
    f = np.fft.fft2(t.kernel)
    k = np.fft.fftfreq(64)[:, None]
    k = np.where(np.abs(k) == 0.5, 0, k)
    slope = np.fft.ifft2(2j * np.pi * k * f).real
    assert moments[1].sum() == pytest.approx((slope**2).sum(), rel=2e-3)
    assert moments[0].sum() == pytest.approx((t.kernel**2).sum(), rel=2e-3)


@pytest.mark.parametrize("shape", [(16, 16), (15, 16), (12, 9)])
def test_one_window_of_moments_for_kernels_that_fill_the_detector(shape):
    """Even sizes: row and column -n/2 have no partner, so the windows of twin and kernels cannot hold them; nor do the moments."""
    rng = np.random.default_rng(5)
    kernel = rng.normal(size=shape)
    t = Template.from_kernel(kernel - kernel.mean())
    moments = template_moments(t)
    for axis, n in enumerate(shape):
        assert n % 2 or not moments.take(n // 2, 1 + axis).any()
    assert moments[0].sum() == pytest.approx((t.kernel**2).sum())
    for centred in (twin_window, importlib.import_module("gpu4d.kernels.find_disks").centred_box):
        assert centred(moments)[0].sum() == pytest.approx(moments[0].sum())
    options = {"refine": "correlation", "min_significance": 2.0, "edge": 1, "min_spacing": 1.0}
    counts = rng.poisson(20, (20, *shape)).astype("uint16")
    got = gpu4d.find_bragg_disks(counts, t, **options)
    with gpu4d.using("definition"):
        want = gpu4d.find_bragg_disks(counts, t, **options)
    assert want.counts.sum() > 20
    np.testing.assert_array_equal(got.counts, want.counts)
    assert np.nanmedian(np.abs(got.flat("sx") / want.flat("sx") - 1)) < 1e-3


def test_vector_map_keeps_counts_and_places():
    patterns, _ = scene(n=6)
    disks = gpu4d.find_bragg_disks(patterns, synthetic((64, 64), 5.0))
    raw = np.asarray(gpu4d.bragg_vector_map(disks, (64, 64)))
    assert raw.sum() == pytest.approx(disks.flat("intensity").sum())
    one = gpu4d.data.PointListArray(
        np.array([0, 1]), {"qx": np.array([20.25]), "qy": np.array([31.5]), "intensity": np.array([8.0])}, (1, 1)
    )
    fine = np.asarray(gpu4d.bragg_vector_map(one, (64, 64), upsample=4, origin=(30.0, 30.0)))
    x, y = np.indices(fine.shape)
    center = np.array([(fine * x).sum(), (fine * y).sum()]) / 8.0
    np.testing.assert_allclose((center - 1.5) / 4, np.array([20.25, 31.5]) - 30 + 32)


def peers_set(shared_data, seed):
    path = shared_data.parent / "prototypes" / "make_bragg_data.py"
    spec = importlib.util.spec_from_file_location("make_bragg_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make_bragg(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", [1, 2])
def test_figures_of_the_peers_set(shared_data, seed):
    """21 disks a pattern at 100 e/px: the bound is 0.0324 px per axis, py4DSTEM reaches 0.0405 (n = 1) and 0.0528 (0.85)."""
    data, probe, truth = peers_set(shared_data, seed)
    places = truth["pos"].reshape(-1, 21, 2)
    cube = gpu4d.DataCube(data)
    for options, limit in (({"refine": "correlation"}, 0.043), ({"refine_power": 0.85}, 0.054)):
        errors, missed, false = matched(gpu4d.find_bragg_disks(cube, probe, **options), places)
        assert false == 0 and missed <= 1e-3 * places.shape[0] * 21
        assert np.sqrt((errors**2).mean()) <= limit
        assert np.abs(errors.mean(0)).max() < 2e-3


def test_positions_and_strain_of_the_benchmark_are_near_their_bounds():
    """A few of the rows of `benchmarks/bragg_cpu.py`, with the statistics of few patterns."""
    from gpu4d.benchmarks import bragg_cpu

    assert bragg_cpu.exactness(1, patterns=2)["largest_distance"] < 1e-3
    for options in ({"dose": 300.0}, {"dose": 2000.0, "edge": 3.0}, {"dose": 2000.0, "edge": 0.5}):
        s = bragg_cpu.scene(2, side=6, **options)
        least = bragg_cpu.bounds(s).diagonal(axis1=-2, axis2=-1).mean()
        disks = gpu4d.find_bragg_disks(gpu4d.DataCube(s.patterns), s.probe)
        m = bragg_cpu.matched(disks, s.positions)
        assert m.recall == 1 and m.false == 0
        assert 0.92 < np.sqrt((m.error**2).mean() / least) < 1.12 and abs((np.abs(m.score) < 1).mean() - 0.683) < 0.05
        found = bragg_cpu.strain_of(disks, [s.truth["g1"], s.truth["g2"]])
        ratios = [(getattr(found, name).data - s.truth[name]).std() / sigma for name, sigma in bragg_cpu.strain_bound(s).items()]
        assert 0.8 < np.mean(ratios) < 1.3
