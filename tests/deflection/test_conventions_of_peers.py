"""What other programs mean by rotation, flip and sign: each row of the table in docs/how-to/dpc.md."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import scan_matrix

ANGLES = np.deg2rad([0.0, 17.0, -64.0, 90.0, 153.0])


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


SWAP, FLIP_FIRST, FLIP_SECOND = np.array([[0, 1], [1, 0]]), np.diag([-1, 1]), np.diag([1, -1])


@pytest.mark.parametrize("angle", ANGLES)
def test_py4dstem(angle):
    """`QR_rotation` (radians) and `QR_flip`; `force_com_rotation` is in degrees: x' = x cos − y sin after exchanging x and y."""
    for flip in (False, True):
        theirs = turn(angle) @ (SWAP if flip else np.eye(2))
        np.testing.assert_allclose(scan_matrix(angle, flip), theirs, atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
def test_libertem(angle):
    """`scan_rotation` (degrees) turns (y, x) by [[cos, sin], [−sin, cos]], after y → −y where `flip_y`. y is the first axis."""
    theirs = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(scan_matrix(-angle, False), theirs, atol=1e-12)
    np.testing.assert_allclose(scan_matrix(np.pi / 2 - angle, True), theirs @ FLIP_FIRST, atol=1e-12)


@pytest.mark.parametrize("angle", ANGLES)
def test_a_mirrored_camera(angle):
    """A camera read from below (first axis mirrored), or from the right, is a transpose and a quarter turn."""
    np.testing.assert_allclose(scan_matrix(angle + np.pi / 2, True), turn(angle) @ FLIP_FIRST, atol=1e-12)
    np.testing.assert_allclose(scan_matrix(angle - np.pi / 2, True), turn(angle) @ FLIP_SECOND, atol=1e-12)


def test_axes_written_the_other_way_round():
    """A file whose first axis is the column, in scan and detector: θ becomes −θ, as both planes are mirrored."""
    np.testing.assert_allclose(SWAP @ scan_matrix(0.4) @ SWAP, scan_matrix(-0.4), atol=1e-12)
    cube = gpu4d.DataCube(np.ones((3, 4, 5, 6)), gpu4d.Calibration(rotation=0.4, transpose=False))
    assert cube.swap_axes(scan=True, detector=True).calibration.rotation == pytest.approx(-0.4)


def test_abtem(shared_data):
    """Axes as they come: rotation 0, no transpose, and phases of atoms positive. Its complex centre of mass is com_x + i com_y."""
    with h5py.File(shared_data / "mos2_ssb_infocus.h5") as file:
        patterns, phase = file["poisson_1e5"][:], file["truth/phase_conv_probe_intensity_rad"][:]
    cube = gpu4d.DataCube(patterns, gpu4d.Calibration(energy=80e3, semiangle=25, q_pixel=1 / 22, r_pixel=0.2))
    found = gpu4d.dpc(cube, rotation=0.0, transpose=False)
    assert np.corrcoef(np.asarray(found.phase).ravel(), phase.ravel())[0, 1] > 0.97
    complex_com = np.asarray(found.com)[0] + 1j * np.asarray(found.com)[1]
    again = gpu4d.dpc(np.stack([complex_com.real, complex_com.imag], -1), q_pixel=1.0, r_pixel=0.2, rotation=0.0, descan=None)
    np.testing.assert_allclose(np.asarray(again.phase), np.asarray(found.phase), atol=1e-9)


def test_units_of_phases():
    """py4DSTEM's DPC phase is φ / 2π of ours; a gradient field in rad/Å is 2π ⟨k⟩; a deflection β in mrad is β / (1000 λ) in 1/Å."""
    x = np.arange(24.0)[:, None] + np.zeros(20)
    k = np.stack([np.full_like(x, 0.01), 0 * x], -1)  # 1/Å
    options = {"r_pixel": 2.0, "rotation": 0.0, "descan": None, "energy": 200e3}
    ours = gpu4d.dpc(k, q_pixel=1.0, **options)
    slope = np.diff(np.asarray(ours.phase)[4:-4], axis=0).mean() / 2.0
    assert slope == pytest.approx(2 * np.pi * 0.01, rel=0.01)
    wave = gpu4d.physics.wavelength(200e3)
    bend = np.asarray(ours.deflection())[0, 5, 5]
    assert bend / (1000 * wave) == pytest.approx(0.01)
