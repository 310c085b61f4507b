"""Classes that are probably one phase: the same reflections, or the same ones turned."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpu4d.classification.look_alikes import look_alikes


def classes(*sets, kinds=None):
    """Classes that show these reflections, each (n, 2), as `Classes` lists them: all together, and which class shows which."""
    spots = np.concatenate(sets)
    shown = np.zeros((len(sets), len(spots)), bool)
    for j, own in enumerate(sets):
        shown[j] = (np.hypot(*(spots[:, None] - own[None]).transpose(2, 0, 1)) < 0.5).any(axis=1)
    return SimpleNamespace(spots=spots, shown=shown, kinds=kinds or ("crystal",) * len(sets))


def lattice(angle, a=12.0, b=17.0, orders=2):
    """Reflections of a rectangular lattice of these spacings, turned by an angle."""
    h, k = np.mgrid[-orders : orders + 1, -orders : orders + 1].reshape(2, -1)
    points = np.stack([a * h, b * k], -1)[(h != 0) | (k != 0)]
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


@pytest.mark.parametrize("angle", [0.3, -0.8])
def test_one_phase_in_two_orientations_is_named_with_its_turn(angle):
    (found,) = look_alikes(classes(lattice(0.1), lattice(0.1 + angle)))
    assert (found.first, found.second) == (0, 1) and found.agree == 1
    assert found.turn == pytest.approx(angle, abs=2e-3) and "one phase in two orientations" in str(found)


def test_one_phase_that_is_brighter_in_a_part_is_named():
    """Some weak reflections are seen in one of both only."""
    (found,) = look_alikes(classes(lattice(0.1), lattice(0.1)[:-2]))
    assert found.turn == 0 and "brighter or fainter" in str(found)


def test_phases_of_other_spacings_are_not():
    assert look_alikes(classes(lattice(0.1), lattice(0.1, 13.9, 17.0), lattice(0.4, 12.0, 20.0))) == []


def test_an_order_of_the_same_lattice_is_not():
    """An ordered form has reflections between those of the disordered one."""
    assert look_alikes(classes(lattice(0.1), lattice(0.1, 6.0, 8.5, orders=4))) == []


def test_what_is_no_crystal_is_left_out():
    assert look_alikes(classes(lattice(0.1), lattice(0.1), kinds=("crystal", "amorphous"))) == []
