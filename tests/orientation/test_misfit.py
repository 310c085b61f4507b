"""How well orientations explain the disks: peaks with known distances, a wrong structure, overlapping grains."""

import numpy as np
import pytest
from kinematical_peaks import ENERGY, ORIGIN, Q_PIXEL, disks_of, spots

import gpu4d
from gpu4d.errors import InputError
from gpu4d.orientation import match_orientations, matrices_of, orientation_misfit
from gpu4d.structures import Structure

KNOWN = gpu4d.Calibration(energy=ENERGY, q_pixel=Q_PIXEL, origin=(ORIGIN, ORIGIN), rotation=0.0, probe_radius=2.0)
TURNS = matrices_of(np.array([[0.4, 0.06, 1.0], [2.0, 0.74, 4.75]]))
AU = Structure.standard("Au")


def patterns(moved=0.0):
    """One pattern of each grain, and one of both together; disks are `moved` (1/Å) outwards from the beam."""
    one, two = (spots(AU, turn, thickness=25.0, g_max=1.15, least=1e-2) for turn in TURNS)
    both = tuple(np.concatenate(parts) for parts in zip(one, two))
    away = lambda place: place * (1 + moved / np.linalg.norm(place, axis=1, keepdims=True))  # noqa: E731
    return [(away(place), intensity) for place, intensity in (one, two, both)]


def test_distance_is_that_of_the_disks_and_all_are_explained():
    for moved in (0.0, 0.004):
        disks = disks_of(patterns(moved))
        found = match_orientations(disks_of(patterns()), AU, calibration=KNOWN, thickness=25.0)
        misfit = orientation_misfit(disks, found, calibration=KNOWN)
        assert misfit.explained[0, :2].min() > 0.98
        np.testing.assert_allclose(misfit.distance[0, :2], moved, atol=1.5e-3)


def test_both_grains_of_a_position_explain_its_disks():
    disks = disks_of(patterns())
    found = match_orientations(disks, AU, calibration=KNOWN, thickness=25.0)
    assert found.second.found[0, 2]
    assert orientation_misfit(disks, found, calibration=KNOWN).explained[0, 2] > 0.95
    alone = match_orientations(disks, AU, calibration=KNOWN, thickness=25.0, overlaps=False)
    assert orientation_misfit(disks, alone, calibration=KNOWN).explained[0, 2] < 0.8


def test_another_crystal_explains_little():
    disks, silicon = disks_of(patterns()), Structure.standard("Si")
    found = match_orientations(disks, silicon, calibration=KNOWN, thickness=25.0)
    assert np.nanmax(orientation_misfit(disks, found, calibration=KNOWN).explained[0, :2]) < 0.6


def test_positions_without_orientation_are_nan_and_shapes_are_compared():
    empty = (np.zeros((0, 2)), np.zeros(0))
    disks = disks_of([*patterns()[:1], empty], direct=True)
    found = match_orientations(disks, AU, calibration=KNOWN, thickness=25.0)
    misfit = orientation_misfit(disks, found, calibration=KNOWN)
    assert np.isfinite(misfit.explained[0, 0]) and np.isnan(misfit.explained[0, 1]) and np.isnan(misfit.distance[0, 1])
    assert "1 positions" in repr(misfit)
    with pytest.raises(InputError, match="need those of these disks"):
        orientation_misfit(disks_of(patterns()), found, calibration=KNOWN)
    with pytest.raises(InputError, match="pixel"):
        orientation_misfit(disks, found, calibration=gpu4d.Calibration(energy=ENERGY, origin=(ORIGIN, ORIGIN)))
