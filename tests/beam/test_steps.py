"""Steps of the origin between rows and columns of a scan: found where they are, and nowhere else."""

import numpy as np
import pytest

from gpu4d.beam.steps import named, surface_with_steps

SHAPE = (24, 30)
X, Y = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
CURVED = np.stack([40 + 0.1 * X - 0.05 * Y + 0.006 * X * Y, 42 - 0.08 * X + 0.004 * Y**2], axis=-1)
ALL = np.ones(SHAPE, bool)


def noisy(steps, sigma=0.05, seed=0):
    """A curved surface with steps (axis, index, dx, dy) and noise."""
    measured = CURVED + np.random.default_rng(seed).normal(0, sigma, CURVED.shape)
    for axis, index, dx, dy in steps:
        measured[(X, Y)[axis] >= index] += (dx, dy)
    return measured


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 15, 1.4, -0.9)],
        [(1, 2, -0.5, 0.4)],
        [(0, 8, 0.6, 0.0), (0, 16, 0.6, 0.1), (1, 10, -0.7, 0.3), (1, 20, -0.7, 0.3)],
        [(1, 29, 2.0, 0.0)],
    ],
    ids=["drift", "flyback", "tiles", "last column"],
)
def test_steps_are_found_with_their_size(steps):
    found = surface_with_steps(noisy(steps), 2, True, ALL)
    got = sorted((s.axis, s.index) for s in found.steps)
    assert got == sorted(s[:2] for s in steps)
    for s in found.steps:
        true = next(np.array(t[2:]) for t in steps if t[:2] == (s.axis, s.index))
        assert np.abs(s.shift - true).max() < 4 * s.error and s.error < 0.05


def test_errors_of_steps_and_surface_are_those_of_the_scatter():
    pulls, errors, off = [], [], []
    for seed in range(20):
        found = surface_with_steps(noisy([(0, 15, 1.4, -0.9)], seed=seed), 2, True, ALL)
        (step,) = found.steps
        pulls += [(step.shift[0] - 1.4) / step.error, (step.shift[1] + 0.9) / step.error]
        truth = CURVED + np.where(X[..., None] >= 15, (1.4, -0.9), 0.0)
        errors.append(found.error)
        off.append(np.mean((found.fitted - truth) ** 2))
    assert 0.8 < np.std(pulls) < 1.25
    assert 0.8 < np.mean(errors) / np.sqrt(np.mean(off)) < 1.1


def test_smooth_surfaces_have_no_steps():
    for seed in range(10):
        assert surface_with_steps(noisy([], seed=seed), 2, True, ALL).steps == ()
        assert surface_with_steps(noisy([], seed=seed), 1, True, ALL).steps == (), "a bent surface is no step"


def test_single_jumps_are_no_steps():
    measured = noisy([])
    some = np.random.default_rng(3).random(SHAPE) < 0.2
    measured[some] += (4.0, -3.0)
    found = surface_with_steps(measured, 2, True, ALL)
    assert found.steps == () and (found.outliers == some).all()


def test_rows_that_were_not_measured_do_no_harm():
    measured = noisy([(0, 15, 1.4, -0.9)])
    measured[13:16] = np.nan
    (step,) = surface_with_steps(measured, 2, True, ALL).steps
    assert step.axis == 0 and step.index == 16, "the first measured row behind it"


def test_names():
    (row,) = surface_with_steps(noisy([(0, 15, 1.4, -0.9)]), 2, True, ALL).steps
    assert "during the scan" in named(row) and str(row).startswith("step at scan row 15: (+1.38")
    (column,) = surface_with_steps(noisy([(1, 2, 1.4, -0.9)]), 2, True, ALL).steps
    assert named(column) == "flyback"
    (column,) = surface_with_steps(noisy([(1, 12, 1.4, -0.9)]), 2, True, ALL).steps
    assert named(column) == "border of tiles"
