"""Bragg disks against physics: where they are, how bright, how sure, and what has none."""

import numpy as np
import pytest
from some_disks import matched, operands, scene

import gpu4d
from gpu4d.bragg import explain_disks
from gpu4d.bragg.explain import REASONS
from gpu4d.bragg.find_disks import fill_masked, local_maxima
from gpu4d.probe import synthetic, template


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
    every = gpu4d.find_bragg_disks(patterns, probe, refine="correlation")[0]
    assert len(every) == 6
    three = gpu4d.find_bragg_disks(patterns, probe, refine="correlation", max_peaks=3)[0]
    np.testing.assert_array_equal(three.qx, every.qx[:3])
    candidates = explain_disks(patterns[0], probe)
    heights = candidates.intensity[candidates.reason == "accepted"]
    two = gpu4d.find_bragg_disks(patterns, probe, refine="correlation", min_absolute_intensity=(heights[1] + heights[2]) / 2)[0]
    np.testing.assert_array_equal(two.qx, every.qx[:2])
    four = gpu4d.find_bragg_disks(patterns, probe, refine="correlation", min_relative_intensity=(heights[3] + heights[4]) / 2 / heights[0])[
        0
    ]
    np.testing.assert_array_equal(four.qx, every.qx[:4])
    assert len(gpu4d.find_bragg_disks(patterns, probe, refine="correlation", min_spacing=200)[0]) == 1
    border = np.minimum.reduce([every.qx, every.qy, 95 - every.qx, 95 - every.qy])
    limit = float(np.sort(border)[2]) + 1
    assert (
        len(gpu4d.find_bragg_disks(patterns, probe, refine="correlation", edge=limit)[0]) == (np.rint(border) >= np.ceil(limit)).sum() < 6
    )


@pytest.mark.parametrize("least", [0.5, 3.0])
def test_low_significance_means_the_same_everywhere(least):
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
