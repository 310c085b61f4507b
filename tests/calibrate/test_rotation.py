"""The rotation between detector and scan, from the curl of the centre of mass."""

import h5py
import numpy as np
import pytest
from gradient_fields import smooth_field, turned

import gpu4d
from gpu4d import calibrate
from gpu4d.errors import InputError


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("degrees", [-89.0, -30.0, 0.0, 12.3, 90.0])
def test_rotation_and_transpose_are_found(degrees, transpose):
    _, g = smooth_field(96, (48, 40), 0.08)
    found = calibrate.rotation(turned(g, np.deg2rad(degrees), transpose))
    off = (np.rad2deg(found.angle) - degrees + 90) % 180 - 90  # the curl leaves 180° open
    assert abs(off) < 0.02
    assert found.transpose == transpose
    assert found.decided
    assert found.margin > 1e3 and "curl more than 1000 times smaller" in str(found)


def test_closed_form_is_the_minimum_of_the_curve():
    rng = np.random.default_rng(1)
    found = calibrate.rotation(turned(smooth_field(64, (40, 40), 0.1)[1], 0.5) + 0.1 * rng.normal(size=(40, 40, 2)))
    assert abs(found.angles[np.argmin(found.curve)] - found.angle) <= np.pi / 180
    assert found.curve.min() >= found.curl[found.transpose]
    assert found.curl[False] < 0.5


def test_a_descan_plane_does_not_turn_the_answer():
    _, g = smooth_field(96, (48, 48), 0.08)
    x, y = np.meshgrid(np.arange(48), np.arange(48), indexing="ij")
    plane = np.stack([0.3 * x - 0.8 * y + 5, 0.9 * x + 0.1 * y], -1)
    clean, tilted = (calibrate.rotation(turned(g, 0.4) + p) for p in (0, plane))
    assert tilted.angle == pytest.approx(clean.angle, abs=1e-9)


def test_nan_positions_and_where_are_left_out():
    _, g = smooth_field(96, (48, 48), 0.08)
    field = turned(g, 0.4)
    field[10, 10] = np.nan
    field[:, 30:] = 1e3 * np.random.default_rng(0).normal(size=(48, 18, 2))
    use = np.zeros((48, 48), bool)
    use[:, :30] = True
    assert calibrate.rotation(field, where=use).angle == pytest.approx(0.4, abs=1e-3)


def test_noise_alone_leaves_the_transpose_undecided():
    found = calibrate.rotation(np.random.default_rng(3).normal(size=(64, 64, 2)))
    assert not found.decided


def test_a_stack_with_labels_is_a_field():
    _, g = smooth_field(96, (30, 30), 0.08)
    stack = gpu4d.RealSlice(np.moveaxis(turned(g, 0.2), -1, 0), labels=("com_x", "com_y"))
    assert calibrate.rotation(stack).angle == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("field", [np.zeros((5, 5)), np.zeros((2, 2, 2)), np.full((6, 6, 2), np.nan)])
def test_fields_without_a_curl_are_refused(field):
    with pytest.raises(InputError):
        calibrate.rotation(field)


def test_the_error_is_the_scatter_of_the_angle():
    x, y = np.meshgrid(np.linspace(-3, 3, 40), np.linspace(-3, 3, 40), indexing="ij")
    waves = np.sin(2.1 * x + 0.3) * np.cos(1.7 * y) + np.cos(1.3 * x - 2.4 * y)
    gradient = np.stack(np.gradient(waves), -1)
    angles, errors = [], []
    for seed in range(60):
        noise = np.random.default_rng(seed).normal(0, 0.1, gradient.shape)
        found = gpu4d.calibrate.rotation((gradient + noise) @ gpu4d.calibrate.scan_matrix(0.3))
        angles.append(found.angle)
        errors.append(found.error)
    assert 0.6 < np.sqrt(np.mean(np.square(errors))) / np.std(angles) < 1.5
    assert np.mean(np.abs(np.array(angles) - 0.3) < errors) > 0.5


@pytest.mark.parametrize("data", ["noisefree", "poisson_1e5"])
def test_a_simulated_scan_and_the_same_turned_and_transposed(shared_data, data):
    with h5py.File(shared_data / "mos2_ssb_infocus.h5") as file:
        com = gpu4d.center_of_mass(file[data][:, :, ...])
    found = gpu4d.calibrate.rotation(com)
    assert abs(found.angle) < np.deg2rad(1) and not found.transpose and found.decided
    turned = gpu4d.calibrate.rotation(com @ gpu4d.calibrate.scan_matrix(np.deg2rad(15), True))
    assert abs(turned.angle - np.deg2rad(15)) < np.deg2rad(1) and turned.transpose and turned.decided
