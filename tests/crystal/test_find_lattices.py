"""Several lattices of a scan, found and named, against those the disks were made from; and scans of one lattice, which must stay one."""

import numpy as np
import pytest
import several_lattices as scenes
from lattice_points import SQUARE, disks_of, from_lists, turn
from several_lattices import CENTRED, CUBE, ORIGIN, disks_with, mirrored, nodes_of

import gpu4d
from gpu4d.crystal import find_lattices
from gpu4d.crystal.lattice import canonical
from gpu4d.crystal.relation import relate
from gpu4d.errors import InputError
from gpu4d.simulate.deformation import deformation_gradient, rotation_matrix

KINDS = {"twins": "twin", "film": "film", "precipitate": "other", "grains": "rotated"}
SHAPE = (10, 12)
COLUMN = np.broadcast_to(np.arange(12.0), SHAPE)


def alone(f=None, basis=CUBE, **options):
    """A scan of one lattice."""
    return disks_with([basis], np.ones((1, *SHAPE)), None if f is None else f[None], **options)


# ---------------------------------------------------------------- several


@pytest.mark.parametrize("name", KINDS)
def test_all_are_found_with_their_vectors_and_shares(name):
    scene = scenes.solved(name)
    assert len(scene.found) == len(scene.bases) and sorted(scene.which) == list(range(len(scene.bases)))
    assert (np.diff(scene.found.shares) <= 0).all()
    for mean, where, k in zip(scene.mean, scene.present, scene.which):
        assert np.abs(scene.found[k].matrix - mean).max() < 1e-3 * np.hypot(*mean[0])
        assert scene.found.shares[k] == pytest.approx(where.mean(), abs=0.03) and scene.found.evidence[k] > 1000


@pytest.mark.parametrize("name", KINDS)
def test_each_is_named(name):
    scene = scenes.solved(name)
    assert {r.kind for r in scene.found.relations} == {KINDS[name]}
    for relation in scene.found.relations:
        to, of = (scene.mean[scene.which.index(k)] for k in (relation.to, relation.of))
        true = relate(to, of)
        assert relation.kind == true.kind
        if name == "film":
            assert np.abs(np.subtract(relation.misfit, true.misfit)).max() < 1.5e-3
        if name == "twins":
            assert np.degrees(abs(relation.angle)) < 0.3 and relation.row == true.row
        elif name in ("grains", "film"):
            assert np.degrees(abs(relation.angle - true.angle)) < 0.06
    text = repr(scene.found)
    assert text.startswith(f"Lattices({len(scene.found)}:") and "first lattice" in text and "%" in text


@pytest.mark.parametrize("name, merged", [("twins", 3.0), ("film", 1.4)])
def test_numbers_are_right_within_their_errors(name, merged):
    bases, present = getattr(scenes, name)((8, 14))
    found = find_lattices(disks_with(bases, present, merged=merged), ORIGIN)
    relation = found.relations[0]
    for one, covariance in zip(found, found.covariances):
        true = min((canonical(b) for b in bases), key=lambda b: np.abs(b - one.matrix).max())
        assert np.abs((one.matrix - true) / np.sqrt(np.diag(covariance))[:, None]).max() < 4.5
    assert abs(relation.angle) < 4 * relation.angle_error < 2e-3
    if name == "twins":
        line = np.array([np.cos(relation.row_angle), np.sin(relation.row_angle)])
        assert abs(line @ CENTRED[1]) == pytest.approx(np.hypot(*CENTRED[1]), rel=1e-6), "the mirror line is the shared row"
    else:
        true = 0.03 if relation.misfit[0] > 0 else 1 / 1.03 - 1
        assert np.abs(np.array(relation.misfit) - true).max() < 4 * relation.misfit_error < 2e-3


def test_a_shared_row_only_counts_for_a_mirrored_cell():
    assert relate(CENTRED, mirrored(CENTRED, CENTRED[1])).kind == "twin"
    assert relate(CENTRED, CENTRED @ turn(0.3).T).kind == "rotated"
    square = np.array([[20.0, 0], [0, 20]])
    sigma_five = relate(square, square @ turn(np.arctan(0.5) * 2).T)  # the rows (2 1) and (1 2) of squares turned by 53.1°
    assert sigma_five.kind == "twin" and sigma_five.row in {(2, 1), (1, 2), (2, -1), (1, -2)}
    stretched = relate(square, square / np.array([1.02, 1.05]))
    assert stretched.kind == "film" and stretched.misfit == pytest.approx((0.05, 0.02))
    scaled = relate(square, 1.3 * square @ turn(0.4).T)
    assert scaled.kind == "scaled" and scaled.misfit == pytest.approx((1 / 1.3 - 1,) * 2) and scaled.angle == pytest.approx(0.4)


@pytest.mark.parametrize("angle", [0.1, 0.5, -0.3])
@pytest.mark.parametrize("handed", [1, -1])
def test_the_angle_is_positive_from_x_to_y(angle, handed):
    oblique = np.array([[15.0, -2.0], [6.0, 24.0]])[::handed]
    change = np.array([[2, 1], [1, 1]])
    relation = relate(oblique, change @ oblique @ turn(angle).T)
    assert relation.kind == "rotated" and relation.angle == pytest.approx(angle)


def test_an_ellipse_of_the_detector_does_not_hide_a_twin():
    ellipse = (1.03, 1.0, 0.5)
    squeeze = np.linalg.inv(gpu4d.calibrate.ellipse_matrix(ellipse))
    bases, present = scenes.twins(SHAPE)
    disks = disks_with(bases @ squeeze.T, present, merged=3.0)
    calibration = gpu4d.Calibration(ellipse=ellipse)
    assert find_lattices(disks, ORIGIN).relations[0].kind != "twin"
    assert find_lattices(disks, ORIGIN, calibration=calibration).relations[0].kind == "twin"


def test_grains_with_a_gap_are_two_lattices_and_the_largest_number_is_kept():
    angle = np.where(COLUMN < 7, 0.0, np.radians(6.0))  # within reach of the local fit, so no disk is left over
    found = find_lattices(alone(rotation_matrix(angle), false=2.0), ORIGIN)
    assert len(found) == 2 and found.relations[0].kind == "rotated"
    assert abs(np.degrees(found.relations[0].angle)) == pytest.approx(6.0, abs=0.02)
    assert len(find_lattices(alone(rotation_matrix(angle), false=2.0), ORIGIN, most=1)) == 1


@pytest.mark.parametrize("positions", [16, 4])
def test_a_precipitate_inside_its_matrix_is_found(positions):
    """In 4 % and 1 % of the patterns, beside the disks of the matrix, and with half of all disks missing."""
    present = np.zeros((2, 20, 20), bool)
    present[0] = True
    present[1].flat[205 : 205 + positions] = True
    bases = scenes.precipitate()[0]
    found = find_lattices(disks_with(bases, present, missing=0.5, merged=3.0, false=2.0), ORIGIN)
    assert len(found) == 2 and np.abs(found[1].matrix - canonical(bases[1])).max() < 0.02
    assert found.shares[1] == pytest.approx(positions / 400, abs=0.0076)


def test_only_the_positions_of_where_count():
    bases, present = scenes.twins(SHAPE)
    disks = disks_with(bases, present, merged=3.0)
    found = find_lattices(disks, ORIGIN, where=~present[1])
    assert len(found) == 1 and np.abs(found[0].matrix - canonical(bases[0])).max() < 0.05


# ---------------------------------------------------------------- one, or none


def waves(kind, size):
    return deformation_gradient(kind, SHAPE, size)[0]


def half_orders(rx, ry):
    """Superlattice disks in half of the scan."""
    nodes = nodes_of(CUBE / 2)
    whole = nodes @ np.linalg.inv(CUBE)
    return nodes[np.abs(whole - np.rint(whole)).max(-1) > 0.1] if ry > 5 else np.zeros((0, 2))


ONE = {
    "many false disks": lambda: alone(false=10.0, sigma=0.2, missing=0.3),
    "strain": lambda: alone(waves("smooth", 0.03), false=2.0),
    "coherent inclusion": lambda: alone(waves("inclusion", 0.03), false=2.0),
    "strain without order": lambda: alone(np.eye(2) + 0.03 * np.random.default_rng(0).normal(size=(*SHAPE, 2, 2))),
    "ordered in half of the scan": lambda: alone(extra=half_orders),
    "wrong origins": lambda: alone(origin=ORIGIN + np.random.default_rng(1).normal(size=(*SHAPE, 2)) * 0.5),
    "bad pixels": lambda: alone(extra=lambda rx, ry: np.array([[11.0, 4], [-23, 31], [40, -7], [5, -28]])),
    "few disks": lambda: alone(missing=0.8, false=0.5),
}


@pytest.mark.parametrize("name", ONE)
def test_one_lattice_stays_one_and_is_that_of_find_lattice(name):
    disks = ONE[name]()
    found, first = find_lattices(disks, ORIGIN), gpu4d.find_lattice(disks, ORIGIN)
    assert len(found) == 1 and found.relations == ()
    np.testing.assert_array_equal(found[0].matrix, first.matrix)
    assert found[0].indexed_fraction == first.indexed_fraction and found[0].points == first.points


@pytest.mark.parametrize("degrees", [12, 24])
def test_a_bent_grain_is_one_lattice(degrees):
    """Also where it is bent so far that no single mean lattice indexes it, and `find_lattice` gives up."""
    assert len(find_lattices(alone(rotation_matrix(np.radians(degrees) * (COLUMN / 11 - 0.5))), ORIGIN)) == 1


def test_noise_makes_no_second_lattice():
    for seed in range(20):
        disks = disks_with([CUBE], np.ones((1, 5, 6)), waves("smooth", 0.02)[None, :5, :6], false=8.0, sigma=0.1, seed=seed)
        assert len(find_lattices(disks, ORIGIN)) == 1, seed


def test_a_crowd_of_random_disks_has_none():
    for seed in range(20):
        assert len(find_lattices(disks_with([CUBE], np.zeros((1, 5, 6)), false=20.0, seed=seed), ORIGIN)) == 0, seed


@pytest.mark.parametrize("positions, each", [(60, 20), (9, 12), (1, 20)])
def test_rings_have_none(positions, each):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        angle, radius = rng.uniform(0, 2 * np.pi, (positions, each)), rng.normal(32, 2, (positions, each))
        q = 64 + radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
        rows = np.concatenate([q, rng.uniform(1, 10, (positions, each, 1)), np.full((positions, each, 2), 0.1)], -1)
        rows[:, 0] = (64, 64, 500, 0.1, 0.1)
        assert len(find_lattices(from_lists(list(rows), (1, positions)), (64.0, 64.0))) == 0, seed


def test_double_diffraction_is_no_third_lattice():
    bases, _ = scenes.grains()
    bases, present = bases[:2], np.ones((2, *SHAPE), bool)
    present[0, :, 8:], present[1, :, :4] = False, False
    sums = (nodes_of(bases[0], 25)[:, None] + nodes_of(bases[1], 25)).reshape(-1, 2)
    rng = np.random.default_rng(0)
    both = lambda rx, ry: sums[rng.random(len(sums)) < 0.4] if 4 <= ry < 8 else np.zeros((0, 2))  # noqa: E731
    assert len(find_lattices(disks_with(bases, present, merged=2.5, extra=both), ORIGIN)) == 2


def test_empty_lists_and_nan_give_none_and_do_no_harm():
    empty = from_lists([np.zeros((0, 5))] * 6, (2, 3))
    assert len(find_lattices(empty, ORIGIN)) == 0 and repr(find_lattices(empty, ORIGIN)) == "Lattices(none)"
    assert find_lattices(empty, ORIGIN).matrices.shape == (0, 2, 2)
    bases, present = scenes.twins(SHAPE)
    disks = disks_with(bases, present, merged=3.0)
    nan = disks.with_fields({name: np.full(len(disks), np.nan) for name in ("qx", "qy")})
    assert len(find_lattices(nan, ORIGIN)) == 0
    centre = np.broadcast_to(ORIGIN, (*SHAPE, 2)).copy()
    centre[:2] = np.nan
    here = find_lattices(disks, centre)
    assert len(here) == 2 and here.relations[0].kind == "twin"


@pytest.mark.parametrize("most", [0, 9, 2.5, True, "all"])
def test_an_impossible_number_of_lattices_is_refused(most):
    with pytest.raises(InputError, match="whole number of lattices, 1 to 8"):
        find_lattices(disks_of(SQUARE), ORIGIN, most=most)
