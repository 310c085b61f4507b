"""A template refined from a scan against the disk the scan was made with."""

import tracemalloc

import numpy as np
import pytest
from gpu4d.benchmarks.disk_bound import bullseye
from gpu4d.benchmarks.disk_scenes import find, lattice, scene

import gpu4d
from gpu4d.bragg.likelihood.fit import Fit
from gpu4d.bragg.template_from_scan import disk_windows
from gpu4d.data.source import ArraySource
from gpu4d.errors import InputError
from gpu4d.probe import synthetic, template


def off(refined, truth, reach=9.0):
    """Largest distance of the refined profile from the true one, on four rays."""
    r, at = np.linspace(0, reach, 200), refined.fine.interpolator()
    return max(np.abs(at(r * np.cos(t), r * np.sin(t)) - truth(r)).max() for t in (0.0, 0.7, 2.0, 4.4))


def ratio(some, found):
    return np.sqrt((found.errors[found.seen] ** 2).mean() / some.bound()[found.seen].mean())


@pytest.fixture(scope="module")
def crystal():
    return lattice(3000.0, scan=6, seed=4)


@pytest.fixture(scope="module")
def refined(crystal):
    start = template(crystal.probe(10.0, seed=2))
    disks = gpu4d.find_bragg_disks(crystal.patterns, start)
    return gpu4d.refine_template(crystal.patterns, disks, start)


def test_the_disk_of_the_scan_is_found_and_as_good_as_the_true_one(crystal, refined):
    other = lattice(3000.0, scan=6, seed=5)
    start = template(synthetic((128, 128), 6.3))
    assert off(refined, crystal.profile.value) < 0.005
    assert refined.radius == pytest.approx(6.0, abs=0.01) and refined.edge == pytest.approx(1.0, abs=0.02)
    before, after = (ratio(other, find(other, t, refine="likelihood")) for t in (start, refined))
    assert before > 2 and after < 1.09, "of 1500 values: ± 2 %"


@pytest.mark.parametrize("radius,edge", [(6.3, 1.0), (7.0, 1.0), (6.0, 2.0), (5.4, 0.6)])
def test_a_disk_of_the_wrong_size_is_corrected(crystal, radius, edge):
    start = template(synthetic((128, 128), radius, edge=edge))
    got = gpu4d.refine_template(crystal.patterns[:16], None, start)
    assert got.radius == pytest.approx(6.0, abs=0.01) and off(got, crystal.profile.value) < 0.01


def test_both_estimators_have_its_zero_point_and_auto_takes_it(crystal, refined):
    assert Fit.prepare(refined, 6).shift == (0.0, 0.0)
    reduction = gpu4d.BraggDisks(refined)
    reduction.prepare(np.dtype("uint16"))
    assert reduction.refinement == "likelihood"
    for refine in ("likelihood", "correlation"):
        errors = find(crystal, refined, refine=refine).errors
        assert np.abs(np.nanmean(errors, (0, 1))).max() < 2e-3
    # the probe itself, anywhere within a pixel
    image = refined.fine.interpolator()(np.arange(128)[:, None] - 60.37, np.arange(128)[None, :] - 66.81)
    d = gpu4d.find_bragg_disks(1e5 * np.maximum(image, 0)[None] + 20, refined, refine="likelihood", min_relative_intensity=0.5)[0]
    np.testing.assert_allclose([d.qx[0], d.qy[0]], [60.37, 66.81], atol=1e-3)


def test_a_bullseye_from_few_counts():
    some = scene(1e5, profile=bullseye(9.0), patterns=24, seed=1)
    start = template(some.probe(30.0, seed=3))
    got = gpu4d.refine_template(some.patterns, None, start)
    scale = some.profile.value(np.sqrt(np.linspace(0, (0.7 * 9.0) ** 2, 2000))).mean()  # 1 is the mean inside
    assert off(got, lambda r: some.profile.value(r) / scale, 12.0) < 0.03


def draw(form, dose, centres, rng):
    out = []
    for c in centres:
        x, y = (np.arange(48) - v for v in c)
        out.append(rng.poisson(dose * form(x[:, None], y[None, :]) + 0.02 * dose))
    return np.stack(out).astype(np.uint16)


def ellipse(x, y):
    return 1 / (1 + np.exp(np.clip(4 * (np.hypot(x / 1.06, y / 0.94) - 5.0) / 1.5, -60, 60)))


@pytest.fixture(scope="module")
def oval():
    rng = np.random.default_rng(3)
    centres = rng.uniform(22, 26, (300, 2))
    return draw(ellipse, 2000.0, centres, rng), centres


@pytest.mark.slow
def test_a_disk_that_is_not_round_from_a_round_start(oval):
    patterns, centres = oval
    start = template(synthetic((48, 48), 5.0, edge=1.5))
    got = gpu4d.refine_template(patterns, None, start, patterns=300)
    x, y = np.meshgrid(*[np.linspace(-7, 7, 57)] * 2, indexing="ij")
    difference = np.abs(got.fine.interpolator()(x, y) - ellipse(x, y))
    assert difference.max() < 0.05 and np.sqrt((difference**2).mean()) < 0.01
    forced = gpu4d.refine_template(patterns, None, start, patterns=300, shape="round")
    assert np.abs(forced.fine.interpolator()(x, y) - ellipse(x, y)).max() > 0.12
    disks = gpu4d.find_bragg_disks(patterns, got, refine="likelihood")
    found = np.stack([disks.flat("qx"), disks.flat("qy")], -1)
    assert len(found) == 300 and np.abs((found - centres).mean(0)).max() < 2e-3


def test_round_disks_stay_round(crystal, refined):
    values = refined.fine.values
    np.testing.assert_allclose(values, values.T, atol=1e-9)
    assert (template(crystal.probe()).kernel.shape == refined.kernel.shape) and abs(refined.kernel.sum()) < 1e-9


def test_a_trench_of_its_own_is_kept(crystal):
    start = template(crystal.probe(), trench=(6.0, 15.0))
    got = gpu4d.refine_template(crystal.patterns[:4], None, start)
    usual = gpu4d.refine_template(crystal.patterns[:4], None, template(crystal.probe()))
    far = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128, 1 / 128)] * 2, indexing="ij")) > 15.6
    assert np.abs(got.kernel[far]).max() < 1e-6 < np.abs(usual.kernel[far]).max()
    np.testing.assert_allclose(got.kernel, start.kernel, atol=2e-4)


def test_masked_pixels_empty_and_nan_patterns_have_no_say(crystal):
    start = template(synthetic((128, 128), 6.2))
    plain = crystal.patterns[:12].astype(np.float64)
    mask = np.ones((128, 128), bool)
    mask[60:64, 50:56] = False
    want = gpu4d.refine_template(gpu4d.DataCube(plain[None], detector_mask=mask), None, start)
    spoiled = plain.copy()
    spoiled[:, ~mask] = 1e6
    more = np.concatenate([spoiled, np.zeros((1, 128, 128)), np.full((1, 128, 128), np.nan)])[None]
    got = gpu4d.refine_template(gpu4d.DataCube(more, detector_mask=mask), None, start)
    np.testing.assert_allclose(got.fine.values, want.fine.values, atol=1e-9)
    assert off(got, crystal.profile.value) < 0.01


class Counting(ArraySource):
    """Which patterns were read."""

    def read(self, rows, columns, out=None):
        self.seen = getattr(self, "seen", []) + [(r, c) for r in range(*rows.indices(9**9)) for c in range(*columns.indices(9**9))]
        return super().read(rows, columns, out)


def test_only_the_sampled_patterns_are_read_evenly_and_where_allowed(crystal):
    source = Counting(crystal.patterns.reshape(6, 6, 128, 128))
    where = np.ones((6, 6), bool)
    where[:2] = False
    gpu4d.refine_template(gpu4d.DataCube(source), None, template(crystal.probe()), patterns=8, where=where)
    seen = np.asarray(source.seen)
    assert len(seen) == len(np.unique(seen, axis=0)) == 8
    assert np.bincount(seen[:, 0], minlength=6).tolist() == [0, 0, 2, 2, 2, 2] and len(np.unique(seen[:, 1])) >= 4


def windows(disks, patterns=1200):
    """Of as many patterns, with a disk each."""
    one = 500 * synthetic((48, 48), 4.0, center=(24.2, 23.7))
    start, reach = template(synthetic((48, 48), 4.0)), 9.0
    return disk_windows.windows_of(np.broadcast_to(one, (patterns, 48, 48)), disks, start, reach, patterns, None)


def test_windows_are_thinned_evenly_while_they_are_cut(monkeypatch):
    number = np.arange(1200)
    at = [24.2 + 1e-5 * number, np.full(1200, 23.7)]
    disks = gpu4d.PointListArray(np.arange(1201), dict(zip(("qx", "qy"), at)), (1200,))
    monkeypatch.setattr(disk_windows, "FRAMES", 8 * 48 * 48 * 20)
    every, seen, alone = windows(disks)
    assert seen == alone == len(every.x) == 1200
    size = every.counts.shape[1]
    for most, step in ((1200, 1), (700, 2), (250, 8), (30, 64)):
        monkeypatch.setattr(disk_windows, "MOST_PIXELS", most * size)
        tracemalloc.start()
        try:
            some, seen, alone = windows(disks)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert seen == alone == 1200 and len(some.x) <= most
        np.testing.assert_array_equal(some.x, every.x[::step])
        np.testing.assert_array_equal(some.counts, every.counts[::step])
    assert peak < every.counts.nbytes / 2 + 8 * 48 * 48 * 40, "of 30 windows and some patterns"


def test_what_it_refuses(crystal):
    start, some = template(crystal.probe()), crystal.patterns[:2]
    disks = gpu4d.find_bragg_disks(some, start)
    with pytest.raises(InputError, match=r"0 disks .* 20 are needed"):
        gpu4d.refine_template(np.zeros((3, 128, 128), np.uint16), None, start)
    with pytest.raises(InputError, match="20 are needed"):
        gpu4d.refine_template(some, None, template(synthetic((128, 128), 14.0)))
    for no_array in ([[1.0, 2.0]], np.zeros(5), "scan.h5"):
        with pytest.raises(InputError, match=r"need a DataCube or an array \(..., Qx, Qy\)"):
            gpu4d.refine_template(no_array, None, start)
    with pytest.raises(InputError, match="find them in the same data"):
        gpu4d.refine_template(crystal.patterns[:3], disks, start)
    with pytest.raises(InputError, match="make the template for this detector"):
        gpu4d.refine_template(some[:, :120], None, start)
    with pytest.raises(InputError, match="one bool per scan position"):
        gpu4d.refine_template(some, disks, start, where=[True])
    for wrong in ({"shape": "oval"}, {"patterns": 0}, {"rounds": 1.5}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            gpu4d.refine_template(some, disks, start, **wrong)
