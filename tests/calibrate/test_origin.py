"""The origin against surfaces that are written down."""

import numpy as np
import pytest
from lattice_points import SQUARE, disks_of, from_lists

import gpu4d
from gpu4d.errors import InputError

X, Y = np.mgrid[:12, :15].astype(float)
PLANE = np.stack([60 + 0.3 * X - 0.2 * Y, 65 - 0.1 * X + 0.25 * Y], axis=-1)


def test_plane_from_disks_is_exact():
    o = gpu4d.calibrate.origin(disks_of(SQUARE, origin=PLANE, shape=(12, 15)))
    np.testing.assert_allclose(o.fitted, PLANE, atol=1e-9)
    np.testing.assert_allclose(o.measured, PLANE, atol=1e-9)
    assert not o.outliers.any() and o.residual.max() < 1e-9


def test_shift_larger_than_the_spacing_of_disks():
    wide = np.stack([40 + 4.0 * X, 80 - 3.0 * Y], axis=-1)  # 44 px over the scan; |g| is 20 px
    o = gpu4d.calibrate.origin(disks_of(SQUARE, origin=wide, shape=(12, 15), reach=45))
    np.testing.assert_allclose(o.fitted, wide, atol=1e-9)


def test_bright_bragg_disks_and_missing_beams_do_not_bend_the_surface():
    rng = np.random.default_rng(1)
    disks = disks_of(SQUARE, origin=PLANE, shape=(12, 15), sigma=0.05, seed=1)
    light, at = disks.flat("intensity").copy(), disks.positions
    distance = np.linalg.norm(np.stack([disks.flat("qx"), disks.flat("qy")], -1) - PLANE.reshape(-1, 2)[at], axis=-1)
    central = np.flatnonzero(distance < 1)
    swapped = central[rng.random(central.size) < 0.3]
    light[swapped + 1] = 5000.0  # the next disk outshines the beam at three positions in ten
    gone = np.isin(np.arange(light.size), central[rng.random(central.size) < 0.1])
    disks = disks.with_fields({"intensity": light}).where(~gone)
    o = gpu4d.calibrate.origin(disks)
    assert np.abs(o.fitted - PLANE).max() < 0.01
    assert np.isnan(o.measured[..., 0]).sum() >= 10  # no disk of another order is taken for a missing beam
    assert np.nanmax(np.abs(o.measured - PLANE)) < 0.2


def test_quadratic_surface_and_lower_orders():
    curved = PLANE + np.stack([0.02 * X * Y, 0.03 * X**2], axis=-1)
    curved[3, 3], curved[5, 9] = np.nan, curved[5, 9] + 7
    o = gpu4d.calibrate.origin(curved, fit="quadratic")
    truth = PLANE + np.stack([0.02 * X * Y, 0.03 * X**2], axis=-1)
    np.testing.assert_allclose(o.fitted, truth, atol=1e-6)
    assert o.outliers[5, 9] and o.outliers.sum() == 1
    np.testing.assert_allclose(gpu4d.calibrate.origin(PLANE, fit="constant").fitted[0, 0], PLANE.mean((0, 1)), atol=0.3)
    assert np.abs(gpu4d.calibrate.origin(curved, fit="plane", robust=False).fitted - truth).max() > 0.3


def test_robust_surface_solves_the_biweight_equations():
    """At an M-estimate the residuals, weighted by their own weights, are orthogonal to every term (Huber & Ronchetti, 7.3)."""
    rng = np.random.default_rng(4)
    measured = PLANE + rng.normal(0, 0.2, PLANE.shape)
    measured[rng.random(X.shape) < 0.15] += 6
    o = gpu4d.calibrate.origin(measured)
    r = measured - o.fitted
    length = np.linalg.norm(r, axis=-1)
    sigma = np.median(length) / np.sqrt(2 * np.log(2))  # median length of a Gaussian error in two dimensions
    weight = np.where(length < 4.685 * sigma, (1 - (length / (4.685 * sigma)) ** 2) ** 2, 0)
    assert (o.outliers == (weight == 0)).all() and 15 < o.outliers.sum() < 45
    for term in (np.ones_like(X), X - X.mean(), Y - Y.mean()):
        slope = np.sum(weight * term**2)
        for axis in (0, 1):
            assert abs(np.sum(weight * term * r[..., axis])) / slope < 1e-6 / np.sqrt(slope)
    np.testing.assert_allclose(o.residual, np.sqrt(np.mean(r[weight > 0] ** 2, axis=0)), rtol=1e-12)


def test_disks_with_nan_are_not_there():
    clean = disks_of(SQUARE, origin=PLANE, shape=(12, 15))
    qx = clean.flat("qx").copy()
    few = (clean.positions == 40) & (np.arange(len(clean)) >= clean.offsets[40] + 2)  # two disks are left at one position, one of them NaN
    qx[clean.offsets[40] + 1] = np.nan
    o = gpu4d.calibrate.origin(clean.with_fields({"qx": qx}).where(~few))
    np.testing.assert_allclose(o.measured, PLANE, atol=1e-9)


def test_one_position_and_one_row():
    assert gpu4d.calibrate.origin(PLANE[:1, :1]).fitted.tolist() == PLANE[:1, :1].tolist()
    np.testing.assert_allclose(gpu4d.calibrate.origin(PLANE[:1]).fitted, PLANE[:1], atol=1e-9)
    one_row = gpu4d.calibrate.origin(PLANE, where=X == 5).fitted  # a slope across it is not known: as small as can be
    np.testing.assert_allclose(one_row[5], PLANE[5], atol=1e-9)
    assert np.isfinite(one_row).all() and np.abs(one_row - PLANE).max() < 60


def test_centre_of_mass_planes_are_taken():
    planes = gpu4d.RealSlice(np.moveaxis(PLANE, -1, 0), "com", "px", labels=("com_x", "com_y"))
    o = gpu4d.calibrate.origin(planes)
    np.testing.assert_allclose(o.fitted, PLANE, atol=1e-9)
    assert "plane" in repr(o)


def test_where_leaves_positions_out():
    measured = PLANE.copy()
    measured[:4] += 5
    o = gpu4d.calibrate.origin(measured, where=X >= 4)
    np.testing.assert_allclose(o.fitted, PLANE, atol=1e-9)


def test_calibration_is_written_with_its_history():
    calibration = gpu4d.Calibration()
    gpu4d.calibrate.origin(PLANE).apply(calibration)
    np.testing.assert_allclose(calibration.origin, PLANE, atol=1e-9)
    assert "plane" in calibration.history[-1].how and calibration.origin_measured.shape == (12, 15, 2)


def test_errors_say_what_to_do():
    with pytest.raises(InputError, match="fit='cubic'"):
        gpu4d.calibrate.origin(PLANE, fit="cubic")
    with pytest.raises(InputError, match="guess="):
        gpu4d.calibrate.origin(disks_of(SQUARE, shape=(2, 2)), guess=(500.0, 500.0), radius=3.0)
    with pytest.raises(InputError, match="lower threshold"):
        gpu4d.calibrate.origin(from_lists([np.zeros((0, 5))] * 4, (2, 2)))
    with pytest.raises(InputError, match="lower threshold"):
        gpu4d.calibrate.origin(np.full((2, 2, 2), np.nan))


@pytest.mark.parametrize("fit", ["plane", "quadratic", "constant"])
@pytest.mark.parametrize("block", ["last rows", "first columns", "corner", "scattered"])
def test_a_block_of_wrong_origins_does_not_bend_the_surface(block, fit):
    """A grain at one end of the scan, whose diffracted beam is the brightest: a quarter of the positions is wrong in the same way."""
    x, y = np.mgrid[:20, :30]
    slope = 0.0 if fit == "constant" else 1.0
    truth = np.stack([30 + slope * (0.1 * x - 0.03 * y), 33 - slope * (0.05 * x - 0.08 * y)], -1)
    rng = np.random.default_rng(0)
    measured, wrong = truth + rng.normal(0, 0.05, truth.shape), np.zeros((20, 30), bool)
    if block == "last rows":
        wrong[15:] = True
    elif block == "first columns":
        wrong[:, :7] = True
    elif block == "corner":
        wrong[:10, 16:] = True
    else:
        wrong[rng.random((20, 30)) < 0.25] = True
    measured[wrong] += (12, 3)
    origin = gpu4d.calibrate.origin(measured, fit=fit)
    assert np.abs(origin.fitted - truth).max() < 0.1
    assert np.array_equal(origin.outliers & wrong, wrong) and origin.outliers.sum() - wrong.sum() < 12
