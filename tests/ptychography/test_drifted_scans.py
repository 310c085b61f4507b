"""A steady drift makes the grid of a scan oblique. With calibrated positions ptychography is exact for it."""

import numpy as np
import pytest

import gpu4d
from gpu4d.ptychography.experiment import experiment

STEPS = np.array([[0.30, 0.01], [-0.05, 0.33]])  # Å: places are STEPS @ (i, j)
TURN = {"rotation": 0.4, "origin": (24, 24)}


@pytest.fixture(scope="module")
def drifted():
    """A scan of 48 × 48 positions on an oblique grid, defocus 120 Å, whose calibration has the positions."""
    i, j = np.meshgrid(np.arange(48), np.arange(48), indexing="ij")
    places = np.stack([i, j], -1) @ STEPS.T
    optics = {"cell": 19.2, "defocus": 120.0, "rotation": 0.4, "dose": 1e5}
    scan = gpu4d.simulate.phase_object_scan((48, 48), (48, 48), r_pixel=0.3, strength=0.2, positions=places, seed=1, **optics)
    scan.cube.calibration.set(positions=places, how="simulation")
    return scan


def alike(found, true):
    inside = (slice(6, -6), slice(6, -6))  # the scan is no period of the cell: its border is wrong in any case
    return float(np.corrcoef(np.asarray(found)[inside].ravel(), true[inside].ravel())[0, 1])


def test_aberrations_are_right_with_the_positions_and_wrong_without(drifted):
    found = gpu4d.fit_aberrations(drifted.cube, coefficients=["C10", "C12"], **TURN)
    assert abs(found.aberrations["C10"] + 120) < 4 * found.errors["C10"] < 4 and found.aberrations["C12"] < 2
    regular = gpu4d.fit_aberrations(drifted.cube, coefficients=["C10", "C12"], r_pixel=0.3, **TURN)
    assert abs(regular.aberrations["C10"] + 120) > 4 and regular.misfit > found.misfit + 0.05


def test_the_phase_is_better_with_the_positions(drifted):
    options = {"aberrations": {"defocus": 120.0}, **TURN}
    found, regular = gpu4d.ssb(drifted.cube, **options), gpu4d.ssb(drifted.cube, r_pixel=0.3, **options)
    assert alike(found.phase, drifted.truth["phase"]) > alike(regular.phase, drifted.truth["phase"]) + 0.02
    assert np.array_equal(found.positions, drifted.cube.calibration.positions) and regular.positions is None
    assert any("fitted to the calibrated positions" in line for line in found.decisions)


def test_parallax_follows_the_positions(drifted):
    """The shifts of images are ∇χ / 2π in Å. In steps of an oblique grid they are V⁻¹ of that."""
    found = gpu4d.parallax(drifted.cube, aberrations={"defocus": 120.0}, **TURN)
    regular = gpu4d.parallax(drifted.cube, aberrations={"defocus": 120.0}, r_pixel=1.0, **TURN)
    assert found.shifts @ STEPS.T == pytest.approx(regular.shifts, abs=1e-12)
    one = np.array([[0.2, 0.1], [0.0, 0.4]])
    assert found.transfer(one) == pytest.approx(regular.transfer(one), abs=1e-12)


@pytest.mark.slow
def test_parallax_measures_shifts_on_the_oblique_grid():
    """Virus-like particles far out of focus, the steps as oblique: shifts give the rotation and the defocus."""
    i, j = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
    places = np.stack([i, j], -1) @ np.array([[30.0, 0.0], [-6.0, 27.0]]).T
    optics = {"energy": 300e3, "semiangle": 1.0, "r_pixel": 30.0, "defocus": 5e4, "rotation": 0.5}
    scan = gpu4d.simulate.phase_object_scan((32, 32), (110, 110), object="particles", strength=0.5, positions=places, **optics)
    scan.cube.calibration.set(positions=places, how="simulation")
    found = gpu4d.parallax(scan.cube, origin=(55, 55), rotation=0.5, pixels=500)
    assert found.aberrations["C10"] == pytest.approx(-5e4, rel=0.1) and found.rotation == pytest.approx(0.5, abs=0.05)
    assert found.aberrations["C12"] < 0.1 * 5e4


def test_frequencies_of_an_oblique_grid(drifted):
    """A wave exp(2πi K · r) has on the grid the frequency Vᵀ K in cycles per step."""
    known = experiment(drifted.cube, **TURN)
    on_detector = np.array([2.0, -1.0])  # pixels
    scan_axes = known.q_pixel * on_detector @ np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]).T
    assert STEPS.T @ scan_axes @ known.cycle() == pytest.approx(on_detector)
    assert known.in_steps(np.array([STEPS[:, 0]])) == pytest.approx(np.array([[1.0, 0.0]]), abs=1e-9)
    plain = experiment(drifted.cube, r_pixel=0.3, **TURN)
    assert plain.vectors is None and plain.steps == pytest.approx(0.3 * np.eye(2))


def test_positions_far_from_any_grid_are_warned_of(drifted):
    cube = gpu4d.DataCube(drifted.cube.source, drifted.cube.calibration.copy())
    shaken = cube.calibration.positions + np.random.default_rng(0).normal(0, 0.3, (48, 48, 2))
    cube.calibration.set(positions=shaken, how="test")
    assert any("off the oblique grid" in line for line in experiment(cube, **TURN).warnings)
