"""What tells classes apart: sums of counts that are made by hand."""

import numpy as np

from gpu4d.classification.distinct import distinct_parts, explain
from gpu4d.classification.features import Features, counts_of_an_electron
from gpu4d.classification.totals import Totals, totals

SPOTS = np.array([[h, k] for h in range(-3, 4) for k in range(-3, 4) if (h, k) != (0, 0)]) * 6.0
FUNDAMENTAL = (SPOTS % 12 == 0).all(1)
BRIGHT = 400 * np.exp(-((np.hypot(*SPOTS.T) / 20) ** 2))
MATRIX = np.where(FUNDAMENTAL, BRIGHT, 0.0)
ORDERED = np.where(FUNDAMENTAL, BRIGHT, BRIGHT / 20)  # the same and faint spots between
OTHER = np.where((SPOTS % 12 == 6).all(1), BRIGHT, 0.0)
POSITIONS = 400
TOLERANCE = 0.3


def bent(profile, tilt):
    """Counts of a bent crystal: the excitation error of g changes as g · tilt, and I falls as a Gaussian of it."""
    return profile * np.exp(-((SPOTS @ np.asarray(tilt) + (np.hypot(*SPOTS.T) / 25) ** 2) ** 2) + (np.hypot(*SPOTS.T) / 25) ** 4)


def parts(*profiles, seed=0):
    """Totals of parts with Poisson noise, and one spot of every pair."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.repeat(np.array(profiles) + 0.02, POSITIONS, axis=0)).astype(float)
    seen = np.ones((len(profiles), POSITIONS), bool)
    features = Features(SPOTS, np.full(len(SPOTS), 2.0), counts, np.zeros((len(counts), 0)), seen)
    weights = np.repeat(np.eye(len(profiles)), POSITIONS, axis=0)
    return totals(features, weights, None, np.zeros(2)), SPOTS[np.unique(features.pair_of_spot, return_index=True)[1]]


def distinct(*profiles):
    return distinct_parts(*parts(*profiles), TOLERANCE)


def test_a_bent_crystal_is_one_class():
    tilts = [(0.0, 0.0), (0.03, 0.0), (-0.03, 0.02), (0.0, -0.04)]
    result = distinct(*(bent(MATRIX, t) for t in tilts))
    assert len(result.kept) == 1 and not result.forced


def test_faint_spots_between_the_others_make_a_class():
    result = distinct(MATRIX, bent(MATRIX, (0.03, 0.01)), ORDERED, bent(ORDERED, (0.0, 0.03)))
    assert sorted(k // 2 for k in result.kept) == [0, 1]
    assert sorted((a // 2, b // 2) for a, b in result.same) == [(0, 0), (1, 1)]


def test_a_mixture_is_no_class():
    result = distinct(MATRIX, OTHER, 0.6 * MATRIX + 0.4 * OTHER, ORDERED)
    assert sorted(result.kept) == [0, 1, 3]
    assert result.mixtures == [(2, (0, 1))] or result.mixtures[0][0] == 2


def test_thickness_and_noise_are_no_class():
    result = distinct(MATRIX, 0.3 * MATRIX, 2.0 * MATRIX)
    assert len(result.kept) == 1


def test_a_number_of_classes_that_statistics_do_not_support_is_said():
    sums, spots = parts(MATRIX, bent(MATRIX, (0.03, 0.0)), OTHER)
    too_many = distinct_parts(sums, spots, TOLERANCE, classes=3)
    assert len(too_many.kept) == 3 and too_many.forced[0][0] in (0, 1)
    too_few = distinct_parts(sums, spots, TOLERANCE, classes=1)
    assert len(too_few.kept) == 1 and too_few.forced[0][1].unexplained > 0.1


def test_an_empty_part_is_a_class_once():
    sums, spots = parts(MATRIX, MATRIX, MATRIX)
    nothing = Totals(
        *(np.where(np.arange(3)[:, None] == 0, x, 0.0) for x in (sums.pairs, sums.background, sums.diffuse, sums.asymmetry)), sums.positions
    )
    assert len(distinct_parts(nothing, spots, TOLERANCE).kept) == 2
    assert explain(nothing.rows([1]), nothing.rows([0]), spots, TOLERANCE).distinct


def test_bending_shows_as_asymmetry_of_pairs():
    sums, _ = parts(MATRIX, bent(MATRIX, (0.06, 0.0)))
    strong = sums.pairs[0] > 0.1 * sums.pairs[0].max()
    assert sums.asymmetry[0][strong].max() < 0.02
    assert sums.asymmetry[1][strong].max() > 0.3


def test_the_gain_is_measured_and_halves_are_independent():
    rng = np.random.default_rng(3)
    row = 30 + 20 * np.sin(np.arange(900) / 90)
    counts = rng.poisson(np.stack([row, row * 2], -1)).astype(float)
    seen = np.ones((3, 300), bool)
    assert counts_of_an_electron(counts, seen) == 1.0
    np.testing.assert_allclose(counts_of_an_electron(0.01 * counts, seen), 0.01, rtol=0.1)
    first, second = Features(np.zeros((2, 2)), np.ones(2), counts, counts[:, :0], seen).halves()
    np.testing.assert_array_equal(first.counts + second.counts, counts)
    residual = np.stack([h.counts[:, 1] - row for h in (first, second)])
    assert abs(np.corrcoef(residual)[0, 1]) < 0.1
