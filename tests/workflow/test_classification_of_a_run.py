"""Classes of patterns in a run: when they are looked for, what is written, and what is said of them."""

import sys

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.workflow import analyse, run


@pytest.fixture(scope="module")
def grains():
    """Two orientations of one crystal, one below the other: (12, 8) positions."""
    made = [gpu4d.simulate.bragg_scan((6, 8), (64, 64), spacing=15.0, radius=3.5, dose=60.0, angle=t, strain=None, seed=1) for t in (8, 40)]
    return np.concatenate([one.cube.source.array for one in made])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, grains, only_blank_pictures):
    pytest.importorskip("sklearn")
    root = tmp_path_factory.mktemp("classes")
    with h5py.File(root / "grains.h5", "w") as file:
        file["scan"] = grains
    return run(root / "grains.h5", root / "out", recipe=recipe(calibration__r_pixel=10.0))


def test_two_grains_are_two_classes_and_the_guide_is_quoted(folder):
    label = np.asarray(folder.state["class_label"])
    assert len(folder.state["classes"]) == 2 and set(label[:5].ravel()) != set(label[7:].ravel())
    assert all(len(set(part.ravel())) == 1 for part in (label[:5], label[7:]))
    said = {d.what: d.why for d in folder.record.decisions}
    assert "sets of reflections" in said["Classes of patterns: 2"]
    assert said["Classes are no phases before you have looked at them"] == folder.state["classes"].caveat
    assert "not by physics" in folder.summary() and folder.state.reasons["classification"].wanted


def test_maps_shares_and_patterns_are_in_the_folder(folder):
    saved = gpu4d.io.read_emd(folder.folder / "result.h5")
    found = folder.state["classes"]
    np.testing.assert_array_equal(saved["class_label"], found.label)
    np.testing.assert_allclose(np.asarray(saved["class_fractions"]).sum(0), 1.0)
    assert saved["class_patterns"].shape == (2, 64, 64) and saved["class_fraction_errors"].shape == (2, 12, 8)
    np.testing.assert_allclose(saved["class_reflections"]["class_1"], found.profiles[1])
    assert {"classes.png", "class_purity.png", "class_patterns.png"} <= {p.name for p in folder.folder.iterdir()}
    page = (folder.folder / "report.html").read_text(encoding="utf-8")
    assert found.caveat in page and "Mean patterns of the classes" in page


def test_one_crystal_is_one_class_without_a_map(crystal):
    state = analyse(DataCube(crystal.cube.source.array[:8, :8]))
    reason = state.reasons["classification"]
    assert "classes" not in state and not reason.wanted and reason.why.startswith("one class: all disks belong to one set of reflections")


def test_who_asks_gets_an_answer_from_the_patterns(crystal, need):
    need("sklearn")
    state = analyse(DataCube(crystal.cube.source.array[:8, :8]), recipe(classification__on=True, classification__parts=3))
    assert state.reasons["classification"].wanted and "classes" not in state
    assert any(d.what == "One class of patterns" for d in state.record.decisions)


def test_a_number_of_classes_is_taken_and_its_cost_is_said(crystal, need):
    need("sklearn")
    asked = recipe(classification__classes=2, classification__parts=3, classification__counts="disks")
    state = analyse(DataCube(crystal.cube.source.array[:8, :8]), asked)
    assert len(state["classes"]) == 2 and state["classes"].patterns is not None
    assert any("one phase may have been split" in line for line in state.record.warnings)


def test_without_scikit_learn_it_says_how_to_install_it(grains, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr("gpu4d.workflow.stages.classification.find_spec", lambda name: None)
    state = analyse(DataCube(grains))
    assert "classes" not in state and "pip install 'gpu4d[classify]'" in state.reasons["classification"].why
    assert any("pip install 'gpu4d[classify]'" in line for line in state.record.warnings)


def test_it_can_be_switched_off(grains):
    state = analyse(DataCube(grains), recipe(classification__on=False))
    assert "classes" not in state and "switched off" in state.reasons["classification"].why


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(("dose", "least"), [(3000, 0.95), (300, 0.88)])
def test_two_phases_an_orientation_and_a_glass(shared_data, need, dose, least):
    need("sklearn")
    with h5py.File(shared_data / "two_phase.h5") as file:
        cube, truth = DataCube(file[f"poisson_{dose}"][:]), file["truth/fractions"][:]
    state = analyse(cube)
    found, share = state["classes"], np.asarray(state["classes"].fractions)
    from scipy.optimize import linear_sum_assignment

    assert len(found) == 4 and "amorphous" in found.kinds
    _, order = linear_sum_assignment(-(share.reshape(4, -1) @ truth.reshape(-1, 4)))
    assert (found.label == np.moveaxis(truth, -1, 0)[order].argmax(0)).mean() >= least
