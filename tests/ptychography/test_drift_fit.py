"""A steady drift fitted together with aberrations: its equations, scans with a known drift, and what no data tell."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.ptychography.aberration_parts import Parts
from gpu4d.ptychography.drift_fit import LIKELY, Drifting, joint_equations
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.sideband_fit import Sidebands, count_pairs, normal_equations

TURN = {"rotation": 0.4, "origin": (22, 22), "pixels": 250, "frequencies": 70}  # fewer than usual, which is enough and faster


def drifting_scan(drift, fast=1, seed=1):
    """40 × 40 positions at 0.35 Å, defocus 120 Å; `drift` in Å over the scan."""
    i, j = np.meshgrid(np.arange(40), np.arange(40), indexing="ij")
    late = (i + j / 40) / 40 if fast == 1 else (j + i / 40) / 40
    places = 0.35 * np.stack([i, j], -1) + np.asarray(drift) * late[..., None]
    optics = {"cell": 16.8, "defocus": 120.0, "rotation": 0.4, "dose": 1e5, "strength": 0.2}
    return gpu4d.simulate.phase_object_scan((40, 40), (44, 44), r_pixel=0.35, positions=places, seed=seed, **optics).cube, places


@pytest.mark.parametrize(("drift", "fast"), [((1.5, -1.0), 1), ((-1.0, 0.8), 0)])
def test_a_known_drift_and_defocus(drift, fast):
    cube, places = drifting_scan(drift, fast)
    found = gpu4d.fit_aberrations(cube, coefficients=["C10"], drift=True, fast_axis=fast, **TURN)
    assert (np.abs(found.drift - drift) < 4 * found.drift_error).all() and found.drift_error.max() < 0.3
    assert abs(found.aberrations["C10"] + 120) < 4 * found.errors["C10"] < 5
    assert np.abs(found.positions - places).max() < 4 * found.drift_error.max()
    assert any("steady drift" in line for line in found.decisions)


def test_with_astigmatism_only_the_drift_along_the_rows_is_told():
    """With C12 free, the drift across the rows stays what is assumed of it, and C12 has the error that goes with that."""
    cube, _ = drifting_scan((0.0, -1.0))
    found = gpu4d.fit_aberrations(cube, coefficients=["C10", "C12"], drift=True, **TURN)
    assert found.drift_error[0] == pytest.approx(LIKELY * 40 * 0.35, rel=0.05)
    assert np.sqrt(np.trace(found.covariance[1:, 1:])) > 2  # Å, of both parts of C12
    assert abs(found.drift[1] + 1.0) < 4 * found.drift_error[1] < 1
    assert any("hardly tell the drift" in line for line in found.warnings)


def test_calibrated_positions_leave_no_drift():
    cube, places = drifting_scan((1.5, -1.0))
    cube.calibration.set(positions=places, how="simulation")
    found = gpu4d.fit_aberrations(cube, coefficients=["C10"], drift=True, **TURN)
    assert (np.abs(found.drift) < 4 * found.drift_error).all()
    assert np.abs(found.positions - places).max() < 4 * found.drift_error.max()


@pytest.fixture
def equations():
    """Side bands with noise at a few frequencies, C10 and C12, and a function that gives their equations at any place."""
    rng = np.random.default_rng(0)
    known = Experiment(80e3, 0.35, 1 / 16.8, 0.3, False, (0.0, 0.0), 9.0)
    cycles = rng.uniform(-0.25, 0.25, (5, 2))
    drifting = Drifting(known, (40, 36), 1, cycles)
    parts = Parts.of(["C10", "C12"], known)
    at = rng.uniform(-8, 8, (200, 2))
    at = at[np.hypot(*at.T) < 8]
    places = drifting.places(np.zeros(2))
    spectra = rng.normal(size=(len(at), 5)) + 1j * rng.normal(size=(len(at), 5))
    pairs = count_pairs(at, places, 9.0, 0.75)
    bands = Sidebands(spectra, at, places, rng.uniform(0.5, 1.5, len(at)), 9.0, 0.75, pairs)
    return bands, parts, drifting


def test_without_drift_the_equations_are_those_of_the_fit(equations):
    bands, parts, drifting = equations
    scaled = np.array([2.0, 0.5, -0.7])
    joint = joint_equations(bands, parts, np.concatenate([scaled, [0.0, 0.0]]), drifting)
    alone = normal_equations(bands.products(parts.chi(scaled), parts.each()))
    assert joint.misfit == pytest.approx(alone.misfit, rel=1e-6) and joint.power == pytest.approx(alone.power, rel=1e-9)
    assert joint.gradient[:, :3] == pytest.approx(alone.gradient, rel=1e-5, abs=1e-5)
    assert joint.curvature[:3, :3] == pytest.approx(alone.curvature, rel=1e-5)


def test_the_gradient_is_that_of_the_misfit(equations):
    bands, parts, drifting = equations
    vector = np.array([2.0, 0.5, -0.7, 0.6, -0.4])
    gradient = joint_equations(bands, parts, vector, drifting).gradient.sum(0)
    for i, nudge in enumerate(1e-4 * np.eye(5)):
        up, down = (joint_equations(bands, parts, vector + sign * nudge, drifting).misfit for sign in (1, -1))
        assert -(up - down) / 4e-4 == pytest.approx(gradient[i], rel=1e-3, abs=1e-3)


def test_what_is_refused():
    cube, _ = drifting_scan((0.0, 0.0))
    with pytest.raises(InputError, match="fast_axis=2"):
        gpu4d.fit_aberrations(cube, coefficients=["C10"], drift=True, fast_axis=2, **TURN)
