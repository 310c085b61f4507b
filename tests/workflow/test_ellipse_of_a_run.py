"""An elliptical distortion in `gpu4d run`: without a calibration it is named with its size, with one it is removed."""

import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import ellipse_matrix
from gpu4d.workflow.analyse import analyse
from gpu4d.workflow.recipe import Recipe

ELLIPSE = (1.03, 1.0, np.deg2rad(25))
SQUARE = np.array([[17.0, 3.0], [-3.0, 17.0]])


@pytest.fixture(scope="module")
def distorted():
    """A scan of a square lattice, seen through an ellipse of 3 % at 25°."""
    g1, g2 = SQUARE @ np.linalg.inv(ellipse_matrix(ELLIPSE)).T
    return gpu4d.simulate.bragg_scan((8, 8), (96, 96), radius=4.0, g1=tuple(g1), g2=tuple(g2), dose=60.0, strain_size=1e-3, seed=1).cube


def state_of(cube, ellipse=None):
    cube = gpu4d.DataCube(cube.source, gpu4d.Calibration(ellipse=ellipse))
    return analyse(cube, Recipe())


def test_without_a_calibration_it_is_named_with_its_size(distorted):
    (warning,) = [line for line in state_of(distorted).record.warnings if "ellipse is visible" in line]
    assert "square but for a stretch of 3.0" in warning or "square but for a stretch of 2.9" in warning
    assert "along 25." in warning or "along 24." in warning
    assert "gpu4d calibrate" in warning


def test_with_a_calibration_there_is_nothing_to_name(distorted):
    state = state_of(distorted, ELLIPSE)
    assert not [line for line in state.record.warnings if "ellipse" in line]
    found = gpu4d.crystal.lattice_lengths(state["lattice_fit"], ELLIPSE)
    assert found.lengths[0] == pytest.approx(found.lengths[1], rel=1e-3) and np.degrees(found.angle) == pytest.approx(90, abs=0.1)
