"""Lattices found and fitted, against the lattices the points were made from."""

import numpy as np
import pytest
from lattice_points import HEXAGONAL, OBLIQUE, SQUARE, disks_of, from_lists, in_namespace, small_gradients, turn

import gpu4d
from gpu4d import arrays
from gpu4d.crystal.fit_lattice import fit_lattice
from gpu4d.crystal.lattice import Lattice, canonical, cross
from gpu4d.errors import InputError

ORIGIN = (63.0, 64.5)
LATTICES = {
    "square": SQUARE,
    "hexagonal": HEXAGONAL,
    "oblique": OBLIQUE,
    "rectangular": np.array([[10.0, 1.0], [-2.5, 25.0]]),
    "centred": np.array([[10.0, 12.5], [10.0, -12.5]]),
}

# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", LATTICES)
def test_canonical_basis_does_not_depend_on_how_the_lattice_is_given(name):
    basis = LATTICES[name]
    one = canonical(basis)
    for change in ([[0, 1], [1, 0]], [[-1, 0], [0, 1]], [[1, 3], [0, 1]], [[2, 1], [3, 2]], [[-5, 2], [2, -1]]):
        np.testing.assert_allclose(canonical(np.array(change) @ basis), one, atol=1e-9)
    g1, g2 = one
    assert cross(g1, g2) == pytest.approx(abs(np.linalg.det(basis)))
    assert np.hypot(*g1) <= 1.02 * np.hypot(*g2) and abs(g1 @ g2) <= 0.5 * 1.02**2 * (g1 @ g1) and g1[0] >= 0


def test_noise_does_not_decide_which_of_equal_vectors_is_g1():
    rng = np.random.default_rng(0)
    for basis in (SQUARE, HEXAGONAL):
        one = canonical(basis)
        for _ in range(50):
            assert np.abs(canonical(basis + rng.normal(size=(2, 2)) * 0.05) - one).max() < 0.5


# ---------------------------------------------------------------- finding


@pytest.mark.parametrize("name", LATTICES)
@pytest.mark.parametrize("angle", [0.0, 0.4, 1.3])
def test_found_in_a_strained_scan_with_faults(name, angle):
    basis = LATTICES[name] @ turn(angle).T
    disks = disks_of(basis, small_gradients((6, 7), 0.015, 1), sigma=0.1, missing=0.2, false=0.05)
    found = gpu4d.find_lattice(disks)
    np.testing.assert_allclose(found.matrix, canonical(basis), atol=0.02 * np.hypot(*basis[1]))
    assert found.indexed_fraction > 0.9 and found.indexed_fraction - found.chance > 0.5


@pytest.mark.parametrize("absent", [[(1, 0), (-1, 0)], [(1, 0), (-1, 0), (0, 1), (0, -1)], [(0, 0)]])
def test_absent_orders(absent):
    disks = disks_of(SQUARE, absent=absent, sigma=0.05)
    np.testing.assert_allclose(gpu4d.find_lattice(disks, ORIGIN).matrix, canonical(SQUARE), atol=0.1)


def test_extinct_orders_give_the_lattice_of_those_that_are_seen():
    odd = [(h, k) for h in range(-9, 10) for k in range(-9, 10) if (h + k) % 2]
    basis = np.array([[12.0, 2.0], [-2.0, 12.0]])
    seen = gpu4d.find_lattice(disks_of(basis, absent=odd, sigma=0.05), ORIGIN)
    np.testing.assert_allclose(seen.matrix, canonical(np.array([[1, 1], [-1, 1]]) @ basis), atol=0.1)


def test_half_vectors_index_everything_and_are_not_taken():
    found = gpu4d.find_lattice(disks_of(SQUARE, sigma=0.1, false=0.1), ORIGIN, min_spacing=4.0)
    assert abs(np.linalg.det(found.matrix)) == pytest.approx(abs(np.linalg.det(SQUARE)), rel=0.02)


def test_one_pattern_is_enough():
    found = gpu4d.find_lattice(disks_of(OBLIQUE, shape=(1, 1), sigma=0.05), ORIGIN)
    np.testing.assert_allclose(found.matrix, canonical(OBLIQUE), atol=0.2)


def test_stronger_of_two_grains():
    small = disks_of(SQUARE @ turn(0.5).T, shape=(6, 2), sigma=0.05)
    large = disks_of(SQUARE, shape=(6, 5), sigma=0.05, seed=1)
    rows = [np.stack([p[f] for f in ("qx", "qy", "intensity", "sx", "sy")], -1) for p in (*large, *small)]
    found = gpu4d.find_lattice(from_lists(rows, (6, 7)), ORIGIN)
    np.testing.assert_allclose(found.matrix, canonical(SQUARE), atol=0.1)
    assert 0.7 < found.indexed_fraction < 0.85  # 5 of 7 positions, and some by chance


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("positions,each", [(60, 20), (9, 12), (1, 20)])
def test_no_lattice_in_random_points_or_a_ring(seed, positions, each):
    rng = np.random.default_rng(seed)
    n = positions * each
    anywhere = rng.uniform(4, 124, (n, 2))
    angle, radius = rng.uniform(0, 2 * np.pi, n), rng.normal(32, 2, n)
    ring = 64 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    for q in (anywhere, ring):
        rows = np.column_stack([q, rng.uniform(1, 10, n), np.full((n, 2), 0.1)]).reshape(positions, each, 5)
        rows[:, 0] = (64, 64, 500, 0.1, 0.1)
        assert gpu4d.find_lattice(from_lists(list(rows), (1, positions)), (64.0, 64.0)) is None


def test_no_lattice_in_empty_lists():
    assert gpu4d.find_lattice(from_lists([np.zeros((0, 5))] * 6, (2, 3)), ORIGIN) is None


# ---------------------------------------------------------------- fitting


def test_exact_without_noise_at_large_strain_and_shift():
    f = small_gradients((6, 7), 0.03, 3)
    origin = np.array(ORIGIN) + np.random.default_rng(0).normal(size=(6, 7, 2))
    disks = disks_of(OBLIQUE, f, origin)
    fit = gpu4d.fit_lattice(disks, canonical(OBLIQUE), origin=ORIGIN)
    np.testing.assert_allclose(np.stack([fit.g1, fit.g2], -2), canonical(OBLIQUE) @ np.linalg.inv(f), atol=1e-9)
    np.testing.assert_allclose(fit.origin, origin, atol=1e-9)
    assert fit.residual.max() < 1e-9 and fit.mask.all() and (fit.count == disks.counts).all() and fit.indexed_fraction.min() > 0.999


@pytest.mark.parametrize("weights", ["sqrt", "py4dstem", "errors", "uniform"])
def test_weights_are_those_of_a_plain_least_squares(weights):
    disks = disks_of(SQUARE, sigma=0.1, shape=(2, 2))
    fit = gpu4d.fit_lattice(disks, SQUARE, origin=ORIGIN, weights=weights, outliers=None)
    for i in (0, 1):
        p = disks[i, 1]
        q = np.stack([p.qx, p.qy], -1)
        orders = np.rint((q - ORIGIN) @ np.linalg.inv(SQUARE))
        row = {"sqrt": np.sqrt(p.intensity), "py4dstem": p.intensity, "errors": 1 / p.sx, "uniform": np.ones(len(p))}[weights][:, None]
        x = np.linalg.lstsq(np.column_stack([np.ones(len(p)), orders]) * row, q * row, rcond=None)[0]
        np.testing.assert_allclose(np.stack([fit.origin[i, 1], fit.g1[i, 1], fit.g2[i, 1]]), x, atol=1e-9)


def test_too_few_or_collinear_disks_are_nan_and_poison_nobody():
    disks = disks_of(SQUARE, sigma=0.05, shape=(1, 6))
    rows = [np.stack([p[f] for f in ("qx", "qy", "intensity", "sx", "sy")], -1) for p in disks]
    order = [np.rint((r[:, :2] - ORIGIN) @ np.linalg.inv(SQUARE)) for r in rows]
    rows[1] = rows[1][:0]
    rows[2] = rows[2][order[2][:, 1] == 0]
    rows[3] = rows[3][:2]
    rows[4] = np.full_like(rows[4], np.nan)
    fit = gpu4d.fit_lattice(from_lists(rows, (1, 6)), SQUARE, origin=ORIGIN)
    assert fit.mask.tolist() == [[True, False, False, False, False, True]]
    assert np.isnan(fit.g1[0, 1:5]).all() and np.isnan(fit.covariance[0, 1:5]).all() and np.isnan(fit.residual[0, 1:5]).all()
    alone = gpu4d.fit_lattice(disks, SQUARE, origin=ORIGIN)
    np.testing.assert_array_equal(fit.g1[0, [0, 5]], alone.g1[0, [0, 5]])


def test_random_points_are_not_fitted():
    rng = np.random.default_rng(5)
    rows = [np.column_stack([rng.uniform(2, 125, (20, 2)), rng.uniform(2, 20, 20), np.full((20, 2), 0.1)]) for _ in range(200)]
    for r in rows:
        r[0] = (*ORIGIN, 2000, 0.02, 0.02)
    points = from_lists(rows, (10, 20))
    assert gpu4d.fit_lattice(points, SQUARE, origin=ORIGIN).mask.mean() < 0.02
    assert gpu4d.fit_lattice(points, SQUARE, origin=ORIGIN, min_indexed=0.0).mask.mean() > 0.3


def test_three_disks_determine_the_lattice():
    q = np.array([[0, 0], [1, 0], [1, 1]]) @ SQUARE + ORIGIN
    one = from_lists([np.column_stack([q, np.ones((3, 3))])], (1, 1))
    np.testing.assert_allclose(gpu4d.fit_lattice(one, SQUARE, origin=ORIGIN).g2[0, 0], SQUARE[1], atol=1e-9)
    assert not gpu4d.fit_lattice(one, SQUARE, origin=ORIGIN, min_disks=4).mask.any()


def test_outliers_are_left_out():
    clean = disks_of(SQUARE, sigma=0.03, shape=(8, 8))
    qx = clean.flat("qx").copy()
    wrong = np.random.default_rng(0).choice(len(clean), 40, replace=False)
    qx[wrong] += np.random.default_rng(1).choice([-1, 1], 40) * 1.5
    fit = gpu4d.fit_lattice(clean.with_fields({"qx": qx}), SQUARE, origin=ORIGIN)
    all_in = gpu4d.fit_lattice(clean.with_fields({"qx": qx}), SQUARE, origin=ORIGIN, outliers=None)
    reference = gpu4d.fit_lattice(clean, SQUARE, origin=ORIGIN)
    assert reference.count.sum() - fit.count.sum() == pytest.approx(40, abs=3)
    rms = [np.sqrt(np.mean((f.g1 - SQUARE[0]) ** 2)) for f in (reference, fit, all_in)]
    assert rms[1] < 1.1 * rms[0] and rms[2] > 1.5 * rms[0]


@pytest.mark.parametrize("errors", ["known", "unknown", "too small"])
def test_covariance_is_that_of_many_trials(errors):
    disks = disks_of(SQUARE, sigma=0.1, shape=(40, 40), reach=45, missing=0.1)
    if errors == "unknown":
        fields = {n: disks.flat(n) for n in ("qx", "qy", "intensity")}
        disks = gpu4d.PointListArray(disks.offsets, fields, disks.shape)
    if errors == "too small":
        disks = disks.with_fields({n: disks.flat(n) / 3 for n in ("sx", "sy")})
    fit = gpu4d.fit_lattice(disks, SQUARE, origin=ORIGIN)
    for axis in (0, 1):
        deviation = np.stack([fit.g1[..., axis] - SQUARE[0, axis], fit.g2[..., axis] - SQUARE[1, axis]], -1)
        inverse = np.linalg.inv(fit.covariance[..., axis, :, :])
        distance = np.einsum("...i,...ij,...j", deviation, inverse, deviation)
        # a χ² of two degrees has the median 2 ln 2; from the scatter of 17 disks on average it is Hotelling's, a little wider
        assert np.median(distance) == pytest.approx(2 * np.log(2), rel=0.12)
    if errors == "unknown":
        assert np.isnan(fit.error_scale)
    else:
        assert fit.error_scale == pytest.approx(3.0 if errors == "too small" else 1.0, rel=0.03)


@pytest.mark.parametrize("unit", [1.0, 0.3, 1e-3, 1e-6, 7.0, 1e3])
def test_the_claimed_error_is_the_scatter_in_any_unit(unit):
    """Counts times a number, as float: g1 and g2 scatter about the true local lattice as their covariance says."""
    scan = gpu4d.simulate.bragg_scan((5, 6), dose=300.0, seed=4)
    patterns = unit * np.asarray(scan.cube.source.read(slice(0, 5), slice(0, 6)), np.float32)
    disks = gpu4d.find_bragg_disks(gpu4d.DataCube(patterns), scan.probe, min_significance=0, min_relative_intensity=0.05)
    a = np.column_stack([np.ones(len(scan.truth["hk"])), scan.truth["hk"]])
    true = np.linalg.pinv(a) @ scan.truth["positions"]  # origin, g1, g2 of every position
    fit = gpu4d.fit_lattice(disks, np.stack([scan.truth["g1"], scan.truth["g2"]]), origin=true[:, :, 0])
    error = np.stack([fit.g1 - true[:, :, 1], fit.g2 - true[:, :, 2]])
    claimed = np.stack([np.stack([fit.covariance[..., c, i, i] for c in (0, 1)], -1) for i in (0, 1)])
    assert 0.8 < np.sqrt(np.mean(error**2) / np.mean(claimed)) < 1.25


@pytest.mark.parametrize("weights", ["sqrt", "uniform"])
@pytest.mark.parametrize("errors", ["all", "some", "none"])
def test_errors_are_those_of_a_plain_least_squares(weights, errors):
    """x = P q with P = (AᵀWA)⁻¹AᵀW, so cov x = P V Pᵀ; residuals (1 − A P) q, so their covariance is (1 − A P) V (1 − A P)ᵀ."""
    disks = disks_of(SQUARE, sigma=0.1, shape=(3, 3))
    if errors == "some":
        disks = disks.with_fields({"sx": np.where(np.arange(len(disks)) % 3 == 0, np.nan, disks.flat("sx") / 2)})
    if errors == "none":
        disks = gpu4d.PointListArray(disks.offsets, {n: disks.flat(n) for n in ("qx", "qy", "intensity")}, disks.shape)
    fit = gpu4d.fit_lattice(disks, SQUARE, origin=ORIGIN, weights=weights, outliers=None)
    all_chi2 = []
    for i in range(9):
        p = disks[i // 3, i % 3]
        q = np.stack([p.qx, p.qy], -1)
        a = np.column_stack([np.ones(len(p)), np.rint((q - ORIGIN) @ np.linalg.inv(SQUARE))])
        w = p.intensity if weights == "sqrt" else np.ones(len(p))
        gain = np.linalg.pinv(a * np.sqrt(w)[:, None]) * np.sqrt(w)
        hat = np.eye(len(p)) - a @ gain
        r = hat @ q
        unit = np.sum(w[:, None] * r**2) / (2 * (len(p) - 3))
        np.testing.assert_allclose(fit.residual[i // 3, i % 3], np.sqrt(np.mean(r**2)), rtol=1e-11)
        chi2 = []
        for axis, name in enumerate(("sx", "sy")):
            s = p[name] if errors != "none" else np.full(len(p), np.nan)
            known = np.isfinite(s)
            v = np.where(known, s**2, unit / w)
            assert not fit.error_scale < 0.7
            scale = max(fit.error_scale, 1.0) ** 2 if errors != "none" else 1.0
            np.testing.assert_allclose(fit.covariance[i // 3, i % 3, axis] / scale, (gain * v @ gain.T)[1:, 1:], rtol=1e-9, atol=1e-15)
            if known.any():
                expected = np.diag(hat * v @ hat.T)
                chi2.append(np.sum((r[:, axis] / s)[known] ** 2) / np.sum((expected / s**2)[known]))
        all_chi2.append(np.mean(chi2) if chi2 else np.nan)
    if errors != "none":
        free = 2 * (disks.counts.reshape(-1) - 3)
        assert fit.error_scale == pytest.approx(np.sqrt(np.median(all_chi2 / (1 - 2 / (9 * free)) ** 3)), rel=1e-9)


def test_positions_without_a_fit_do_not_scale_the_errors():
    lattice = disks_of(SQUARE, sigma=0.1, shape=(10, 20), missing=0.1)
    rng = np.random.default_rng(5)
    rows = [np.stack([p[f] for f in ("qx", "qy", "intensity", "sx", "sy")], -1) for p in lattice]
    for r in rows[::2]:  # six disks of the lattice among many that are none: too few of all
        r[6:, :2] = rng.uniform(2, 125, (len(r) - 6, 2))
    fit = gpu4d.fit_lattice(from_lists(rows, (10, 20)), SQUARE, origin=ORIGIN)
    assert not fit.mask.reshape(-1)[::2].any() and fit.mask.reshape(-1)[1::2].all()
    assert fit.error_scale == pytest.approx(1.0, abs=0.05)


def test_large_local_rotation_is_indexed_from_low_orders():
    angle = np.radians(5.0)
    f = np.broadcast_to(turn(angle), (2, 2, 2, 2))
    fit = gpu4d.fit_lattice(disks_of(SQUARE, f, shape=(2, 2)), SQUARE, origin=ORIGIN)
    np.testing.assert_allclose(fit.g1, np.broadcast_to(turn(angle) @ SQUARE[0], (2, 2, 2)), atol=1e-9)


@pytest.mark.parametrize("device", [None, "device1"])
def test_batched_fit_in_the_strict_namespace(device, need):
    disks = disks_of(OBLIQUE, small_gradients((4, 5), 0.02, 0), sigma=0.05, missing=0.1, shape=(4, 5))
    expected = gpu4d.fit_lattice(disks, OBLIQUE, origin=ORIGIN)
    strict_library = need("array_api_strict")
    on = None if device is None else strict_library.Device(device)
    strict = in_namespace(disks, strict_library, on)
    fit = gpu4d.fit_lattice(strict, OBLIQUE, origin=ORIGIN)
    for name in ("g1", "g2", "origin", "covariance", "residual", "count", "indexed_fraction", "mask"):
        value = getattr(fit, name)
        assert arrays.device(value) == arrays.device(strict.offsets)
        np.testing.assert_allclose(arrays.to_numpy(value), getattr(expected, name), rtol=1e-9, atol=1e-11)


def test_blocks_do_not_change_the_answer(monkeypatch):
    import importlib

    module = importlib.import_module("gpu4d.crystal.fit_lattice")
    disks = disks_of(SQUARE, sigma=0.05, shape=(5, 5))
    whole = fit_lattice(disks, SQUARE, origin=ORIGIN)
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_allclose(fit_lattice(disks, SQUARE, origin=ORIGIN).g1, whole.g1, rtol=1e-13)


def test_errors_say_what_to_do():
    disks = disks_of(SQUARE, shape=(2, 2))
    with pytest.raises(InputError, match="find_lattice found none"):
        gpu4d.fit_lattice(disks, None)
    with pytest.raises(InputError, match="weights='best'"):
        gpu4d.fit_lattice(disks, SQUARE, weights="best")
    with pytest.raises(InputError, match="not parallel"):
        gpu4d.fit_lattice(disks, [[1.0, 0.0], [2.0, 0.0]])
    with pytest.raises(InputError, match="origin is"):
        gpu4d.fit_lattice(disks, SQUARE, origin=np.zeros((3, 3, 2)))
    with pytest.raises(InputError, match="PointListArray"):
        gpu4d.find_lattice(np.zeros((3, 2)))
    fields = {n: disks.flat(n) for n in ("qx", "qy", "intensity")}
    with pytest.raises(InputError, match="sx and sy"):
        gpu4d.fit_lattice(gpu4d.PointListArray(disks.offsets, fields, disks.shape), SQUARE, weights="errors")
    assert "indexed" in repr(Lattice(*SQUARE))
