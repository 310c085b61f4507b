"""What a run says where a result would mislead: masks, positions without a lattice, a scan beside its result."""

import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.errors import InputError
from gpu4d.workflow import analyse, pipeline


@pytest.fixture(scope="module")
def crystal():
    return gpu4d.simulate.bragg_scan((6, 6), (64, 64), spacing=16.0, radius=3.0, dose=80.0, seed=2)


def test_a_mask_that_lets_nothing_count_is_called_inverted(crystal):
    cube = DataCube(crystal.cube.source.array)
    cube.detector_mask = np.zeros(cube.detector_shape, bool)
    cube.detector_mask[0, 0] = True
    cube = DataCube(np.where(cube.detector_mask, 0, cube.source.array), detector_mask=cube.detector_mask)
    with pytest.raises(InputError, match="is the mask inverted"):
        analyse(cube)


def test_positions_whose_disks_are_noise_are_told_from_those_with_few_disks(crystal, monkeypatch):
    """Forty disks at random beside nine on the lattice, as from single electrons: no strain, and the verdict is no."""
    rng, nodes = np.random.default_rng(0), np.array([[x, y] for x in (-16, 0, 16) for y in (-16, 0, 16)]) + 32.0
    lists = [np.concatenate([nodes, rng.uniform(4, 60, (40, 2))]) for _ in range(36)]
    state = analyse(DataCube(crystal.cube.source.array), recipe(analysis__technique="bragg"))
    assert pipeline.verdict_of(state).answer != "no"
    from lattice_points import from_lists

    from gpu4d.workflow.stages.lattice import LatticeFit

    disks = from_lists([np.column_stack([p, np.full(len(p), 50.0), np.full((len(p), 2), 0.1)]) for p in lists], (6, 6))
    fit = gpu4d.fit_lattice(disks, [[16.0, 0.0], [0.0, 16.0]], origin=(32.0, 32.0), tolerance=0.05)
    assert not np.asarray(fit.mask).any()
    state.keep("braggvectors", disks)
    state.recipe.bragg.max_peaks = 49
    state.record.warnings.clear()
    LatticeFit()._warn_of_lost(state, fit, np.ones((6, 6), bool))
    (said,) = state.record.warnings
    assert said.startswith("36 positions have less than 40 % of their disks on the lattice") and "ends at 49 disks" in said


def test_without_strain_there_is_no_answer():
    """The direct beam alone: a disk is found in every pattern, and no lattice."""
    x, y = np.mgrid[:48, :48]
    beam = np.where(np.hypot(x - 24, y - 24) < 5, 20.0, 0.02)
    scan = np.random.default_rng(3).poisson(np.broadcast_to(beam, (6, 6, 48, 48))).astype("u2")
    state = analyse(DataCube(scan), recipe(analysis__technique="bragg"))
    assert "braggvectors" in state
    assert "strain" not in state and pipeline.verdict_of(state).answer == "no"


def test_a_scan_beside_its_result_is_named_without_the_folder_in_which_both_were_made(crystal, tmp_path):
    np.save(tmp_path / "scan.npy", crystal.cube.source.array)
    state = analyse(gpu4d.open(tmp_path / "scan.npy"), recipe(analysis__technique="images"))
    pipeline.save_results(state, tmp_path / "result.h5")
    (decision,) = [d for d in state.record.decisions if d.what.startswith("Raw data")]
    assert "the scan is in scan.npy, beside it;" in decision.why and str(tmp_path) not in decision.why
