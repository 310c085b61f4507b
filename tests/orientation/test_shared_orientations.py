"""Six grains of gold in a simulated scan whose truth is known, from the raw patterns."""

import numpy as np
import pytest

import gpu4d
from gpu4d.orientation import match_orientations, misorientation
from gpu4d.structures import Site, Structure


@pytest.fixture(scope="module")
def scan(shared_data):
    import h5py

    with h5py.File(shared_data / "orientation.h5") as file:
        truth = {name: values[...] for name, values in file["truth"].items()}
        about = dict(file.attrs)
        patterns = file["poisson_10000"][...]
    u = about["debye_waller_B_A2"] / (8 * np.pi**2)
    gold = Structure("gold", (about["lattice_parameter_A"],) * 3 + (90,) * 3, "F m -3 m", (Site("Au", (0, 0, 0), u_iso=u),))
    radius = about["disk_radius_px"]
    calibration = gpu4d.Calibration(energy=about["energy_eV"], q_pixel=about["detector_pixel_1_per_A"], probe_radius=radius)
    disks = gpu4d.find_bragg_disks(patterns, gpu4d.probe.synthetic((128, 128), radius), edge=2, min_significance=3)
    return truth, patterns, disks, gold, {"calibration": calibration, "thickness": float(about["thickness_A"])}


@pytest.mark.shared
def test_every_grain_is_found_and_look_alikes_are_decided_by_the_counts(scan):
    truth, patterns, disks, gold, known = scan
    found = match_orientations(disks, gold, patterns=patterns, **known)
    angle, mostly = np.degrees(found.angle_to(truth["rotation"])), truth["share"] > 0.9
    assert (angle[mostly] < 1).mean() >= 0.99 and (angle < 1).mean() >= 0.95 and np.median(angle) <= 0.15
    mixed = truth["share"] < 0.9
    near = np.radians(2.0)  # the second grain may be bent; its orientation in the middle is known
    other = [misorientation(m, truth["grain_rotation"][truth["second_grain"]], gold) < near for m in _of_second(found)]
    assert (found.second.found & mixed).sum() >= 0.8 * mixed.sum() and not (found.second.found & (truth["share"] == 1)).any()
    assert (other[0] | other[1])[mixed].sum() >= 0.8 * mixed.sum()
    right = mixed & found.second.found
    assert np.sqrt(np.mean((found.share - truth["share"])[right] ** 2)) < 0.04


def _of_second(found):
    return found.second.matrices, found.second.alternative


@pytest.mark.shared
def test_without_the_patterns_every_wrong_answer_is_said_to_be_ambiguous(scan):
    truth, _, disks, gold, known = scan
    found = match_orientations(disks, gold, **known)
    wrong = np.degrees(found.angle_to(truth["rotation"])) > 1
    other = np.degrees(misorientation(found.grain.alternative, truth["rotation"], gold))
    assert found.ambiguous[wrong].mean() > 0.97 and (other[wrong] < 1).mean() > 0.85
    assert 0.05 < wrong.mean() < 0.3  # twins about an axis across the beam have the same strong spots
