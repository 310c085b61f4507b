"""The fit of a strained ring to counts: at its bound, with honest errors, and from far away."""

import numpy as np
import pytest
from operations.examples.fit_strained_ring import RADII, STEP, UNDISTORT, knots, profile, strained_frames

from gpu4d.amorphous.fit_strained_ring import fit_strained_ring
from gpu4d.errors import InputError

FIXED = {"step": STEP, "radii": RADII, "undistort": UNDISTORT}


@pytest.mark.parametrize("terms", [0, 2])
def test_errors_are_those_of_the_counts_and_are_told(terms):
    """The claimed covariance is the inverse Fisher matrix, the Cramér–Rao bound: errors over it have a variance of 1."""
    frames, origins, strain = strained_frames(600, seed=8)
    found = fit_strained_ring(frames, origins, knots(), terms=terms, **FIXED)
    off = found.strain - strain
    pulls = off / np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    assert np.abs(pulls.std(axis=0) - 1).max() < 4 / np.sqrt(2 * 600) and np.abs(pulls.mean(axis=0)).max() < 4 / np.sqrt(600)
    whitened = np.einsum("ni,nij,nj->n", off, np.linalg.inv(found.covariance), off)
    assert abs(whitened.mean() - 3) < 4 * np.sqrt(6 / 600), "all three together, with their correlations"
    assert abs(np.median(found.dispersion) - 1) < 0.02 and abs(found.scale.mean() - 1) < 0.02


def test_it_ends_at_the_maximum_of_the_likelihood():
    """No step in any parameter from where it ends raises the likelihood by more than it says."""
    frames, origins, _strain = strained_frames(3)
    found = fit_strained_ring(frames, origins, knots(), terms=0, **FIXED)
    x, y = np.meshgrid(*(np.arange(n) for n in frames.shape[1:]), indexing="ij")
    for n in range(3):

        def likelihood(p, n=n):
            dx, dy = x - origins[n, 0], y - origins[n, 1]
            u, v = UNDISTORT[0] * dx + UNDISTORT[1] * dy, UNDISTORT[1] * dx + UNDISTORT[2] * dy
            used = (np.hypot(u, v) > RADII[0]) & (np.hypot(u, v) < RADII[1])
            dx, dy = x - p[3], y - p[4]
            u, v = UNDISTORT[0] * dx + UNDISTORT[1] * dy, UNDISTORT[1] * dx + UNDISTORT[2] * dy
            model = p[5] * profile(np.hypot((1 + p[0]) * u + p[2] * v, p[2] * u + (1 + p[1]) * v))
            return (frames[n] * np.log(model) - model)[used].sum()

        best = np.array([*found.strain[n], *found.origin[n], found.scale[n]])
        error = np.sqrt(found.covariance[n, 0, 0])
        for i, step in enumerate((error, error, error, 0.1, 0.1, 0.02)):
            there = [likelihood(best + sign * step * np.eye(6)[i]) for sign in (-1, 1)]
            here = likelihood(best)
            assert max(there) < here
            middle = 0.5 * (there[0] - there[1]) / (there[0] + there[1] - 2 * here)  # of the parabola through the three, in steps
            assert abs(middle) < 0.02, f"parameter {i} ends {middle:.3f} steps from the maximum"


def test_a_rotated_glass_is_not_strained():
    """The pattern of a glass that is turned as a whole is the same; the fit has no parameter that could take it up."""
    frames, origins, _ = strained_frames(1)
    round_one = {**FIXED, "undistort": (1.0, 0.0, 1.0)}
    turned = np.rot90(frames, axes=(1, 2)).copy()  # the detector's axes turned: components exchange, the sign of the shear too
    first = fit_strained_ring(frames, origins, knots(), **round_one)
    second = fit_strained_ring(turned, np.stack([frames.shape[2] - 1 - origins[:, 1], origins[:, 0]], -1), knots(), **round_one)
    np.testing.assert_allclose(second.strain, first.strain[:, [1, 0, 2]] * [1, 1, -1], atol=2e-5)


def test_wrong_arguments_are_refused():
    frames, origins, _strain = strained_frames(2)
    for change in (
        {"radii": (9.0, 3.0)},
        {"step": 0.0},
        {"undistort": (1.0, 2.0, 1.0)},
        {"terms": 3},
        {"mask": np.ones((3, 3), bool)},
    ):
        with pytest.raises(InputError):
            fit_strained_ring(frames, origins, knots(), **{**FIXED, **change})
    with pytest.raises(InputError, match="origins"):
        fit_strained_ring(frames, origins[:1], knots(), **FIXED)
