"""The ellipse of points and of a lattice."""

import numpy as np
import pytest
from lattice_points import SQUARE

import gpu4d
from gpu4d.calibrate import ellipse_matrix
from gpu4d.calibrate.ellipse import ellipse_from_lattice
from gpu4d.errors import InputError


@pytest.mark.parametrize("theta", [-1.2, -0.3, 0.0, 0.7, np.pi / 2])
def test_ellipse_of_points_and_of_a_lattice(theta):
    a, b = 31.0, 29.5
    t = np.linspace(0, 2 * np.pi, 37)[:-1]
    axis = np.array([np.cos(theta), np.sin(theta)])
    points = a * np.cos(t)[:, None] * axis + b * np.sin(t)[:, None] * np.array([-axis[1], axis[0]])
    found = gpu4d.calibrate.ellipse(np.concatenate([points, [[np.nan, 0.0]]]))
    np.testing.assert_allclose(found, (a, b, theta), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(points @ ellipse_matrix(found).T, axis=-1), b, atol=1e-9)
    stretch = np.linalg.inv(ellipse_matrix((a, b, theta)))
    g1, g2 = (stretch @ g for g in SQUARE)
    measured = ellipse_from_lattice(g1, g2)
    np.testing.assert_allclose((measured[0] / measured[1], measured[2]), (a / b, theta), atol=1e-9)
    g1, g2 = (stretch @ v for v in (np.array([5.0, 1.0]), np.array([[0.5, -(3**0.5) / 2], [3**0.5 / 2, 0.5]]) @ np.array([5.0, 1.0])))
    np.testing.assert_allclose(ellipse_from_lattice(g1, g2, angle=np.pi / 3)[2], theta, atol=1e-9)


def test_ellipse_needs_directions():
    with pytest.raises(InputError, match="three or more"):
        gpu4d.calibrate.ellipse(np.array([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]))
