"""Orientations of crystals whose patterns are computed: precision, symmetry, phases, overlap, axes, and what is refused."""

import numpy as np
import pytest
from kinematical_peaks import ENERGY, ORIGIN, Q_PIXEL, disks_of, spots
from scipy.spatial.transform import Rotation

import gpu4d
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.errors import InputError
from gpu4d.orientation import match_orientations, misorientation
from gpu4d.structures import Structure

GOLD = Structure.standard("Au")
KNOWN = {"energy": ENERGY, "q_pixel": Q_PIXEL, "origin": (ORIGIN, ORIGIN), "thickness": 40.0, "disk_radius": 2.0}


def bright(n, seed, structure=GOLD, least=9):
    """Orientations in which the crystal shows at least some spots on every side of the beam."""
    found, rng = [], np.random.default_rng(seed)
    while len(found) < n:
        turn = Rotation.random(random_state=rng).as_matrix()
        place, intensity = spots(structure, turn)
        if np.sum(intensity > 3) >= least and np.linalg.matrix_rank(place[intensity > 10], tol=0.3) == 2:
            found.append(turn)
    return np.array(found)


@pytest.fixture(scope="module")
def gold():
    """Orientations of gold, and what is found from their noise-free patterns."""
    turns = bright(24, 2)
    disks = disks_of([spots(GOLD, turn) for turn in turns])
    return turns, disks, match_orientations(disks, GOLD, overlaps=False, **KNOWN)


def test_noise_free_patterns_give_their_orientations(gold):
    turns, _, found = gold
    sure = ~found.ambiguous[0]
    angle = np.degrees(found.angle_to(turns[None])[0])
    assert sure.mean() > 0.6
    assert (angle[sure] < 1).mean() >= 0.95
    assert np.median(angle[angle < 1]) < 0.02 and np.mean(angle[angle < 1]) <= 0.05
    np.testing.assert_allclose(np.linalg.det(found.matrices), 1.0)


def test_hardly_any_orientation_is_wrong_without_saying_so():
    """Patterns of any direction, most with six to eight spots. Zone axes are up to a degree off, and the fit has many minima."""
    turns = Rotation.random(300, random_state=5).as_matrix()
    patterns = [spots(GOLD, turn, least=5e-3) for turn in turns]
    rich = [k for k, (place, _) in enumerate(patterns) if len(place) >= 6]
    found = match_orientations(disks_of([patterns[k] for k in rich]), GOLD, overlaps=False, **KNOWN)
    wrong = np.degrees(found.angle_to(turns[None, rich])[0]) > 1
    assert (wrong & ~found.ambiguous[0]).mean() < 0.04, "it was 0.14 without the rough steps of the fit"
    assert wrong.mean() < 0.25, "look-alikes: one of two that fit alike is the truth"


def test_an_ambiguous_pattern_names_the_truth_as_one_of_two(gold):
    turns, _, found = gold
    angle = np.degrees(found.angle_to(turns[None])[0])
    other = np.degrees(misorientation(found.grain.alternative[0], turns, GOLD))
    doubtful = found.ambiguous[0] & (angle > 1)
    assert (other[doubtful] < 1).mean() >= 0.75 if doubtful.any() else True
    assert (found.margin[found.ambiguous] < 5).all()


def test_a_pattern_along_a_zone_axis_is_ambiguous_only_where_symmetry_says_so():
    """Along [001] of gold, half a turn about the beam is a symmetry: there is no other orientation that looks the same."""
    turn = np.eye(3)
    found = match_orientations(disks_of([spots(GOLD, turn)]), GOLD, **KNOWN)
    assert np.degrees(found.angle_to(turn))[0, 0] < 0.1 and not found.ambiguous[0, 0]


def test_equivalent_orientations_give_the_same_matrix(gold):
    turns, _, found = gold
    again = match_orientations(disks_of([spots(GOLD, turns[0] @ p) for p in GOLD.rotations[:3]]), GOLD, overlaps=False, **KNOWN)
    for matrix in again.matrices[0]:
        np.testing.assert_allclose(matrix, found.matrices[0, 0], atol=1e-5)


@pytest.mark.parametrize(("rotation", "transpose"), [(0.6, False), (-1.1, True)])
def test_a_turned_and_mirrored_detector_is_undone_by_the_calibration(gold, rotation, transpose):
    turns, _, found = gold
    disks = disks_of([spots(GOLD, turn) for turn in turns[:6]], matrix=scan_matrix(rotation, transpose).T)
    known = {name: value for name, value in KNOWN.items() if name not in ("energy", "q_pixel", "origin")}
    calibration = gpu4d.Calibration(
        rotation=rotation, transpose=transpose, energy=ENERGY, q_pixel=Q_PIXEL, origin=(ORIGIN, ORIGIN), r_pixel=5.0
    )
    again = match_orientations(disks, GOLD, calibration=calibration, overlaps=False, **known)
    assert again.axes == "scan" and found.axes == "detector" and found.warnings and not again.warnings
    sure = ~found.ambiguous[0, :6]
    assert np.degrees(misorientation(again.matrices[0], found.matrices[0, :6], GOLD))[sure].max() < 0.01
    wrong = match_orientations(disks, GOLD, overlaps=False, **KNOWN)
    assert np.degrees(wrong.angle_to(turns[None, :6]))[0][sure].max() > 1


def test_an_ellipse_is_removed(gold):
    turns, _, found = gold
    squeeze = np.diag([1.04, 1.0])
    disks = disks_of([spots(GOLD, turn) for turn in turns[:6]], matrix=squeeze)
    again = match_orientations(disks, GOLD, calibration=gpu4d.Calibration(ellipse=(1.04, 1.0, 0.0)), overlaps=False, **KNOWN)
    sure = ~found.ambiguous[0, :6]
    assert np.degrees(misorientation(again.matrices[0], found.matrices[0, :6], GOLD))[sure].max() < 0.01


def test_phases_are_told_apart_and_share_one_margin():
    iron = Structure.standard("Fe")
    patterns = [spots(GOLD, turn) for turn in bright(3, 4)] + [spots(iron, turn) for turn in bright(3, 5, iron, 6)]
    found = match_orientations(disks_of(patterns), [GOLD, iron], overlaps=False, **KNOWN)
    assert found.phase.tolist() == [[0, 0, 0, 1, 1, 1]]
    assert "Au 3, Fe 3" in repr(found)


def test_two_grains_are_both_named_with_their_shares(gold):
    turns, _, alone = gold
    first, second = turns[~alone.ambiguous[0] & (alone.angle_to(turns[None])[0] < 1e-3)][:2]
    mixed = []
    for share in (0.7, 0.4, 1.0):
        (a, i), (b, j) = spots(GOLD, first), spots(GOLD, second)
        place, height = np.concatenate([a, b]), np.concatenate([share * i, (1 - share) * j])
        mixed.append((place[height > 0.1], height[height > 0.1]))
    found = match_orientations(disks_of(mixed), GOLD, **KNOWN)
    assert found.second.found.tolist() == [[True, True, False]]
    near = lambda grain, turn, at: np.degrees(misorientation(grain.matrices[0, at], turn, GOLD))  # noqa: E731
    assert near(found.grain, first, 0) < 0.2 and near(found.second, second, 0) < 0.2
    assert near(found.grain, second, 1) < 0.2 and near(found.second, first, 1) < 0.2
    np.testing.assert_allclose(found.share[0], [0.7, 0.6, 1.0], atol=0.06)
    np.testing.assert_allclose(found.second.share[0, :2], [0.3, 0.4], atol=0.06)


def test_the_thickness_is_found():
    disks = disks_of([spots(GOLD, turn, thickness=60.0) for turn in bright(24, 6)])
    found = match_orientations(disks, GOLD, overlaps=False, **{**KNOWN, "thickness": None})
    assert abs(found.thickness[0] - 60) < 6


def test_standard_errors_fit_the_scatter():
    """The same pattern with noise of known size, many times."""
    rng, turn = np.random.default_rng(3), bright(1, 8, least=14)[0]
    place, intensity = spots(GOLD, turn, least=0.02)
    noisy = []
    for _ in range(60):
        counts = rng.poisson(12.57 * intensity) / 12.57
        noisy.append((place + 0.05 * Q_PIXEL * rng.normal(size=place.shape), counts))
    found = match_orientations(disks_of(noisy), GOLD, overlaps=False, intensity_error=0.02, **KNOWN)
    angle = found.angle_to(turn)[0]
    good = angle < np.radians(1)
    ratio = np.sqrt(np.mean(angle[good] ** 2)) / np.sqrt(np.mean(found.grain.error[0, good] ** 2))
    assert good.mean() > 0.9 and 0.6 < ratio < 1.5


def test_few_or_no_peaks_give_no_orientation(gold):
    turns, _, _ = gold
    place, intensity = spots(GOLD, turns[0])
    lists = [(place[:2], intensity[:2]), (place[:0], intensity[:0]), (place, np.full(len(place), np.nan)), (place, intensity)]
    found = match_orientations(disks_of(lists), GOLD, **KNOWN)
    assert found.grain.found.tolist() == [[False, False, False, True]]
    assert np.isnan(found.matrices[0, :3]).all() and np.isnan(found.margin[0, :3]).all() and not found.ambiguous[0, :3].any()
    nothing = match_orientations(disks_of([(place[:0], intensity[:0])], direct=False), GOLD, **KNOWN)
    assert not nothing.grain.found.any() and "Au 0" in repr(nothing)


def test_disks_of_any_array_library_give_the_same(gold, need):
    """As on a GPU: definitions alone, and nothing but the array API."""
    xp = need("array_api_strict")
    turns, _, _ = gold
    disks = disks_of([spots(GOLD, turn) for turn in turns[:2]])
    moved = gpu4d.PointListArray(xp.asarray(disks.offsets), {f: xp.asarray(disks.flat(f)) for f in disks.fields}, disks.shape)
    options = {**KNOWN, "step": 0.1, "maxima": 2}
    one, other = (match_orientations(lists, GOLD, **options) for lists in (disks, moved))
    np.testing.assert_allclose(other.matrices, one.matrices, atol=1e-6)
    np.testing.assert_allclose(other.margin, one.margin, rtol=1e-4, atol=1e-8)  # one of them is 0 but for rounding


def test_where_leaves_positions_out(gold):
    _, disks, found = gold
    where = np.arange(24)[None] < 2
    some = match_orientations(disks, GOLD, overlaps=False, where=where, **KNOWN)
    assert some.grain.found.tolist() == where.tolist()
    np.testing.assert_array_equal(some.matrices[where], found.matrices[where])


def test_results_are_saved_and_read(gold, tmp_path):
    _, _, found = gold
    gpu4d.save(tmp_path / "out.h5", {"orientations": found})
    made = found.to_emd()
    assert made["matrices"].shape == (9, 1, 24) and made["matrices"]["R_xx"].shape == (1, 24)
    np.testing.assert_array_equal(made["matrices"].data.reshape(3, 3, 1, 24)[:, :, 0, 5], found.matrices[0, 5])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"energy": None}, "energy"),
        ({"energy": 200.0}, "energy=200"),
        ({"q_pixel": None}, "detector pixel"),
        ({"thickness": -1.0}, "positive number in Å"),
        ({"thickness": (1.0, 2.0)}, "one for each structure"),
        ({"step": 0.5}, "0.2 to 10 degrees"),
        ({"patterns": np.zeros((2, 2, 4, 4))}, "need the patterns"),
    ],
)
def test_errors_say_what_is_accepted(gold, change, text):
    with pytest.raises(InputError, match=text):
        match_orientations(gold[1], GOLD, **{**KNOWN, **change})


def test_other_arguments_are_refused(gold):
    with pytest.raises(InputError, match=r"Structure.standard\('Au'\)"):
        match_orientations(gold[1], "Au", **KNOWN)
    with pytest.raises(InputError, match="PointListArray"):
        match_orientations([1, 2], GOLD, **KNOWN)
