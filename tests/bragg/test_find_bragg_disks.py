"""`find_bragg_disks` as it is called: arguments, templates, the vector map, and figures on the patterns that peers are compared on."""

import importlib
import importlib.util

import numpy as np
import pytest
from gpu4d.cpu_fallback.find_disks import _box as twin_window
from some_disks import matched, scene

import gpu4d
from gpu4d.bragg.template_transforms import template_moments
from gpu4d.errors import InputError
from gpu4d.probe import Template, synthetic, template


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


@pytest.mark.parametrize("whole", [False, True])
def test_a_mistyped_option_is_an_error(whole):
    probe = synthetic((32, 32), 3.0)
    patterns = gpu4d.DataCube(probe[None, None]) if whole else probe
    with pytest.raises(TypeError, match=r"find_bragg_disks\(\) .* 'min_signficance' \(did you mean 'min_significance'"):
        gpu4d.find_bragg_disks(patterns, probe, min_signficance=10)


@pytest.mark.parametrize("name", ["min_significance", "min_relative_intensity", "min_absolute_intensity", "min_spacing", "edge"])
def test_limits_are_not_negative(name):
    with pytest.raises(InputError, match=f"{name}=-3"):
        gpu4d.BraggDisks(synthetic((32, 32), 3.0), **{name: -3})


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
    ellipse = (1.25, 1.0, 0.0)  # along qx: distances from the origin shrink to 4/5
    map_ = gpu4d.bragg_vector_map(one, (64, 64), origin=(30.0, 30.0), calibration=gpu4d.Calibration(ellipse=ellipse))
    x, y = np.indices((64, 64))
    np.testing.assert_allclose([(np.asarray(map_) * x).sum() / 8, (np.asarray(map_) * y).sum() / 8], [32 - 9.75 * 0.8, 33.5])


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


def test_disks_of_a_pattern_do_not_depend_on_the_patterns_beside_it():
    """Noise that passes for many hidden disks: there must be places for all of them, whatever the other patterns need."""
    data = np.random.default_rng(0).poisson(4.0, (13, 9, 17, 20)).astype("uint16")[6:8]
    probe = gpu4d.probe.synthetic((17, 20), 2.5)
    together, alone = (gpu4d.find_bragg_disks(patterns, probe, min_significance=1.0) for patterns in (data, data[1, 5:6]))
    assert alone[0].qx.tolist() == together[1, 5].qx.tolist() and alone[0].qy.tolist() == together[1, 5].qy.tolist()
