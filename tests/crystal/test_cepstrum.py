"""The cepstrum against its formula, and strain from it against deformations that are written down and the shared scans with truth."""

import functools

import h5py
import numpy as np
import pytest
from scipy.optimize import minimize

import gpu4d
from gpu4d import arrays
from gpu4d.crystal import CepstralFit, CepstralVectors, cepstral_lattice, mean_cepstrum, power_cepstrum
from gpu4d.crystal.cepstral_lattice import reciprocal
from gpu4d.crystal.cepstrum import log_patterns, window_of
from gpu4d.crystal.fit_cepstrum import fit_cepstrum
from gpu4d.errors import InputError
from gpu4d.testing.reductions import ReductionTests

COMPONENTS = ("exx", "eyy", "exy", "theta")


def scan(shape=(3, 4), detector=(64, 64), **options):
    """A scan with small disks, so that many maxima of the cepstrum are visible."""
    usual = {"spacing": 12.0, "radius": 3.0, "dose": 400.0, "reach": 3.2, "seed": 0}
    return gpu4d.simulate.bragg_scan(shape, detector, **{**usual, **options})


def errors_of(strain, truth):
    """Errors of the components (4, Rx, Ry), and in units of the claimed ones."""
    error = np.stack([np.asarray(getattr(strain, name)) - truth[name] for name in COMPONENTS])
    return error, error / np.asarray(strain.uncertainty)


# ---------------------------------------------------------------- the cepstrum


def test_power_is_that_of_the_formula():
    patterns = np.random.default_rng(0).poisson(3.0, (2, 3, 16, 21)).astype("uint8")
    x, y = (np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in (16, 21))
    for name, window in (("sine", np.outer(x, y)), ("hann", np.outer(x, y) ** 2), ("none", np.ones((16, 21)))):
        logs = np.log(patterns + 0.7)
        mean = (logs * window).sum((-2, -1), keepdims=True) / window.sum()
        expected = np.fft.fftshift(np.abs(np.fft.fft2(window * (logs - mean))) ** 2, axes=(-2, -1))
        np.testing.assert_allclose(power_cepstrum(patterns, window=name, offset=0.7), expected, rtol=1e-9, atol=1e-9)


def test_a_period_is_seen_at_its_length():
    x = np.arange(64)
    rows = np.exp(np.cos(2 * np.pi * x / 8))[:, None] * np.ones(64)
    power = power_cepstrum(rows, window="hann", offset=1e-9)
    assert sorted(np.argwhere(power > power.max() / 2)[:, 0].tolist()) == [24, 40]  # 64 / 8 = 8 from the centre, on both sides


def test_empty_patterns_and_nan_give_nan_and_masked_pixels_do_not_count():
    patterns = np.random.default_rng(1).poisson(5.0, (4, 12, 12)).astype("float32")
    patterns[1], patterns[2, 3, 4], patterns[3, 0, 0] = 0, np.nan, np.inf
    mask = np.ones((12, 12), bool)
    mask[3, 4] = False
    assert np.isnan(power_cepstrum(patterns)).all((1, 2)).tolist() == [False, True, True, True]
    assert np.isnan(power_cepstrum(patterns, mask=mask)).all((1, 2)).tolist() == [False, True, False, True]


def test_a_hidden_stripe_is_filled_smoothly():
    """A smooth logarithm is filled to a small part of its range, and a good pixel keeps its value."""
    x, y = np.mgrid[:40, :40] / 40
    pattern, mask = np.exp(3 * np.exp(-8 * ((x - 0.4) ** 2 + (y - 0.6) ** 2)))[None], np.ones((40, 40), bool)
    mask[18:23, 10:] = False
    whole, _ = log_patterns(pattern, np.ones((40, 40)), 1e-12)
    filled, _ = log_patterns(np.where(mask, pattern, 1e9), np.ones((40, 40)), 1e-12, mask)
    error = (filled - whole)[0] - (filled - whole)[0][mask].mean()
    assert np.abs(error[mask]).max() < 1e-12 and np.abs(error).max() < 0.15 * np.ptp(whole)


# ---------------------------------------------------------------- the fit


def test_the_vectors_maximise_the_summed_power():
    """Against a maximum of sums of exponentials that a general optimiser finds, without FFT and interpolation."""
    made = scan((1, 1), (57, 64))
    pattern = np.asarray(made.cube[0, 0].data)[None]
    nodes = np.array([(h, k) for h in range(3) for k in range(-2, 3) if h > 0 or k > 0])
    nodes = nodes[np.argsort(np.hypot(*nodes.T), kind="stable")]
    start = np.linalg.inv(np.stack([made.truth["g1"], made.truth["g2"]])).T * (57, 64)
    fit = fit_cepstrum.definition(pattern, window_of("sine", (57, 64)), nodes, start, stages=(4, len(nodes)))
    logs = log_patterns(pattern, window_of("sine", (57, 64)), 1.0)[0][0]
    x, y = np.arange(57), np.arange(64)

    def less(four):
        points = nodes @ four.reshape(2, 2)
        waves = np.exp(-2j * np.pi * points[:, :1] * x / 57), np.exp(-2j * np.pi * points[:, 1:] * y / 64)
        return -np.sum(np.abs(np.einsum("px,xy,py->p", waves[0], logs, waves[1])) ** 2) / 1e4

    best = minimize(less, fit.vectors[0].ravel() + 1e-3, tol=1e-10, method="BFGS", options={"gtol": 1e-8})
    np.testing.assert_allclose(fit.vectors[0].ravel(), best.x, atol=2e-6)


def test_wrong_shapes_are_refused():
    window, nodes = np.ones((16, 16)), np.array([(1, 0), (0, 1), (1, 1)])
    for given, stages in (
        ((np.ones((1, 16, 15)), window, nodes, np.eye(2)), (3,)),
        ((np.ones((1, 16, 16)), window, nodes[:2], np.eye(2)), (2,)),
        ((np.ones((1, 16, 16)), window, nodes, np.eye(3)), (3,)),
        ((np.ones((1, 16, 16)), window, nodes, np.eye(2)), (2,)),
    ):
        with pytest.raises(InputError, match="need"):
            fit_cepstrum(*given, stages=stages)


# ---------------------------------------------------------------- strain


@pytest.mark.parametrize("degrees", [0.0, 25.0])
def test_a_stretch_by_half_is_tension_and_a_turned_reference_turns_the_axes(degrees):
    """The crystal is longer by half along x, so its reciprocal vector along x is shorter: 12 px instead of 18."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s], [s, c]])
    made = scan((2, 2), g1=tuple(turn @ (12.0, 0.0)), g2=tuple(turn @ (0.0, 18.0)), strain=None)
    unstrained = scan((2, 2), g1=tuple(turn @ (18.0, 0.0)), g2=tuple(turn @ (0.0, 18.0)), strain=None)
    first, second = (cepstral_lattice(one.cube, gpu4d.crystal.Lattice(one.truth["g1"], one.truth["g2"])) for one in (made, unstrained))
    strain = gpu4d.strain_map(first, reference=second).rotated(np.radians(degrees))
    for name, expected in (("exx", 0.5), ("eyy", 0.0), ("exy", 0.0), ("theta", 0.0)):
        np.testing.assert_allclose(getattr(strain, name), expected, atol=6e-3)


def test_a_turned_lattice_is_a_rotation_and_no_strain():
    def turned(x, y):
        angle = np.radians(1.5) * (x > 1)
        return np.stack([np.stack([np.cos(angle), -np.sin(angle)], -1), np.stack([np.sin(angle), np.cos(angle)], -1)], -2)

    made = scan((4, 4), strain=turned)
    strain = gpu4d.strain_map(cepstral_lattice(made.cube), reference=np.arange(16).reshape(4, 4) < 8)
    np.testing.assert_allclose(np.asarray(strain.rotation)[2:], np.radians(1.5), atol=4e-3)
    assert np.abs(np.asarray(strain.exx)).max() < 6e-3


def test_known_strain_is_found_within_its_errors():
    made = scan((10, 10), strain_size=0.03, descan=3.0)
    fit = cepstral_lattice(made.cube)
    assert isinstance(fit, CepstralFit) and fit.mask.all() and np.isnan(fit.origin).all()
    strain = gpu4d.strain_map(fit, lattice=np.stack([made.truth["g1"], made.truth["g2"]]))
    error, units = errors_of(strain, made.truth)
    bias = np.median(error, axis=(1, 2), keepdims=True)  # disks pull all maxima towards the centre, the same everywhere
    assert np.abs(bias).max() < 4e-3
    assert np.sqrt(np.mean((error - bias) ** 2, axis=(1, 2))).max() < 1e-3
    units = (error - bias) / np.asarray(strain.uncertainty)
    assert 0.5 < np.median(np.abs(units)) * 1.48 < 1.6


def test_large_strain_within_a_scan_finds_the_right_nodes():
    """Far nodes move by more than their width; the near ones, which are fitted first, lead to them."""
    made = scan((3, 4), strain=lambda x, y: np.eye(2) + 0.07 * (np.arange(12).reshape(3, 4) % 3 - 1)[..., None, None] * np.diag([1, -1]))
    strain = gpu4d.strain_map(cepstral_lattice(made.cube), lattice=np.stack([made.truth["g1"], made.truth["g2"]]))
    assert np.abs(errors_of(strain, made.truth)[0]).max() < 0.01


def test_an_ellipse_is_removed_from_the_vectors():
    """Vectors of a square lattice, stretched by the detector, are equal and at a right angle again."""
    ellipse = (1.05, 1.0, 0.4)
    stretch = np.linalg.inv(gpu4d.calibrate.ellipse_matrix(ellipse))
    made = scan((3, 3), g1=tuple(stretch @ (12.0, 1.0)), g2=tuple(stretch @ (-1.0, 12.0)), strain=None)
    fit = cepstral_lattice(made.cube)
    bent, straight = (gpu4d.crystal.lattice_lengths(fit, e) for e in (None, ellipse))
    assert abs(bent.lengths[0] / bent.lengths[1] - 1) > 0.01 or abs(bent.angle - np.pi / 2) > 0.01
    assert abs(straight.lengths[0] / straight.lengths[1] - 1) < 2e-3 and abs(straight.angle - np.pi / 2) < 2e-3


def test_reciprocal_vectors_and_their_covariance():
    """Against NumPy's inverse, and changes of it by small steps."""
    rng = np.random.default_rng(4)
    r, root = np.array([[5.0, 0.3], [-1.2, 6.0]]), rng.normal(0, 1e-3, (4, 4))
    g, covariance = reciprocal(r, root @ root.T, (50, 64))
    dual = lambda v: np.linalg.inv(v / (50, 64)).T  # noqa: E731
    np.testing.assert_allclose(g, dual(r), rtol=1e-12)
    drawn = np.stack([dual(r + (root @ rng.normal(size=4)).reshape(2, 2)) for _ in range(4000)])
    for c in (0, 1):
        np.testing.assert_allclose(covariance[c], np.cov(drawn[:, :, c].T), rtol=0.15, atol=0.05 * np.abs(covariance[c]).max())


# ---------------------------------------------------------------- what is no lattice


def test_patterns_without_the_lattice_are_nan():
    made = scan((4, 4))
    data = np.asarray(made.cube.source.read(slice(0, 4), slice(0, 4)) if hasattr(made.cube.source, "read") else made.cube.source).copy()
    rng = np.random.default_rng(2)
    radius = np.hypot(np.arange(64)[:, None] - 32, np.arange(64) - 32)
    data[0, 0] = 0
    data[0, 1] = rng.poisson(0.5, (64, 64))
    data[0, 2] = rng.poisson(60 * np.exp(-(((radius - 13) / 3) ** 2)) + 400 * (radius < 3) + 0.3)  # a halo where the disks were
    fit = cepstral_lattice(data)
    assert fit.mask.sum() == 13 and not fit.mask[0, :3].any()
    assert np.isnan(np.asarray(fit.g1)[~np.asarray(fit.mask)]).all() and (np.asarray(fit.significance)[fit.mask] > 5).all()


@pytest.mark.parametrize("counts", [0.0, 0.3, 20.0])
def test_noise_has_no_lattice(counts):
    data = np.random.default_rng(3).poisson(counts, (6, 6, 64, 64)).astype("uint16")
    assert mean_cepstrum(data).nodes is None
    with pytest.raises(InputError, match=r"no lattice is visible.*vectors="):
        cepstral_lattice(data)
    with pytest.raises(InputError, match="given lattice is not visible"):
        cepstral_lattice(data, [[5.0, 0.0], [0.0, 5.0]])


def test_bad_input_is_refused():
    cube = scan((2, 2)).cube
    for options, words in (
        ({"vectors": [[5.0, 0.0], [10.0, 0.0]]}, "not parallel"),
        ({"vectors": [[5.0, 0.0, 0.0]]}, r"\(2, 2\)"),
        ({"unit": "nm"}, "need 'px'"),
        ({"window": "gauss"}, "need one of"),
        ({"window": np.ones((3, 3))}, "like the patterns"),
        ({"offset": 0.0}, "above 0"),
        ({"r_range": (30.0, 5.0)}, "need 2"),
        ({"min_significance": -1.0}, "min_significance"),
        ({"where": np.ones((3, 3), bool)}, "where"),
    ):
        with pytest.raises(InputError, match=words):
            cepstral_lattice(cube, **options)
    with pytest.raises(InputError, match=r"Rx, Ry, Qx, Qy"):
        cepstral_lattice(np.ones((3, 16, 16)))
    with pytest.raises(InputError, match="q_pixel"):
        cepstral_lattice(gpu4d.DataCube(np.ones((2, 2, 16, 16))), unit="A")
    with pytest.raises(TypeError, match="did you mean 'offset'"):
        cepstral_lattice(cube, ofset=1.0)


# ---------------------------------------------------------------- units, values, libraries


def test_angstrom_are_pixels_of_the_cepstrum():
    cube = scan((2, 3), spacing=13.0, strain=None).cube
    cube = gpu4d.DataCube(cube.source, gpu4d.Calibration(q_pixel=0.02)) if not cube.calibration.q_pixel else cube
    scale = 64 * cube.calibration.q_pixel
    plain = cepstral_lattice(cube, r_range=(3.5, 20.0))
    again = cepstral_lattice(cube, plain.nodes.vectors / scale, unit="A", r_range=(3.5 / scale, 20.0 / scale))
    np.testing.assert_allclose(again.r1, plain.r1, atol=1e-9)
    np.testing.assert_allclose(plain.spacings(cube.calibration.q_pixel), 1 / (13.0 * cube.calibration.q_pixel), rtol=0.01)


def test_values_in_other_units_than_counts_give_the_same_lattice():
    """The default offset follows their mean: a factor of all values only shifts the logarithm."""
    data = np.asarray(scan((3, 3), strain_size=0.01).cube.source.read(slice(0, 3), slice(0, 3))).astype("float32")
    small, large = cepstral_lattice(data * 1e-3), cepstral_lattice(data * 1e3)
    np.testing.assert_allclose(small.g1, large.g1, rtol=1e-5)
    assert np.abs(np.asarray(small.g1) - np.asarray(cepstral_lattice(data.astype("uint16")).g1)).max() < 0.1


def test_long_detectors_have_true_angles():
    fit = cepstral_lattice(scan((2, 2), (48, 80), spacing=10.0, angle=20.0, strain=None).cube)
    lengths = gpu4d.crystal.lattice_lengths(fit)
    np.testing.assert_allclose(lengths.lengths, 10.0, rtol=1e-2)
    assert abs(lengths.angle - np.pi / 2) < 5e-3


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_other_libraries_give_the_same(need, library):
    xp = need(library)
    data = np.asarray(scan((2, 2), (48, 48), spacing=10.0).cube.source.read(slice(0, 2), slice(0, 2))).astype("float32")
    found, fit = mean_cepstrum(data), cepstral_lattice(data)
    other = gpu4d.sweep(gpu4d.DataCube(xp.asarray(data)), CepstralVectors(found))
    assert arrays.namespace(other.g1) is arrays.namespace(xp.asarray(data))
    np.testing.assert_allclose(arrays.to_numpy(other.g1), np.asarray(fit.g1), rtol=1e-4)


def test_memory_and_files_do_not_change_a_bit(tmp_path):
    cube = scan((6, 5)).cube
    gpu4d.save(tmp_path / "scan.h5", {"cube": cube})
    filed = gpu4d.open(tmp_path / "scan.h5")
    whole, little = cepstral_lattice(cube), cepstral_lattice(filed, memory="16 MB", progress=False)
    for name in ("r1", "r2", "covariance", "significance"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(little, name))


class TestReduction(ReductionTests):
    """Results depend on no chunk, thread or interruption."""

    SCAN = functools.cache(lambda: scan((5, 4), (32, 32), spacing=7.0, radius=1.8).cube)
    FOUND = functools.cache(lambda: mean_cepstrum(TestReduction.SCAN()))

    def cube(self):
        return TestReduction.SCAN()

    def make(self):
        return CepstralVectors(TestReduction.FOUND())

    def bits(self, result):
        if isinstance(result, CepstralFit):
            return super().bits([result.g1, result.covariance, result.significance])
        return super().bits(result)


# ---------------------------------------------------------------- shared scans with truth


def strain_errors(data, border, truth, reference=None):
    """Rms errors of the components relative to a border, from the cepstrum."""
    fit = cepstral_lattice(data)
    strain = gpu4d.strain_map(fit, region=border)
    return fit, np.array(
        [np.sqrt(np.nanmean((e - np.nanmedian(e[border])) ** 2)) for e in (getattr(strain, n).data - truth[n] for n in COMPONENTS)]
    )


def stretch_and_rotation(f):
    """Truth of the components from deformation gradients."""
    u, s, v = np.linalg.svd(f)
    stretch, turn = np.swapaxes(v, -1, -2) * s[..., None, :] @ v, u @ v
    theta = -np.arctan2(turn[..., 1, 0], turn[..., 0, 0])
    return {"exx": stretch[..., 0, 0] - 1, "eyy": stretch[..., 1, 1] - 1, "exy": stretch[..., 0, 1], "theta": theta}


@pytest.mark.parametrize(("dose", "limit"), [("poisson_1e5", 5e-4), ("poisson_5e3", 3e-3)])
def test_multislice_gold(shared_data, dose, limit):
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        data, border = file[dose][:, :8], file["truth/state_index"][:, :8] == 0
        names = (("exx", "eyy"), ("eyy", "exx"), ("exy", "exy"), ("theta", "theta_rad"))  # there x is the column
        truth = {ours: file[f"truth/{theirs}"][:, :8] for ours, theirs in names}
    fit, rms = strain_errors(data, border, truth)
    assert fit.mask.all() and (rms < limit).all(), rms


@pytest.mark.parametrize(("probe", "limits", "found"), [("bullseye", 1.4e-3, 1.0), ("plain", 4.5e-3, 0.95)])
def test_overlapping_half_coherent_disks(shared_data, probe, limits, found):
    with h5py.File(shared_data / "patterned_probe.h5") as file:
        data, f = file[f"{probe}_poisson_12000"][:], file["truth/F"][:].astype(float)
    everywhere = np.ones(f.shape[:2], bool)
    fit, rms = strain_errors(data, everywhere, stretch_and_rotation(f @ np.linalg.inv(np.median(f, axis=(0, 1)))))
    assert fit.mask.mean() >= found and (rms < limits).all(), rms


def test_a_glass_has_no_lattice_at_any_position(shared_data, caplog):
    """Rings of its cepstrum may look like a lattice on average, but they are as high beside its nodes."""
    with h5py.File(shared_data / "amorphous_strain.h5") as file:
        data = file["poisson_45000"][:12, :12]
    try:
        fit = cepstral_lattice(data)
    except InputError:
        return
    assert not fit.mask.any() and "no pattern has a significant lattice" in caplog.text


def test_of_two_phases_the_other_one_is_left_out(shared_data):
    with h5py.File(shared_data / "two_phase.h5") as file:
        data, part = file["poisson_3000"][:, ::2], file["truth/fractions"][:, ::2]
    fit = cepstral_lattice(data)
    assert fit.mask[part[..., :2].sum(-1) > 0.95].all() and not fit.mask[part[..., 2:].sum(-1) > 0.95].any()


def test_behind_a_beam_stop_with_a_moving_origin(shared_data):
    """No origin is needed, and none is known."""
    with h5py.File(shared_data / "beam_stop_bragg.h5") as file:
        data, f, mask = file["poisson_10000"][:, :8], file["truth/F"][:, :8].astype(float), file["truth/beam_stop_mask"][:].astype(bool)
    good = mask if mask.mean() > 0.5 else ~mask
    fit, rms = strain_errors(gpu4d.DataCube(data, detector_mask=good), np.ones(f.shape[:2], bool), stretch_and_rotation(f))
    assert fit.mask.all() and (rms < 4e-3).all(), rms


def test_lengths_from_a_cepstrum_are_compared_with_their_like_only():
    """They are too short, which would be a strain of the whole scan."""
    made = gpu4d.simulate.bragg_scan((4, 4), (64, 64), spacing=12.0, radius=3.0, strain=None, seed=1)
    disks = gpu4d.find_bragg_disks(made.cube, made.probe)
    by_disks = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks))
    fit = cepstral_lattice(made.cube)
    for one, other in ((fit, by_disks), (by_disks, fit)):
        with pytest.raises(gpu4d.errors.InputError, match="lattices from a cepstrum are up to 2 % short"):
            gpu4d.strain_map(one, reference=other)
    calibration = gpu4d.Calibration(q_pixel=0.02)
    with pytest.raises(gpu4d.errors.InputError, match="the reference is a crystal"):
        gpu4d.strain_map(fit, reference=gpu4d.structures.Structure.standard("Au"), calibration=calibration)
    assert gpu4d.strain_map(fit, reference=fit).mask.all()
