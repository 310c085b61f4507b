"""Sectors, zone axes and angles between orientations, for all Laue groups."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gpu4d.orientation import direction_colors, misorientation
from gpu4d.orientation.symmetry import axis_to_z, sector_corners, sector_planes, smallest_turn, to_sector, zone_axes
from gpu4d.structures import Site, Structure

CELLS = {"cubic": (4.0, 4.0, 4.0, 90, 90, 90), "hexagonal": (3.0, 3.0, 5.0, 90, 90, 120), "tetragonal": (3.0, 3.0, 5.0, 90, 90, 90)}
CELLS |= {
    "orthorhombic": (3.0, 4.0, 5.0, 90, 90, 90),
    "monoclinic": (3.0, 4.0, 5.0, 90, 100, 90),
    "triclinic": (3.0, 4.0, 5.0, 80, 95, 100),
}
GROUPS = [  # space group, its Laue group, its cell, and how many directions are equivalent
    ("F m -3 m", "m-3m", "cubic", 48), ("P a -3", "m-3", "cubic", 24), ("P 63/m m c", "6/mmm", "hexagonal", 24),
    ("P 63/m", "6/m", "hexagonal", 12), ("P -3 m 1", "-3m", "hexagonal", 12), ("P -3 1 m", "-3m", "hexagonal", 12),
    ("P -3", "-3", "hexagonal", 6), ("P 4/m m m", "4/mmm", "tetragonal", 16), ("P 4/m", "4/m", "tetragonal", 8),
    ("P m m m", "mmm", "orthorhombic", 8), ("P 1 2/m 1", "2/m", "monoclinic", 4), ("P -1", "-1", "triclinic", 2),
]  # fmt: skip


def crystal(group, cell):
    return Structure("made", CELLS[cell], group, (Site("Si", (0.0, 0.0, 0.0)),))


def directions(n, seed=0):
    v = np.random.default_rng(seed).normal(size=(n, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.mark.parametrize(("group", "laue", "cell", "order"), GROUPS)
def test_every_direction_has_one_equivalent_in_the_sector(group, laue, cell, order):
    made = crystal(group, cell)
    assert made.laue_group == laue and 2 * len(made.rotations) == order
    v = directions(4000)
    inside = (v @ sector_planes(made).T >= 0).all(-1).mean()
    assert abs(inside - 1 / order) < 5 * np.sqrt(1 / order / 4000)
    moved = to_sector(v[:300], made)
    assert (moved @ sector_planes(made).T > -1e-9).all()
    turned = np.einsum("ij,nj->ni", -made.rotations[-1], v[:300])  # an equivalent has the same one
    np.testing.assert_allclose(to_sector(turned, made), moved, atol=1e-9)


@pytest.mark.parametrize(("group", "laue", "cell", "order"), GROUPS)
def test_zone_axes_leave_no_gap(group, laue, cell, order):
    made, step = crystal(group, cell), np.radians(6.0)
    axes = zone_axes(made, step)
    nearest = np.arccos(np.clip(to_sector(directions(400), made) @ axes.T, -1, 1)).min(-1)
    assert nearest.max() < step
    area = 4 * np.pi / order / step**2
    assert len(axes) < 1.2 * area + 7 * np.sqrt(area) + 8  # the sector, and the rows beside its borders


@pytest.mark.parametrize(("group", "laue", "cell", "order"), GROUPS)
def test_colours_are_those_of_the_corners_and_of_all_equivalents(group, laue, cell, order):
    made = crystal(group, cell)
    if laue not in ("6/m", "4/m", "-3m", "-3"):  # their symmetry makes the second and the third corner one direction
        np.testing.assert_allclose(direction_colors(sector_corners(made), made), np.eye(3), atol=1e-6)
    v = directions(50, 3)
    colors = direction_colors(v, made)
    assert colors.min() >= 0 and np.allclose(colors.max(-1), 1)
    for turn in made.rotations:
        np.testing.assert_allclose(direction_colors(-v @ turn.T, made), colors, atol=1e-5)


def test_corners_of_well_known_sectors():
    np.testing.assert_allclose(sector_corners(crystal("F m -3 m", "cubic")) ** 2, [[0, 0, 1], [0.5, 0, 0.5], [1 / 3] * 3], atol=1e-7)
    hexagonal = sector_corners(crystal("P 63/m m c", "hexagonal"))
    np.testing.assert_allclose(hexagonal, [[0, 0, 1], [1, 0, 0], [np.sqrt(0.75), 0.5, 0]], atol=1e-7)


def test_a_direction_that_is_none_has_no_colour():
    found = direction_colors(np.array([[np.nan, 0, 1], [0, 0, 0], [0, 0, 2.0]]), crystal("F m -3 m", "cubic"))
    assert np.isnan(found[:2]).all() and found[2].tolist() == [1, 0, 0]


def test_misorientation_of_cubes_and_twins():
    made = crystal("F m -3 m", "cubic")
    turns = Rotation.random(20, random_state=1).as_matrix()
    np.testing.assert_allclose(misorientation(turns[:, None], turns[:, None] @ made.rotations, made), 0.0, atol=1e-6)
    twin = Rotation.from_rotvec(np.radians(60) * np.ones(3) / np.sqrt(3)).as_matrix()
    np.testing.assert_allclose(np.degrees(misorientation(turns, turns @ twin, made)), 60.0)
    assert np.degrees(misorientation(turns[:10], turns[10:], made)).max() < 62.81  # Mackenzie's largest angle
    small = Rotation.from_rotvec([0.01, 0.02, -0.02]).as_matrix()
    np.testing.assert_allclose(misorientation(turns, small @ turns, made), 0.03, atol=1e-7)
    same = smallest_turn(turns, made)
    np.testing.assert_allclose(misorientation(turns, same, made), 0.0, atol=1e-6)
    assert (np.trace(same, axis1=-2, axis2=-1) >= np.trace(turns, axis1=-2, axis2=-1) - 1e-9).all()


def test_axes_are_brought_to_z():
    v = np.concatenate([directions(20, 5), [[0, 0, 1.0], [0, 0, -1.0]]])
    turns = axis_to_z(v)
    np.testing.assert_allclose(turns @ v[..., None], np.broadcast_to([[0], [0], [1.0]], (22, 3, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)
