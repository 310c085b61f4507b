"""A run on a scan whose source carries corrections."""

import numpy as np

import gpu4d
from gpu4d.preprocess import fill_from_neighbours
from gpu4d.workflow import Recipe, analyse
from gpu4d.workflow.pipeline import save_results


def test_results_are_those_of_corrected_patterns_and_the_file_links_to_the_raw_scan(tmp_path):
    made = gpu4d.simulate.phase_object_scan((12, 11), (32, 32), r_pixel=0.4, dose=2e4, seed=1)
    data, bad = np.asarray(made.cube.source.array).copy(), np.random.default_rng(0).random((32, 32)) < 0.02
    data[:, :, bad] = data.max()
    np.save(tmp_path / "scan.npy", data)

    def run(cube):
        cube.calibration.set(energy=80e3, semiangle=25.0, r_pixel=0.4, how="given")
        return analyse(cube, Recipe())

    state = run(gpu4d.open(tmp_path / "scan.npy").corrected(bad_pixels=bad))
    expected = run(gpu4d.DataCube(fill_from_neighbours(data, ~bad)))
    np.testing.assert_array_equal(np.asarray(state["mean_pattern"]), np.asarray(expected["mean_pattern"]))
    save_results(state, tmp_path / "result.h5")
    saved = gpu4d.io.read_emd(tmp_path / "result.h5")
    np.testing.assert_array_equal(saved["raw_datacube"].load().source.array, data)
    save_results(state, tmp_path / "bundle.h5", bundle=True)
    (tmp_path / "scan.npy").rename(tmp_path / "elsewhere.npy")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "bundle.h5")), data, err_msg="the raw scan, not the corrected one")
    (tmp_path / "elsewhere.npy").rename(tmp_path / "scan.npy")
    assert any("the scan was corrected while reading" in line for line in state.record.log)
