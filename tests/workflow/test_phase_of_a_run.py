"""The phase beside DPC: which method a run takes, and what it gives."""

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.errors import InputError
from gpu4d.workflow import analyse
from gpu4d.workflow.pipeline import found as headline


def thin(r_pixel=0.3, positions=32, **options):
    made = gpu4d.simulate.phase_object_scan((positions, positions), (32, 32), r_pixel=r_pixel, dose=2e4, seed=1, **options)
    cube = gpu4d.DataCube(made.cube.source, gpu4d.Calibration(energy=80e3, semiangle=25.0, r_pixel=r_pixel, rotation=0.0))
    return cube, np.asarray(made.truth["phase"])


def out_of_focus():
    optics = {"energy": 300e3, "semiangle": 1.0, "r_pixel": 30.0, "defocus": 5e4}
    made = gpu4d.simulate.phase_object_scan((24, 24), (80, 80), object="particles", strength=0.5, dose=2e4, seed=2, **optics)
    c = made.cube.calibration
    return gpu4d.DataCube(made.cube.source, gpu4d.Calibration(energy=300e3, semiangle=1.0, q_pixel=c.q_pixel, r_pixel=30.0, rotation=0.0))


def alike(a, b):
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def test_fine_steps_take_side_bands():
    cube, truth = thin(defocus=60.0)
    state = analyse(cube, recipe())
    assert state["technique"] == "dpc" and state["phase_method"] == "ssb"
    fit = state["aberration_fit"]
    assert abs(fit.aberrations["C10"] + 60) < 4 * fit.errors["C10"] < 20
    best = gpu4d.ssb(cube, aberrations={"C10": -60.0})
    assert alike(state["ssb_phase"], best.phase) > 0.95  # a disk of 6 px, so that small aberrations are known to some Å only
    assert alike(state["ssb_phase"], truth) > alike(state["dpc_phase"], truth)
    assert [g.passed for g in state.record.gates if g.name == "Scan step for SSB"] == [True]
    assert {"ssb_phase", "ssb_transmission"} <= set(state.products)
    assert "parallax" not in state and not state.reasons["parallax"].wanted


def test_a_given_defocus_is_used_and_none_can_be_asked_for():
    cube, _ = thin(defocus=60.0)
    given = analyse(cube, recipe(analysis__technique="ssb", phase__defocus=60.0))
    assert given["probe_aberrations"] == {"C10": -60.0} and "aberration_fit" not in given
    without = analyse(cube, recipe(analysis__technique="ssb", phase__aberrations=False))
    assert without["probe_aberrations"] == {}
    for state, aberrations in ((given, {"C10": -60.0}), (without, {})):
        own = gpu4d.ssb(state.cube, aberrations=aberrations)
        np.testing.assert_array_equal(np.asarray(state["ssb_phase"]), np.asarray(own.phase))


def test_wdd_is_made_as_its_function_makes_it():
    cube, _ = thin(defocus=60.0)
    state = analyse(cube, recipe(analysis__technique="wdd", phase__defocus=60.0))
    own = gpu4d.wdd(state.cube, aberrations={"C10": -60.0})
    np.testing.assert_array_equal(np.asarray(state["wdd_phase"]), np.asarray(own.phase))
    transfer = np.asarray(state["wdd_transfer"])
    np.testing.assert_array_equal(np.fft.ifftshift(transfer)[:, :16], own.transfer[:, :16])
    np.testing.assert_allclose(transfer[1:, 1:], transfer[:0:-1, :0:-1], atol=1e-6)  # sums in single precision


def test_iterative_ptychography_begins_with_the_fitted_probe():
    cube, _ = thin(defocus=60.0)
    settings = {"analysis__technique": "ptychography", "ptychography__sweeps": 6}
    state = analyse(cube, recipe(**settings))
    own = gpu4d.ptychography.reconstruct(state.cube, sweeps=6, aberrations=state["aberration_fit"].aberrations)
    np.testing.assert_array_equal(np.asarray(state["ptychography"].phase), np.asarray(own.phase))
    assert state["ptychography"].loss[-1] < state["ptychography"].loss[0]
    assert [g.name for g in state.record.gates if "ptychography" in g.name] == ["Convergence of ptychography"]
    refused = analyse(cube, recipe(**settings, compute__memory="2 MB"))
    assert "ptychography" not in refused and any("no iterative ptychography" in line for line in refused.record.warnings)
    with pytest.raises(InputError, match=r"needs ptychography\.thickness"):
        analyse(cube, recipe(**settings, ptychography__slices=2))
    with pytest.raises(InputError, match="no effect with one slice"):
        analyse(cube, recipe(**settings, ptychography__thickness=30.0))


def test_coarse_steps_out_of_focus_take_parallax():
    state = analyse(out_of_focus(), recipe())
    assert state["phase_method"] == "parallax"
    found = state["parallax"]
    assert found.image.shape == (48, 48), "twice as fine as the steps"
    assert abs(found.aberrations["C10"] / -5e4 - 1) < 0.1
    assert [g.passed for g in state.record.gates if g.name == "Shifts of bright-field images"] == [True]
    assert not any("is coarse" in line for line in state.record.warnings), "shifted images sample finer than the scan"


def test_coarse_steps_in_focus_stay_with_dpc():
    cube, _ = thin(r_pixel=0.9, positions=16)
    state = analyse(cube, recipe())
    assert state["phase_method"] == "dpc" and not {"ssb", "parallax"} & set(state.results)
    assert not any(line.startswith("parallax") for line in state.record.warnings), "it was only tried"
    asked = analyse(cube, recipe(analysis__technique="ssb"))
    assert [g.passed for g in asked.record.gates if g.name == "Scan step for SSB"] == [False]
    assert any("is coarse" in line for line in asked.record.warnings)


def test_a_single_wrong_pattern_is_no_descan():
    """The disk of one trial pattern is found 4 px away. It must not become the origin there, nor a warning to remove a descan."""
    cube, _ = thin()
    data = np.array(cube.source.array)
    data[8, 8] = np.roll(data[8, 8], 4, axis=0)
    state = analyse(gpu4d.DataCube(data, cube.calibration), recipe())
    assert np.isfinite(state["trial"].origin.measured[8, 8]).all(), "a trial position"
    assert state["trial"].descan < 0.5 and state.calibration.origin.ndim == 1
    assert not any("descan" in line for line in state.record.warnings)


def test_what_is_not_known_is_named():
    cube, _ = thin()
    unknown = gpu4d.DataCube(cube.source, gpu4d.Calibration(r_pixel=0.3))
    state = analyse(unknown, recipe())
    assert "phase_method" not in state and "energy" in state.reasons["aberrations"].why
    with pytest.raises(InputError, match="technique ssb needs energy, semiangle of the scan: give --energy and --semiangle"):
        analyse(unknown, recipe(analysis__technique="ssb"))
    assert analyse(cube, recipe(analysis__technique="dpc")).reasons["aberrations"].wanted is False


def test_a_magnetic_map_is_a_technique():
    cube, _ = thin()
    state = analyse(cube, recipe(analysis__technique="magnetic"))
    assert {"magnetic", "dpc"} <= set(state.results)
    assert "magnetic induction, together with electric fields" in headline(state)


def test_a_second_scan_that_does_not_fit_is_refused_before_the_work(tmp_path):
    cube, _ = thin()
    for shape, message in (((32, 31, 32, 32), r"\(32, 31\) positions, the scan \(32, 32\)"), ((32, 32, 32, 30), r"detector of \(32, 30\)")):
        np.save(tmp_path / "second.npy", np.ones(shape, np.uint8))
        with pytest.raises(InputError, match=message):
            analyse(cube, recipe(analysis__technique="magnetic", magnetic__second=str(tmp_path / "second.npy")))


def test_a_given_rotation_and_the_descan_are_among_the_decisions():
    cube, _ = thin()
    state = analyse(cube, recipe(analysis__technique="dpc"))
    (why,) = [d.why for d in state.record.decisions if d.what.startswith("Rotation of the detector")]
    assert why.startswith("given; ") and "descan" in why


@pytest.mark.shared
def test_aberrated_scan_of_mos2(shared_data):
    """From nothing: rotation by DPC, aberrations by the fit, and the phase as with the true aberrations."""
    path = shared_data / "aberrated_ptycho.h5"
    cube = gpu4d.open(path)
    cube.calibration.set(energy=80e3, semiangle=22.0, r_pixel=0.3)
    state = analyse(cube, recipe())
    with h5py.File(path) as file:
        true = {name: float(file.attrs[f"truth_{name}"]) for name in ("C10", "C12", "phi12", "C21", "phi21", "C30")}
    found = state["aberration_fit"].aberrations
    assert "C23" not in found, "there is none, and the data do not tell one"
    assert abs(found["C10"] - true["C10"]) < 5 and abs(found["C12"] - true["C12"]) < 3 and abs(found["C21"] / true["C21"] - 1) < 0.1
    best = gpu4d.ssb(state.cube, aberrations=true, rotation=0.0)
    assert alike(state["ssb_phase"], best.phase) > 0.99
