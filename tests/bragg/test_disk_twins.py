"""Finding disks: the twin against the definition, which refinement is taken, and what changes nothing."""

import numpy as np
import pytest
from some_disks import operands, scene

import gpu4d
from gpu4d.bragg.find_disks import PeakLimits, Refinement, find_disks
from gpu4d.bragg.likelihood.fit import Fit
from gpu4d.errors import InputError
from gpu4d.probe import Template, synthetic, template
from gpu4d.probe.shape.even_spline import even_spline

SHAPES = [(64, 64), (63, 65), (48, 72), (65, 48)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("refine", ["correlation", "upsample", "parabola", None])
@pytest.mark.parametrize("powers", [(0.85, 1.0), (1.0, 1.0), (0.85, 0.85), (0.7, 0.9)])
def test_twin_equals_definition(shape, refine, powers):
    patterns, _ = scene(shape, n=3, spots=4)
    patterns[1] = 0
    options = {"refinement": Refinement(refine, *powers), "limits": PeakLimits(min_spacing=6.0, max_peaks=9)}
    args = (patterns, *operands(synthetic(shape, 5.0, (shape[0] / 2 + 0.3, shape[1] / 2 - 0.2))))
    with gpu4d.using("definition"):
        want = find_disks(*args, **options)
    with gpu4d.using("cpu"):
        got = find_disks(*args, **options)
    np.testing.assert_array_equal(got.count, want.count)
    assert want.count.tolist()[1] == 0 and want.count.sum() >= 8
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
@pytest.mark.parametrize("counts", [pytest.param(None, marks=pytest.mark.slow), 1000])  # noise makes it harder
def test_auto_is_the_likelihood_where_the_vacuum_image_tells_the_form_of_the_probe(form, which, reason, counts):
    image = 1e4 * uneven((64, 64), (31.7, 32.2), **form)
    probe = image if counts is None else np.random.default_rng(3).poisson(counts / 1e4 * image)
    reduction = gpu4d.BraggDisks(probe)
    reduction.prepare(np.dtype("uint16"))
    assert reduction.refinement == which and reason in reduction.reason


def test_auto_takes_an_unsuitable_probe_for_a_reason_and_no_other_error(monkeypatch):
    """A mistake inside, or an old version of a library, must not look like a probe that does not suit."""

    def broken(_template, _parameters):
        raise ValueError("Invalid integer data type 'f'.")

    monkeypatch.setattr(Fit, "prepare", broken)
    with pytest.raises(ValueError, match="Invalid integer data type"):
        gpu4d.BraggDisks(synthetic((32, 32), 4.0)).prepare(np.dtype("uint16"))


def test_a_curve_through_too_few_pixels_is_refused():
    with pytest.raises(InputError, match="too few"):
        even_spline(np.zeros(0), np.zeros(0), np.zeros(0), lambda r: np.ones((len(r), 1)), 0.5)
    with pytest.raises(InputError, match="too few"):
        even_spline(np.array([0.1, 0.2]), np.ones(2), np.ones(2), lambda r: np.ones((len(r), 1)), 0.5)


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
