"""A run of a scan with two lattices names them, maps them, and keeps strain to the first."""

import numpy as np
import several_lattices as scenes

import gpu4d
from gpu4d.plot.canvas import figure_of
from gpu4d.workflow import analyse
from gpu4d.workflow.stages.lattice import LatticeFit


def test_twins_are_named_and_mapped_and_strain_is_that_of_one_of_them():
    cube, _, present, _ = scenes.poisson_twins((8, 9), border=5)
    state = analyse(gpu4d.DataCube(cube.source.array, gpu4d.Calibration(r_pixel=20.0, rotation=0.0)))
    label = np.asarray(state.products["which_lattice"])
    single = present.sum(axis=0) == 1
    assert label.dtype == np.int16 and np.mean(label[single] == present.argmax(axis=0)[single]) >= 0.97
    assert state.products["which_lattice"].pixel_size == 20.0
    strain = state["strain"]
    assert strain.mask[present[0]].all() and not strain.mask[~present[0]].any(), "no strain of lattice 0 where only its twin is"
    assert np.abs(np.asarray(strain.exx)[present[0] & single]).max() < 0.01
    (warning,) = [line for line in state.record.warnings if "lattices in this scan" in line]
    assert "2 lattices in this scan (twins)" in warning and f"{(~present[0]).sum()} positions that other lattices explain" in warning
    assert not any("fewer than three disks" in line for line in state.record.warnings)
    (share,) = [gate for gate in state.record.gates if gate.key == "lattice_share"]
    assert share.passed and share.value > 100 * state["lattice"].indexed_fraction, (
        "disks of other lattices elsewhere say nothing against it"
    )
    figures = {name: (value, remark) for name, value, remark in state.record.figures}
    assert (
        "twin of lattice 0" in figures["Lattice 1"][1] and f"{100 * np.mean(label == 1):.0f} % of the positions" in figures["Lattice 1"][1]
    )
    planes, fits = np.asarray(state.products["lattice_vectors"]), state["lattices_fit"]
    assert np.isnan(planes[:, label < 0]).all()
    for k, fit in enumerate(fits):  # each position has the vectors of the lattice that explains it best
        np.testing.assert_array_equal(planes[:2, label == k], np.asarray(fit.g1)[label == k].T)
        np.testing.assert_array_equal(planes[2:, label == k], np.asarray(fit.g2)[label == k].T)
    ((picture, drawn),) = LatticeFit().pictures(state)
    texts = [text.get_text() for text in figure_of(drawn).legends[0].get_texts()]
    assert picture.name == "which_lattice" and any("twin" in text for text in texts) and any("dots" in text for text in texts)


def test_a_scan_of_one_lattice_has_no_map():
    scan = gpu4d.simulate.bragg_scan((6, 7), (96, 96), spacing=20.0, radius=4.0, dose=100.0, strain_size=0.01, seed=3)
    state = analyse(gpu4d.DataCube(scan.cube.source.array))
    assert "which_lattice" not in state.products and "lattices_fit" not in state and list(LatticeFit().pictures(state)) == []
    again = gpu4d.find_lattice(state["braggvectors"], state["origin"])
    np.testing.assert_array_equal(state["lattice"].matrix, again.matrix)
    np.testing.assert_array_equal(
        np.asarray(state["lattice_fit"].g1), gpu4d.fit_lattice(state["braggvectors"], again, origin=state["origin"]).g1
    )
