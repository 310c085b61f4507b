"""A run on disks that overlap. With an image of the probe it measures their strain, and without one it says what is missing."""

import numpy as np
import pytest
from recipes_in_tests import lattice, recipe

import gpu4d
from gpu4d.crystal import suggest_technique
from gpu4d.workflow import analyse

COUNTS = np.full(9, 20)


def scan(spacing, radius, **more):
    options = {"dose": 300.0, "strain_size": 0.01, "descan": 0.5, "seed": 1, **more}
    return gpu4d.simulate.bragg_scan((6, 6), (96, 96), spacing=spacing, radius=radius, **options)


def worst_error(state, made):
    """Largest rms error of a strain component against the truth, relative to the median of both."""
    off = [np.asarray(getattr(state["strain"], name).data) - made.truth[name] for name in ("exx", "eyy", "exy", "theta")]
    return max(float(np.std(one)) for one in off)


def test_a_known_probe_makes_strain_of_overlapping_disks():
    near, far = lattice(5.0), lattice(9.0)
    given = suggest_technique(COUNTS, far, 5.5, (32, 32), known_probe=True)
    assert given.technique == "bragg" and "the probe in vacuum is known" in given.why
    unknown = suggest_technique(COUNTS, far, 5.5, (32, 32))
    assert unknown.technique == "dpc" and "--probe" in unknown.sentence
    inside = suggest_technique(COUNTS, near, 5.5, (32, 32), known_probe=True)
    assert inside.technique == "dpc" and "by more than a radius" in inside.sentence and "--probe" not in inside.sentence


@pytest.mark.parametrize(
    "spacing, radius, own_disk",
    [
        pytest.param(16.0, 8.1, False, id="disks that touch: the mean pattern has no round disk"),
        pytest.param(12.0, 10.0, True, id="disks that overlap by far", marks=pytest.mark.slow),
    ],
)
def test_strain_of_overlapping_disks_is_right(spacing, radius, own_disk):
    made = scan(spacing, radius)
    calibration = gpu4d.Calibration(energy=200e3, semiangle=3.0, r_pixel=20.0, rotation=0.0)
    state = analyse(gpu4d.DataCube(made.cube.source.array, calibration), probe=made.probe)
    assert ("mean_disk" in state) == own_disk, "why the probe's own disk is needed"
    assert state["technique"] == "bragg" and "overlap" in state.record.decisions[0 if own_disk else 1].what
    assert state["lattice_fit"].weights == "likelihood" and any("all counts of every pattern" in d.what for d in state.record.decisions)
    assert worst_error(state, made) < 6e-4
    assert state["disk"].radius == pytest.approx(radius, abs=0.1)
    x, y = made.truth["origin"].mean((0, 1))
    assert np.hypot(state["disk"].qx - x, state["disk"].qy - y) < 0.5
    assert state.calibration.q_pixel == pytest.approx(made.cube.calibration.q_pixel, rel=0.02)


@pytest.mark.slow
def test_fine_steps_keep_the_phase():
    """Steps of a quarter of the lattice planes resolve them: overlaps then hold fringes, which SSB and DPC use."""
    made, found = scan(16.0, 8.1), []
    q_pixel = made.cube.calibration.q_pixel
    for step in (20.0, 0.25 / (16.0 * q_pixel)):
        asked = recipe(analysis__trial_positions=9, calibration__q_pixel=q_pixel, calibration__r_pixel=step, gates__on_fail="continue")
        stages = analyse(gpu4d.DataCube(made.cube.source.array[:3, :3]), asked, probe=made.probe)
        found.append(stages["technique"])
    assert found[0] == "bragg" and found[1] in ("images", "dpc")


def test_a_beam_that_wanders_far_has_the_disk_of_the_probe():
    """The mean pattern is smeared over the path of the beam, and no disk of its own is in it. Each pattern has one."""
    made = scan(30.0, 6.0, descan=14.0, reach=0.5, background=0.0, strain=None)
    state = analyse(gpu4d.DataCube(made.cube.source.array), recipe(analysis__trial_positions=36), probe=made.probe)
    assert "disk" in state and state["disk"].radius == pytest.approx(6.0, abs=0.1)
