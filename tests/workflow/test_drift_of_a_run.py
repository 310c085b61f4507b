"""Drift in a run: positions from a second scan, used by what follows."""

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.errors import InputError
from gpu4d.workflow import analyse

KNOWN = {"calibration__energy": 200e3, "calibration__semiangle": 18.0, "calibration__r_pixel": 0.48}
PAIR = {"drift__angle": 0.0, "drift__fast_axes": [1, 0]}


def first(shared_data):
    cube = gpu4d.open(shared_data / "drift.h5", dataset="first_poisson_2500")
    cube.calibration.set(energy=200e3, semiangle=18.0, r_pixel=0.48, rotation=0.0)
    return cube


@pytest.mark.shared
def test_positions_of_a_drifting_scan_are_found_and_used(shared_data):
    path = shared_data / "drift.h5"
    state = analyse(first(shared_data), recipe(analysis__technique="ssb", drift__second=f"{path}:/second_poisson_2500", **KNOWN, **PAIR))
    with h5py.File(path) as file:
        true = file["truth/first/positions_A"][()]
    own = state.calibration.positions
    error = (own - own.mean((0, 1))) - (true - true.mean((0, 1)))
    assert np.sqrt((error**2).sum(-1).mean()) < 0.07
    assert [g.passed for g in state.record.gates if g.name == "Agreement of the positions"] == [True]
    assert {"positions", "drift_corrected"} <= set(state.products)
    np.testing.assert_array_equal(state["ssb"].positions, own)
    assert any("fitted to the calibrated positions" in line for line in state["ssb"].decisions)


@pytest.mark.shared
def test_scans_of_different_places_give_no_positions(shared_data, tmp_path):
    with h5py.File(shared_data / "drift.h5") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        data = file["second_poisson_2500"][()]
        other["scan"] = np.random.default_rng(0).permutation(data.reshape(-1, *data.shape[2:])).reshape(data.shape)
    state = analyse(first(shared_data), recipe(analysis__technique="images", drift__second=str(tmp_path / "other.h5"), **KNOWN, **PAIR))
    assert state.calibration.positions is None
    assert [g.passed for g in state.record.gates if g.name == "Agreement of the positions"] == [False]
    assert any("not to be believed" in line for line in state.record.warnings)


def test_a_second_scan_keeps_its_own_steps(tmp_path, monkeypatch):
    rng, cubes = np.random.default_rng(0), []
    for step in (0.5, 0.4):
        known = gpu4d.Calibration(energy=200e3, semiangle=18.0, q_pixel=0.2, r_pixel=step, origin=(8, 8))
        cubes.append(gpu4d.DataCube(rng.poisson(5, (16, 16, 16, 16)).astype("uint8"), known))
    np.save(tmp_path / "second.npy", cubes[1].source.array)
    monkeypatch.setattr("gpu4d.workflow.stages.drift.second_scan", lambda *_: cubes[1])
    state = analyse(cubes[0], recipe(analysis__technique="images", drift__second=str(tmp_path / "second.npy")))
    assert [frame.step for frame in state["scan_drift"].frames] == pytest.approx([1, 0.8])


def test_what_is_refused(tmp_path):
    made = gpu4d.simulate.phase_object_scan((12, 11), (32, 32), r_pixel=0.6, dose=2e4, seed=1)
    cube = gpu4d.DataCube(np.asarray(made.cube.source.array))
    np.save(tmp_path / "small.npy", np.ones((12, 11, 8, 8), "uint8"))
    with pytest.raises(InputError, match="detector of"):
        analyse(cube, recipe(drift__second=str(tmp_path / "small.npy")))
    with pytest.raises(InputError, match=r"drift\.second and input\.crop_scan"):
        analyse(cube, recipe(drift__second=str(tmp_path / "small.npy"), input__crop_scan=[0, 10, 0, 10]))
    state = analyse(cube, recipe(analysis__technique="images"))
    assert not state.reasons["drift"].wanted and "no second scan" in state.reasons["drift"].why
