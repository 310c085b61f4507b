"""Fields, potentials and magnetic induction in a run: what is called what, and what the report says."""

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.workflow import analyse, pipeline, run


def junction(shared_data):
    with h5py.File(shared_data / "pn_junction_dpc.h5") as file:
        patterns, q = file["poisson_20000"][:], float(file.attrs["detector_pixel_1_per_A"])
    known = gpu4d.Calibration(energy=200e3, semiangle=0.2, q_pixel=q, r_pixel=40.0, rotation=0.0, transpose=False)
    return gpu4d.DataCube(patterns, known)


def gates(state):
    return {gate.name: gate for gate in state.record.gates}


def test_a_junction_is_a_potential_where_its_thickness_is_known(shared_data):
    state = analyse(junction(shared_data), recipe(analysis__technique="dpc", dpc__thickness=1900, dpc__field_free=[44, 56, 0, 24]))
    assert state.products["dpc_field"].units == "V/Å" and state.products["dpc_potential"].name == "projected potential"
    assert state.products["dpc_phase_error"].units == "rad" and state.products["dpc_phase"].name == "DPC phase"
    assert gates(state)["DPC as a potential"].passed
    assert "of 288 positions without a specimen" in state["dpc"].descan
    with h5py.File(shared_data / "pn_junction_dpc.h5") as file:
        right = np.moveaxis(file["truth/E_probe_averaged_V_per_nm"][:].astype(float), -1, 0)
    field = 10 * np.asarray(state.products["dpc_field"])  # V/nm
    x, y = (f - f.mean((1, 2), keepdims=True) for f in (field, right))
    assert np.sum(x * y) / np.sum(y * y) == pytest.approx(1, abs=0.01)
    unknown = analyse(junction(shared_data), recipe(analysis__technique="dpc"))
    assert unknown.products["dpc_field"].units == "V" and "dpc_potential" not in unknown.products
    assert "DPC as a potential" not in gates(unknown), "nothing is wrong: a number is missing"
    assert any("thickness not known" in line for line in unknown.record.log)
    assert "It is pseudo-DPC, not a potential: thickness not known" in pipeline.found(unknown), "the conclusion says so first"


def test_padding_as_the_guide_does_it(shared_data):
    state = analyse(junction(shared_data), recipe(analysis__technique="dpc", dpc__boundary="padded", dpc__max_iterations=10))
    assert len(state["dpc"].errors) == 10 and "dpc_phase_error" not in state.products
    assert gates(state)["Boundary of the phase"].passed


@pytest.mark.slow
def test_the_report_of_a_thick_specimen_says_pseudo_dpc(shared_data, tmp_path):
    options = {"input__dataset": "poisson_4e4", "calibration__energy": 300e3, "calibration__semiangle": 24.0, "calibration__r_pixel": 0.26}
    done = run(
        shared_data / "thick_multislice.h5", tmp_path / "out", recipe=recipe(analysis__technique="dpc", dpc__thickness=199, **options)
    )
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Pseudo-DPC phase" in report and "19.9 nm against a depth of field of 58.1 Å" in report
    assert not gates(done.state)["DPC as a potential"].passed and "dpc_potential" not in done.state.products
    about = gpu4d.io.read_emd(tmp_path / "out" / "result.h5")["dpc_about"]
    assert about["name"] == "pseudo-DPC phase" and "depth of field" in about["why"]


def test_a_map_of_the_induction_from_two_scans(shared_data):
    path = shared_data / "skyrmion_dpc.h5"
    with h5py.File(path) as file:
        patterns, q = file["forward_poisson_20000"][:], float(file.attrs["detector_pixel_1_per_A"])
        right = file["truth/forward/Bt_probe_averaged_T_nm"][:].astype(float)
    known = gpu4d.Calibration(energy=300e3, semiangle=0.3, q_pixel=q, r_pixel=60.0, rotation=0.0, transpose=False)
    settings = {"magnetic__second": f"{path}:/flipped_poisson_20000", "magnetic__relation": "flipped", "analysis__technique": "dpc"}
    state = analyse(gpu4d.DataCube(patterns, known), recipe(**settings))
    found = np.moveaxis(np.asarray(state.products["induction"]), 0, -1)
    seen = np.isfinite(found).all(-1)
    off = (found - right)[seen]
    assert np.std(off - off.mean(0)) < 0.06 * 22.1
    assert state.products["induction_error"].units == "T nm" and state.products["electric_momentum"].units == "1/Å"
    assert gates(state)["Divergence of the induction"].passed
    assert any(name == "Magnetic induction B t" and "±" in remark for name, _, remark in state.record.figures)


def test_no_map_is_made_unless_asked_for(shared_data):
    state = analyse(junction(shared_data), recipe(analysis__technique="images"))
    assert "magnetic" not in state and "magnetic.induction" in state.reasons["magnetic"].why
    assert not state.reasons["dpc_errors"].wanted
    alone = analyse(junction(shared_data), recipe(analysis__technique="images", magnetic__induction=True))
    assert alone.products["induction"].units == "T nm"
    assert any("electric part is not separated" in line for line in alone.record.warnings)
