"""Runs of the shared scans against their truth."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.errors import InputError
from gpu4d.workflow import Recipe, Record, RunState, analyse, run
from gpu4d.workflow.pipeline import found

SLOW = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("only_blank_pictures")


@pytest.mark.shared
def test_rotavirus(shared_data: Path, tmp_path):
    known = {"calibration__energy": 300e3, "calibration__semiangle": 1.03, "calibration__r_pixel": 31.25}
    done = run(shared_data / "rotavirus_cryo_ptycho_96x96_bin4.h5", tmp_path / "out", recipe=recipe(**known))
    assert done.state["disk"].radius == pytest.approx(15.2, abs=0.4)
    with h5py.File(done.folder / "result.h5") as file:
        calibration = file["gpu4d/metadatabundle/calibration"]
        assert calibration["qx0_mean"][()] == pytest.approx(31.52, abs=0.3)
        assert calibration["qy0_mean"][()] == pytest.approx(31.17, abs=0.3)
    assert done.state["technique"] == "dpc" and done.state.products["dpc_phase"].units == "rad"
    phase, bright = (np.asarray(done.state.products[n]) for n in ("dpc_phase", "bf"))
    assert np.corrcoef(phase.ravel(), bright.ravel())[0, 1] < -0.5, "particles and film are dark in bright field, positive in phase"


@pytest.mark.shared
@pytest.mark.parametrize("dataset, rms, bias", [("poisson_1e5", 5e-4, 2e-4), pytest.param("poisson_5e3", 2.5e-3, 5e-4, marks=SLOW)])
def test_strain_of_gold(shared_data: Path, tmp_path, dataset, rms, bias):
    """Their x is the column: their exx is our eyy, their theta (positive from x to y) has the sign of ours."""
    path = shared_data / "au_nbed_strain.h5"
    known = {"calibration__energy": 200e3, "calibration__semiangle": 3.0, "calibration__r_pixel": 20.0}
    done = run(path, tmp_path / "out", recipe=recipe(input__dataset=dataset, probe__file=f"{path}:/truth/vacuum_probe", **known))
    with h5py.File(path) as file:
        truth = {
            name: file[f"truth/{theirs}"][()] for name, theirs in (("exx", "eyy"), ("eyy", "exx"), ("exy", "exy"), ("theta", "theta_rad"))
        }
    border = sum(np.abs(t) for t in truth.values()) < 1e-9
    assert border[0].all() and border[:, -1].all()
    for name, expected in truth.items():
        measured = np.asarray(getattr(done.state["strain"], name))
        error = measured - measured[border].mean() - expected
        assert np.sqrt(np.mean(error**2)) <= rms and abs(error.mean()) <= bias, (
            f"{name}: rms {np.sqrt(np.mean(error**2))}, bias {error.mean()}"
        )


@pytest.mark.shared
def test_grains_are_named_before_the_strain_of_one_of_them(shared_data: Path):
    state = analyse(gpu4d.open(shared_data / "orientation.h5"))
    assert state["technique"] == "bragg" and found(state).startswith("Several grains or phases"), "six orientations at random"


@pytest.mark.shared
@pytest.mark.parametrize(
    "dataset, least",
    [pytest.param("noisefree", 0.995, marks=SLOW), ("poisson_1e5", 0.99), pytest.param("poisson_1e4", 0.96, marks=SLOW)],
)
def test_phase_of_mos2(shared_data: Path, tmp_path, dataset, least):
    path = shared_data / "mos2_ssb_infocus.h5"
    known = {"calibration__energy": 80e3, "calibration__semiangle": 25.0, "calibration__r_pixel": 0.2}
    done = run(path, tmp_path / "out", recipe=recipe(input__dataset=dataset, **known))
    with h5py.File(path) as file:
        truth = file["truth/phase_conv_probe_intensity_rad"][8:-8, 8:-8].ravel()
    phase = np.asarray(done.state.products["dpc_phase"])[8:-8, 8:-8].ravel()
    assert done.state["technique"] == "dpc" and np.corrcoef(phase, truth)[0, 1] >= least
    assert np.polyfit(truth, phase, 1)[0] == pytest.approx(1, abs=0.05)


def test_a_disk_that_the_detector_cuts_gives_images():
    """Nothing can be searched with half a disk, but that is no reason to end with nothing."""
    probe = gpu4d.probe.synthetic((64, 64), 14.0, center=(10.0, 32.0), edge=2.0)
    patterns = np.random.default_rng(0).poisson(20 * probe, (9, 9, 64, 64)).astype(np.uint16)
    a = analyse(DataCube(patterns))
    assert a["technique"] == "images" and {"bf", "mean_pattern", "com"} <= set(a.products)
    assert any("cut by a detector" in line for line in a.record.warnings)


def test_a_probe_without_a_disk_is_named():
    with pytest.raises(InputError, match="vacuum probe"):
        analyse(DataCube(np.ones((2, 2, 32, 32), np.uint16)), probe=np.zeros((32, 32)))


def test_results_that_outgrow_the_default_memory_raise_it(monkeypatch):
    """Disk lists of a large scan are larger than the default: the run goes on with more, and says so; a user's own limit is kept."""
    from gpu4d.errors import MemoryBudgetError

    cube = gpu4d.simulate.bragg_scan((4, 4), (48, 48), radius=3.0, spacing=11.0, seed=3).cube
    disks = lambda: {"d": gpu4d.BraggDisks(gpu4d.probe.synthetic((48, 48), 3.0), expected_peaks=8e5)}  # noqa: E731
    a = RunState(cube, Recipe(), Record())
    assert len(a.sweep(disks(), False)["d"]) > 0
    assert any("memory limit is raised" in line for line in a.record.log), a.record.log
    strict = Recipe()
    strict.set("compute.memory", "50 MB", origin="--memory")
    with pytest.raises(MemoryBudgetError, match="allows 50 MB"):
        RunState(cube, strict, Record()).sweep(disks(), False)
