"""From ellipses of a ring to strain: the exact formula, its linear form, and tensors in other axes."""

import numpy as np
import pytest

from gpu4d.amorphous import ellipse_to_strain
from gpu4d.amorphous.ellipse_strain import turned
from gpu4d.errors import InputError


def ellipse(exx, eyy, exy):
    """A, B, C of the ring of a glass: the quadratic form of (1 + ε)²."""
    v = np.array([[1 + exx, exy], [exy, 1 + eyy]])
    form = v @ v
    return form[0, 0], 2 * form[0, 1], form[1, 1]


@pytest.mark.parametrize("strain", [(0.03, -0.02, 0.01), (0.0, 0.0, 0.2), (-0.4, 0.5, -0.3)])
def test_the_exact_formula_inverts_the_square(strain):
    np.testing.assert_allclose(np.array(ellipse_to_strain(*ellipse(*strain))), strain, atol=1e-14)


def test_shear_is_a_quarter_of_b_to_first_order_and_not_half_of_it():
    """The exact formula's own limit: B / (2 √(A + C + W)) with A = C = 1 and W = 2."""
    a, b, c = ellipse(1e-3, -2e-3, 4e-3)
    exact, linear = (np.array(ellipse_to_strain(a, b, c, linear=how)) for how in (False, True))
    assert np.abs(linear - exact).max() < 2e-5
    assert abs(b / 2 - exact[2]) > 3.9e-3, "half of B is twice the shear"


def test_arrays_and_what_is_no_ellipse():
    a, b, c = np.array([1.0, 1.0, 1.0, -1.0, np.nan]), np.array([0.0, 0.0, 3.0, 0.0, 0.0]), np.array([1.0, 1.21, 1.0, -1.0, 1.0])
    found = np.array(ellipse_to_strain(a, b, c))
    np.testing.assert_allclose(found[:, :2], [[0, 0], [0, 0.1], [0, 0]], atol=1e-15)
    assert np.isnan(found[:, 2:]).all()
    with pytest.raises(InputError, match="one shape"):
        ellipse_to_strain(a, b, c[:2])


def test_tensors_turn_as_matrices_do_and_covariances_with_them():
    rng = np.random.default_rng(0)
    angle = 0.7
    axes = np.array([[np.cos(angle), np.sin(angle)], [np.sin(angle), -np.cos(angle)]])  # with a reflection
    samples = rng.normal(size=(4000, 3)) @ np.diag([3.0, 1.0, 2.0])
    matrix = np.array([[samples[:, 0], samples[:, 2]], [samples[:, 2], samples[:, 1]]]).transpose(2, 0, 1)
    expected = axes @ matrix @ axes.T
    tensor, covariance = turned(samples, np.cov(samples.T), axes)
    np.testing.assert_allclose(tensor, np.stack([expected[:, 0, 0], expected[:, 1, 1], expected[:, 0, 1]], -1), atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(tensor.T), atol=1e-10)
