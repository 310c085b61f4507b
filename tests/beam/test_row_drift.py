"""The beam of the first rows against that of the last: drifts that are written down, on a descan, with noise and outliers."""

import numpy as np
import pytest

from gpu4d.beam.row_drift import row_drift

X, Y = np.indices((24, 20)).astype(float)


def beam(matrix, noise=0.0, seed=0):
    """Positions that follow a matrix of px for each scan step."""
    return np.stack([X, Y], -1) @ np.asarray(matrix, float).T + np.random.default_rng(seed).normal(0, noise, (*X.shape, 2))


@pytest.mark.parametrize("matrix", [[[0.3, 0], [0, 0.3]], [[0, 0.3], [-0.3, 0]], [[0.2, 0.2], [-0.2, 0.2]]])
def test_a_descan_that_is_alike_along_both_axes_is_no_drift(matrix):
    assert row_drift(beam(matrix, 0.2)).beyond == 0


def test_a_shift_in_time_is_found_beyond_the_descan():
    found = row_drift(beam([[0.5, 0], [0, 0.1]], 0.2))
    assert found.shift == pytest.approx(0.5 * 22, abs=0.3) and found.along == pytest.approx(0.1 * 22, abs=0.3), (
        "22 rows lie between the ends"
    )
    assert found.beyond == pytest.approx(0.4 * 22, abs=0.5)


def test_the_error_is_that_of_the_noise():
    shifts = [row_drift(beam(np.zeros((2, 2)), 1.0, seed)) for seed in range(40)]
    rms = np.sqrt(np.mean([found.shift**2 for found in shifts]))
    assert rms == pytest.approx(np.mean([found.error for found in shifts]) / np.sqrt(2), rel=0.3), "the other half is that of the descan"
    assert sum(found.beyond > 0 for found in shifts) <= 2


def test_outliers_and_positions_that_are_not_known_change_nothing():
    positions = beam([[0.5, 0], [0, 0.0]], 0.1)
    clean = row_drift(positions).shift
    positions[0, :4], positions[:2, 7] = 40.0, np.nan
    assert row_drift(positions).shift == pytest.approx(clean, abs=0.2)


def test_a_few_rows_say_nothing():
    assert row_drift(beam(np.eye(2))[:6]) is None and row_drift(np.full((24, 20, 2), np.nan)) is None
