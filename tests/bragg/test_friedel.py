"""The symmetry of the Bragg vector map, against maps worked out by hand."""

import numpy as np
import pytest

from gpu4d import PointListArray
from gpu4d.bragg import friedel_symmetry

SHAPE, ORIGIN, RADIUS = (65, 65), (32.0, 32.0), 3.0
PAIR = np.array([[14.0, 4.0], [-14.0, -4.0]])


def symmetry(v, intensity):
    """Symmetry of disks at v from the origin, each seen ten times."""
    v, intensity = np.tile(v, (10, 1)), np.tile(intensity, 10)
    fields = {"qx": ORIGIN[0] + v[:, 0], "qy": ORIGIN[1] + v[:, 1], "intensity": intensity.astype(float)}
    return friedel_symmetry(PointListArray(np.array([0, len(v)]), fields, (1, 1)), ORIGIN, SHAPE, RADIUS)


def test_pairs_are_symmetric_however_bright():
    assert symmetry(PAIR, np.array([5.0, 5.0])) == 1.0


def test_a_partner_of_another_brightness_counts_as_its_root():
    """Weights a and b, the roots of the intensities, overlap by 2 a b / (a² + b²)."""
    assert symmetry(PAIR, np.array([16.0, 4.0])) == pytest.approx(2 * 4 * 2 / (16 + 4))


def test_a_partner_elsewhere_breaks_the_symmetry():
    moved = np.concatenate([PAIR, [[10.0, -12.0], [-4.0, 18.0]]])  # the second pair is none
    assert symmetry(moved, np.ones(4)) == pytest.approx(0.5)
    assert symmetry(moved[2:], np.ones(2)) == 0.0


def test_disks_near_the_beam_and_beyond_the_edge_say_nothing():
    near = np.concatenate([PAIR, [[2.0, 0.0], [30.0, 0.0]]])  # inside a radius; its partner may lie beyond the detector
    assert symmetry(near, np.ones(4)) == 1.0
    assert symmetry(PAIR[:1], np.ones(1)) is None, "ten disks are too few"
