"""Strain against deformation gradients that are written down, and against the multislice scan with truth."""

import h5py
import numpy as np
import pytest
from lattice_points import OBLIQUE, SQUARE, disks_of, in_namespace, small_gradients, turn

import gpu4d
from gpu4d import arrays
from gpu4d.crystal.lattice import canonical
from gpu4d.errors import InputError

ORIGIN = (63.0, 64.5)
SHAPE = (6, 7)


def strain_of(f, basis=OBLIQUE, **options):
    """Strain from the disks of a crystal with gradients f, relative to its undeformed lattice."""
    lattice = canonical(basis)
    fit = gpu4d.fit_lattice(disks_of(basis, f, shape=f.shape[:2]), lattice, origin=ORIGIN)
    return gpu4d.strain_map(fit, lattice=lattice, **options)


def polar(f):
    """R and U of F = R U, by singular values."""
    u, s, v = np.linalg.svd(f)
    return u @ v, np.swapaxes(v, -1, -2) * s[..., None, :] @ v


def both(**gradient):
    """One F for a 1×1 scan: 1 + the named displacement gradients, h01 = ∂u₁/∂x₂."""
    f = np.eye(2)
    for name, value in gradient.items():
        f[int(name[1]), int(name[2])] += value
    return f[None, None]


# ---------------------------------------------------------------- definitions


def test_finite_strain_and_rotation_are_exact():
    f = turn(np.radians(4.0)) @ small_gradients(SHAPE, 0.03, 0)
    s = strain_of(f)
    r, u = polar(f)
    np.testing.assert_allclose(s.exx, u[..., 0, 0] - 1, atol=1e-10)
    np.testing.assert_allclose(s.eyy, u[..., 1, 1] - 1, atol=1e-10)
    np.testing.assert_allclose(s.exy, u[..., 0, 1], atol=1e-10)
    np.testing.assert_allclose(s.rotation, np.arctan2(r[..., 1, 0], r[..., 0, 0]), atol=1e-10)
    np.testing.assert_allclose(s.theta, -np.asarray(s.rotation), atol=0)


def test_infinitesimal_and_first_order_by_their_formulas():
    f = small_gradients(SHAPE, 0.02, 1)
    h, beta = f - np.eye(2), np.swapaxes(np.linalg.inv(f), -1, -2)
    s = strain_of(f, definition="infinitesimal")
    for value, truth in zip((s.exx, s.eyy, s.exy), (h[..., 0, 0], h[..., 1, 1], (h[..., 0, 1] + h[..., 1, 0]) / 2)):
        np.testing.assert_allclose(value, truth, atol=1e-10)
    np.testing.assert_allclose(s.theta, (h[..., 0, 1] - h[..., 1, 0]) / 2, atol=1e-10)
    s = strain_of(f, definition="first_order")
    for value, truth in zip((s.exx, s.eyy, s.exy), (1 - beta[..., 0, 0], 1 - beta[..., 1, 1], -(beta[..., 0, 1] + beta[..., 1, 0]) / 2)):
        np.testing.assert_allclose(value, truth, atol=1e-10)
    np.testing.assert_allclose(s.theta, (beta[..., 0, 1] - beta[..., 1, 0]) / 2, atol=1e-10)


@pytest.mark.parametrize("definition", ["finite", "infinitesimal", "first_order"])
def test_signs_are_the_same_in_every_definition(definition):
    tension = strain_of(both(h00=1e-3), definition=definition)
    assert tension.exx.data[0, 0] == pytest.approx(1e-3, rel=0.01)  # the lattice grows along x: g shrinks there
    shear = strain_of(both(h01=1e-3), definition=definition)
    assert shear.exy.data[0, 0] == pytest.approx(0.5e-3, rel=0.01)
    assert shear.theta.data[0, 0] == pytest.approx(0.5e-3, rel=0.01)  # ½ ∂u₁/∂x₂
    assert shear.rotation.data[0, 0] == pytest.approx(-0.5e-3, rel=0.01)


@pytest.mark.parametrize("degrees", [-6.0, 0.5, 6.0])
def test_pure_rotation_reads_zero_strain(degrees):
    f = np.broadcast_to(turn(np.radians(degrees)), (2, 2, 2, 2))
    s = strain_of(f)
    for part in (s.exx, s.eyy, s.exy):
        np.testing.assert_allclose(part, 0, atol=1e-12)
    np.testing.assert_allclose(s.rotation, np.radians(degrees), atol=1e-12)
    assert abs(strain_of(f, definition="infinitesimal").exx.data[0, 0]) == pytest.approx(1 - np.cos(np.radians(degrees)), rel=1e-6)


# ---------------------------------------------------------------- reference


def test_reference_from_a_region_is_relative_to_it():
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[:, 4:] = np.diag([1.02, 0.99])
    fit = gpu4d.fit_lattice(disks_of(SQUARE, f), SQUARE, origin=ORIGIN)
    left = np.zeros(SHAPE, bool)
    left[:, :4] = True
    for statistic in ("median", "mean"):
        s = gpu4d.strain_map(fit, region=left, reference=statistic)
        np.testing.assert_allclose(s.exx.data[:, 4:], 0.02, atol=1e-10)
        np.testing.assert_allclose(s.eyy.data[:, 4:], -0.01, atol=1e-10)
        assert "24 positions of the region" in s.reference.how and statistic in s.reference.how
    whole = gpu4d.strain_map(fit)  # 4 of 7 columns are unstrained: so is the median
    np.testing.assert_allclose(whole.exx.data[:, :4], 0, atol=1e-10)
    with pytest.raises(InputError, match="region"):
        gpu4d.strain_map(fit, region=np.zeros(SHAPE, bool))
    with pytest.raises(InputError, match="one bool per scan position"):
        gpu4d.strain_map(fit, region=np.ones((3, 3), bool))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rotation": 30.0}, r"rotation is 30 rad, 4.8 turns: is it in degrees"),
        ({"rotation": float("nan")}, "rotation is nan: need an angle in radians"),
        ({"max_strain": -1}, "max_strain=-1: need a positive strain"),
        ({"max_strain": float("nan")}, "max_strain=nan: need a positive strain"),
    ],
)
def test_numbers_that_are_no_angle_or_no_limit_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        strain_of(both(h00=0.01), **options)


def test_axes_are_turned_by_radians_only():
    s = strain_of(both(h00=0.01))
    assert float(np.asarray(s.rotated(-2 * np.pi).exx)[0, 0]) == pytest.approx(0.01, abs=1e-10)
    for angle in (float("nan"), 30.0):
        with pytest.raises(InputError, match="radians"):
            s.rotated(angle)


def test_reference_in_another_basis_is_refused():
    fit = gpu4d.fit_lattice(disks_of(SQUARE), SQUARE, origin=ORIGIN)
    with pytest.raises(InputError, match="which of them is g1"):
        gpu4d.strain_map(fit, lattice=SQUARE[::-1])
    with pytest.raises(InputError, match="definition='small'"):
        gpu4d.strain_map(fit, definition="small")


def test_positions_without_a_lattice_are_nan_and_not_in_the_reference():
    disks = disks_of(SQUARE)
    keep = disks.positions != 9
    fit = gpu4d.fit_lattice(disks.where(keep), SQUARE, origin=ORIGIN)
    s = gpu4d.strain_map(fit)
    assert not s.mask[1, 2] and s.mask.sum() == 41 and np.isnan(s.exx.data[1, 2]) and np.isnan(s.uncertainty.data[:, 1, 2]).all()
    np.testing.assert_allclose(s.exx.data[s.mask], 0, atol=1e-10)


# ---------------------------------------------------------------- axes


def test_scan_axes_by_the_calibrated_rotation_and_transpose():
    f = small_gradients(SHAPE, 0.02, 2)
    _, u = polar(f)
    for transpose in (False, True):
        calibration = gpu4d.Calibration(rotation=0.7, transpose=transpose, r_pixel=20.0)
        q = turn(0.7) @ (np.array([[0.0, 1.0], [1.0, 0.0]]) if transpose else np.eye(2))  # v_scan = R(θ) v_det after the swap
        expected = q @ (u - np.eye(2)) @ q.T
        s = strain_of(f, calibration=calibration)
        np.testing.assert_allclose(s.exx, expected[..., 0, 0], atol=1e-10)
        np.testing.assert_allclose(s.eyy, expected[..., 1, 1], atol=1e-10)
        np.testing.assert_allclose(s.exy, expected[..., 0, 1], atol=1e-10)
        sign = -1 if transpose else 1  # a mirrored frame sees the lattice turn the other way
        np.testing.assert_allclose(s.rotation, sign * np.asarray(strain_of(f).rotation), atol=1e-10)
        assert s.axes.frame == "scan" and not s.warnings and s.exx.pixel_size == 20.0 and s.exx.pixel_units == "Å"
        np.testing.assert_allclose(s.axes.on_detector @ q.T, np.eye(2), atol=1e-12)


def test_detector_axes_carry_a_warning():
    s = strain_of(small_gradients((1, 2), 0.01, 0))
    assert s.axes.frame == "detector" and any("not calibrated" in w for w in s.warnings) and "detector axes" in str(s.axes)


@pytest.mark.parametrize("angle", [0.3, np.pi / 2, -2.0])
def test_rotated_axes_by_the_tensor_formula(angle):
    s = strain_of(small_gradients(SHAPE, 0.02, 4))
    exx, eyy, exy = (np.asarray(v) for v in (s.exx, s.eyy, s.exy))
    c, d = np.cos(angle), np.sin(angle)
    turned = s.rotated(angle)
    np.testing.assert_allclose(turned.exx, c * c * exx + d * d * eyy + 2 * c * d * exy, atol=1e-12)
    np.testing.assert_allclose(turned.eyy, d * d * exx + c * c * eyy - 2 * c * d * exy, atol=1e-12)
    np.testing.assert_allclose(turned.exy, (c * c - d * d) * exy + c * d * (eyy - exx), atol=1e-12)
    np.testing.assert_allclose(turned.theta, s.theta, atol=1e-12)
    np.testing.assert_allclose(turned.rotated(-angle).exx, exx, atol=1e-12)
    assert turned.axes.angle == pytest.approx(angle)


def test_axis_along_a_lattice_vector():
    stretch = np.eye(2) + 0.01 * np.outer(SQUARE[0], SQUARE[0]) / (SQUARE[0] @ SQUARE[0])  # 1 % along g1 alone
    s = strain_of(np.broadcast_to(stretch, (2, 2, 2, 2)), SQUARE, rotation="g1")
    np.testing.assert_allclose([s.exx.data[0, 0], s.eyy.data[0, 0], s.exy.data[0, 0]], [0.01, 0, 0], atol=1e-10)


def test_ellipse_is_taken_out_before_the_strain():
    f = small_gradients(SHAPE, 0.01, 6)
    distortion = np.linalg.inv(gpu4d.calibrate.ellipse_matrix((1.03, 1.0, 0.4)))
    disks = disks_of(SQUARE @ distortion.T, distortion.T @ np.swapaxes(f, -1, -2) @ np.linalg.inv(distortion.T))
    rows = SQUARE @ np.linalg.inv(f) @ distortion.T
    f_seen = np.linalg.inv(rows) @ SQUARE @ distortion.T
    disks = disks_of(SQUARE @ distortion.T, f_seen)
    fit = gpu4d.fit_lattice(disks, SQUARE @ distortion.T, origin=ORIGIN)
    s = gpu4d.strain_map(fit, lattice=SQUARE @ distortion.T, calibration=gpu4d.Calibration(ellipse=(1.03, 1.0, 0.4)))
    np.testing.assert_allclose(s.exy, polar(f)[1][..., 0, 1], atol=1e-10)


# ---------------------------------------------------------------- uncertainty


@pytest.mark.parametrize("definition", ["finite", "infinitesimal", "first_order"])
@pytest.mark.parametrize("known", [True, False])
def test_uncertainty_is_one_standard_error(definition, known):
    f = turn(0.03) @ np.diag([1.02, 0.99])
    disks = disks_of(OBLIQUE, f, shape=(30, 40), sigma=0.1, missing=0.1)
    if not known:
        disks = gpu4d.PointListArray(disks.offsets, {n: disks.flat(n) for n in ("qx", "qy", "intensity")}, disks.shape)
    fit = gpu4d.fit_lattice(disks, OBLIQUE, origin=ORIGIN)
    s = gpu4d.strain_map(fit, lattice=OBLIQUE, definition=definition).rotated(0.5)
    truth = strain_of(f[None, None], OBLIQUE @ np.eye(2), definition=definition).rotated(0.5)
    assert s.uncertainty.labels == ("e_xx", "e_yy", "e_xy", "theta")
    for name, part, right in zip(s.uncertainty.labels, (s.exx, s.eyy, s.exy, s.theta), (truth.exx, truth.eyy, truth.exy, truth.theta)):
        inside = np.mean(np.abs(part - right.data[0, 0]) <= s.uncertainty[name])
        assert inside == pytest.approx(0.683, abs=0.05)


# ---------------------------------------------------------------- what comes out


def test_large_strain_is_flagged_and_kept():
    f = np.broadcast_to(np.eye(2), (*SHAPE, 2, 2)).copy()
    f[0, 0] = np.diag([1.06, 1.0])
    s = strain_of(f, max_strain=0.05)
    assert any("1 position with strain above 0.05" in w for w in s.warnings) and s.exx.data[0, 0] == pytest.approx(0.06)


def test_stacks_to_save():
    s = strain_of(small_gradients(SHAPE, 0.01, 0))
    saved = s.to_emd()
    assert saved[""].labels == ("e_xx", "e_yy", "e_xy", "theta", "mask") and saved[""].shape == (5, *SHAPE)
    np.testing.assert_array_equal(saved[""]["e_xy"], s.exy.data)
    np.testing.assert_array_equal(saved[""]["mask"], 1.0)
    assert saved["uncertainty"].shape == (4, *SHAPE) and "relative to the given lattice" in repr(s)


@pytest.mark.parametrize("device", [None, "device1"])
def test_strict_namespace_gives_the_same(device, need):
    disks = disks_of(OBLIQUE, small_gradients((4, 5), 0.02, 0), sigma=0.05, shape=(4, 5))
    strict_library = need("array_api_strict")
    on = None if device is None else strict_library.Device(device)
    calibration = gpu4d.Calibration(rotation=0.2, ellipse=(1.01, 1.0, 0.3))
    for definition in ("finite", "infinitesimal", "first_order"):
        expected, strict = (
            gpu4d.strain_map(gpu4d.fit_lattice(d, OBLIQUE, origin=ORIGIN), definition=definition, calibration=calibration)
            for d in (disks, in_namespace(disks, strict_library, on))
        )
        for name in ("exx", "eyy", "exy", "theta", "uncertainty"):
            np.testing.assert_allclose(arrays.to_numpy(getattr(strict, name).data), getattr(expected, name).data, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_other_libraries_give_the_same(need, library):
    disks = disks_of(OBLIQUE, small_gradients((4, 5), 0.02, 0), sigma=0.05, missing=0.1, shape=(4, 5))
    xp = need(library)
    there = gpu4d.PointListArray(xp.asarray(disks.offsets), {n: xp.asarray(disks.flat(n)) for n in disks.fields}, disks.shape)
    found = [gpu4d.strain_map(gpu4d.fit_lattice(d, OBLIQUE)) for d in (disks, there)]
    assert type(found[1].exx.data) is type(there.flat("qx"))
    for name in ("exx", "eyy", "exy", "theta", "uncertainty"):
        np.testing.assert_allclose(getattr(found[1], name), getattr(found[0], name), rtol=1e-8, atol=1e-12)


# ---------------------------------------------------------------- from patterns


@pytest.mark.parametrize("rotation,transpose", [(0.6, False), (-1.1, True)])
def test_simulated_patterns_with_a_turned_detector(rotation, transpose):
    scan = gpu4d.simulate.bragg_scan((8, 10), rotation=rotation, transpose=transpose, vacuum_rows=2, seed=3)
    calibration = gpu4d.Calibration(rotation=rotation, transpose=transpose)
    disks = gpu4d.find_bragg_disks(scan.cube, gpu4d.probe.template(scan.probe))
    origin = gpu4d.calibrate.origin(disks)
    np.testing.assert_allclose(origin.fitted, scan.truth["origin"], atol=0.03)
    fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)
    s = gpu4d.strain_map(fit, lattice=canonical(np.stack([scan.truth["g1"], scan.truth["g2"]])), calibration=calibration)
    np.testing.assert_array_equal(s.mask, scan.truth["specimen"])
    for name in ("exx", "eyy", "exy", "theta"):  # strains up to 2 %, errors of 2e-4 and a common offset of as much
        np.testing.assert_allclose(getattr(s, name).data[2:], scan.truth[name][2:], atol=2e-3, err_msg=name)


# ---------------------------------------------------------------- multislice scan with truth


@pytest.mark.parametrize("dose,rms_limit,bias_limit", [("poisson_1e5", 5e-4, 2e-4), ("poisson_5e3", 2.5e-3, 1e-3)])
def test_multislice_gold_relative_to_its_border(shared_data, dose, rms_limit, bias_limit):
    with h5py.File(shared_data / "au_nbed_strain.h5") as file:
        patterns, probe = file[dose][:], file["truth/vacuum_probe"][:]
        border = file["truth/state_index"][:] == 0
        # there x is the column: their exx is our eyy; theta has the sign of our theta
        truth = {
            ours: file[f"truth/{theirs}"][:] for ours, theirs in (("exx", "eyy"), ("eyy", "exx"), ("exy", "exy"), ("theta", "theta_rad"))
        }
    disks = gpu4d.find_bragg_disks(patterns, gpu4d.probe.template(probe))
    origin = gpu4d.calibrate.origin(disks)
    lattice = gpu4d.find_lattice(disks, origin)
    assert lattice.indexed_fraction > 0.98 and np.allclose(lattice.lengths, 24.57, rtol=0.01)
    s = gpu4d.strain_map(gpu4d.fit_lattice(disks, lattice, origin=origin), region=border)
    assert s.mask.all()
    for name, expected in truth.items():
        error = getattr(s, name).data - expected
        error -= np.median(error[border])
        assert np.sqrt(np.mean(error**2)) <= rms_limit and abs(np.mean(error)) <= bias_limit, name
