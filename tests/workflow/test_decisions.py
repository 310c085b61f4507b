"""What a run decides, and the gates it compares with."""

import numpy as np
import pytest
from recipes_in_tests import lattice, recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.crystal import suggest_technique
from gpu4d.errors import InputError
from gpu4d.workflow import Record, analyse
from gpu4d.workflow.stages.trial import in_scan_shape


@pytest.mark.parametrize(
    "counts, found, scan, expected, because",
    [
        ([20] * 9, lattice(22.0), (32, 32), "bragg", "no overlap"),
        ([20] * 9, lattice(9.0), (32, 32), "dpc", "overlap"),
        ([20] * 9, lattice(9.0), (4, 32), "images", "too few"),
        ([1] * 9, None, (32, 32), "dpc", "bright-field disk only"),
        ([1] * 35 + [9], lattice(22.0), (32, 32), "dpc", "too few for a lattice"),
        ([1] * 30 + [9] * 6, lattice(22.0), (32, 32), "bragg", "6 of them"),
        ([12] * 9, None, (32, 32), "images", "no single lattice"),
    ],
)
def test_the_technique_follows_the_trial(counts, found, scan, expected, because):
    given = suggest_technique(np.array(counts), found, 5.5, scan)
    assert given.technique == expected and because in given.why, given.why


def test_a_crystal_is_recognised_and_its_strain_is_right(crystal):
    cube = DataCube(crystal.cube.source.array, gpu4d.Calibration(energy=200e3, semiangle=3.0, r_pixel=20.0, rotation=0.0))
    a = analyse(cube)
    assert a["technique"] == "bragg" and a.record.decisions[0].what == "Bragg disks and strain"
    F = crystal.truth["F"]
    for name, i, j in (("exx", 0, 0), ("eyy", 1, 1)):
        expected = F[..., i, j] - np.median(F[..., i, j])
        error = np.asarray(getattr(a["strain"], name)) - expected
        assert np.std(error) < 1e-3, f"{name}: {np.std(error)}"
    assert a.calibration.q_pixel == pytest.approx(crystal.cube.calibration.q_pixel, rel=0.01), "from the disk, its motion taken off"
    assert np.abs(a["origin"].fitted - crystal.truth["origin"]).max() < 0.05
    assert [g.name for g in a.record.gates if not g.passed] == []


def test_without_a_rotation_the_strain_says_so(crystal):
    a = analyse(DataCube(crystal.cube.source.array[:6, :7]))
    assert any("detector's axes" in line for line in a.record.warnings)
    assert a["strain"].axes.frame == "detector"


def test_a_phase_object_is_recognised_and_its_phase_is_right(thin):
    cube = DataCube(thin.cube.source.array, gpu4d.Calibration(energy=80e3, semiangle=25.0, r_pixel=0.4))
    a = analyse(cube)
    assert a["technique"] == "dpc" and "braggvectors" not in a
    measured, expected = (np.asarray(m)[3:-3, 3:-3].ravel() for m in (a.products["dpc_phase"], thin.truth["phase_conv"]))
    assert np.corrcoef(measured, expected)[0, 1] > 0.97
    assert np.polyfit(expected, measured, 1)[0] == pytest.approx(1, abs=0.05)
    assert a.calibration.rotation == pytest.approx(0.3, abs=0.03)
    assert any("Rotation" in d.what for d in a.record.decisions)


def test_what_is_asked_for_is_done(crystal, thin):
    a = analyse(thin.cube, recipe(analysis__technique="images"))
    assert a["technique"] == "images" and "dpc" not in a and "trial" not in a
    part = crystal.cube.source.array[:6, :7]
    a = analyse(DataCube(part), recipe(analysis__technique="dpc"))
    assert a["technique"] == "dpc" and "strain" not in a
    a = analyse(DataCube(part), recipe(analysis__technique="both"))
    assert "dpc" in a and "strain" in a


def test_a_probe_on_background_gives_no_false_disks():
    """Vacuum has one disk: a vacuum probe with its detector background would find seventy."""
    made = gpu4d.simulate.bragg_scan((16, 12), (128, 128), vacuum_rows=5, dose=60.0, seed=4)
    a = analyse(DataCube(made.cube.source.array), recipe(probe__vacuum_region=[0, 5, 0, 12]))
    counts = np.asarray(a["braggvectors"].counts)
    assert (counts[:5] == 1).all() and (counts[5:] == 21).mean() > 0.98
    assert np.isnan(np.asarray(a["strain"].exx)[:5]).all() and np.isfinite(np.asarray(a["strain"].exx)[5:]).all()
    assert any("strain is NaN there" in line for line in a.record.warnings)


def test_values_that_are_no_counts_are_thresholded_otherwise(crystal):
    data = crystal.cube.source.array.astype(np.float32)
    a = analyse(DataCube(data / data.sum((2, 3), keepdims=True)))
    assert a["technique"] == "bragg" and a["trial"].options["min_significance"] == 0
    assert any("not electron counts" in d.why for d in a.record.decisions)


def test_bad_patterns_give_nan_there_and_a_warning(crystal):
    data = crystal.cube.source.array.astype(np.float32)
    data[2, 3], data[5, 5], data[4, 4] = np.nan, np.inf, 0
    data[6, 6, 3, 3] = np.nan
    data[7, 8] = -5
    a = analyse(DataCube(data))
    bad = np.zeros((14, 12), bool)
    bad[[2, 5, 4, 6, 7], [3, 5, 4, 6, 8]] = True
    assert np.array_equal(np.isnan(np.asarray(a["strain"].exx)), bad)
    for name in ("bf", "adf", "com"):
        assert np.array_equal(~np.isfinite(np.asarray(a.products[name])), np.broadcast_to(bad, a.products[name].shape)), name
    text = " ".join(a.record.warnings)
    assert "3 of 168 patterns are with NaN or infinite values" in text and "1 of 168 patterns are without any counts" in text
    assert "1 of 168 patterns are negative in total" in text
    assert np.isfinite(np.asarray(a.products["mean_pattern"])).all(), "a bad pattern poisons nothing"


@pytest.mark.parametrize(
    "data, what",
    [
        (np.full((9, 9, 32, 32), 7, "u2"), "flat"),
        (np.random.default_rng(0).poisson(2, (9, 9, 40, 40)).astype("u2"), "noise"),
    ],
)
def test_no_disk_means_images_only(data, what):
    a = analyse(DataCube(data))
    assert a["technique"] == "images" and a.record.warnings and set(a.products) >= {"bf", "mean_pattern", "com"}, what


def test_nothing_at_all_is_refused():
    with pytest.raises(InputError, match="right dataset"):
        analyse(DataCube(np.zeros((4, 4, 16, 16), "u2")))


def test_too_high_a_threshold_is_said(crystal):
    a = analyse(DataCube(crystal.cube.source.array[:6, :7]), recipe(bragg__min_significance=1e5))
    assert "strain" not in a and any("thresholds may be too high" in line for line in a.record.warnings)


@pytest.mark.parametrize("cut", [np.s_[:1, :], np.s_[:, :1], np.s_[:1, :1], np.s_[:2, :3]])
def test_small_scans_work(crystal, cut):
    a = analyse(DataCube(crystal.cube.source.array[cut]))
    assert a.products["bf"].shape == crystal.cube.source.array[cut].shape[:2]


def test_several_grains_are_told_of():
    grains = [gpu4d.simulate.bragg_scan((6, 12), (96, 96), spacing=18.0, radius=5.0, angle=t, strain=None, seed=1) for t in (8.0, 40.0)]
    a = analyse(DataCube(np.concatenate([g.cube.source.array for g in grains])))
    assert a["technique"] == "bragg" and any("2 lattices in this scan (rotated grains)" in line for line in a.record.warnings)
    strain = a["strain"].mask
    assert strain[:6].all() != strain[6:].all() and strain.mean() == 0.5, "strain of one grain, and none where the other is"


def test_stuck_and_dead_pixels_do_no_harm(crystal):
    """A stuck pixel is the brightest thing in the mean pattern; it must be found, left out and told of."""
    data = crystal.cube.source.array[:8, :7].copy()
    clean = analyse(DataCube(data.copy()))
    data[:, :, 10, 70] = 65535
    data[:, :, 48, 41] = 0  # in the middle of the unscattered disk
    a = analyse(DataCube(data))
    assert np.argwhere(~a.cube.detector_mask).tolist() == [[10, 70], [48, 41]]
    assert a["technique"] == "bragg" and a["disk"].radius == pytest.approx(clean["disk"].radius, abs=0.1)
    difference = np.asarray(a["strain"].exx) - np.asarray(clean["strain"].exx)
    assert np.abs(difference).max() < 5e-4
    assert any("(10, 70), (48, 41)" in d.what for d in a.record.decisions)
    assert clean.cube.detector_mask is None, "nothing is left out of a good detector"
    kept = analyse(DataCube(data), recipe(input__bad_pixels="keep", analysis__technique="images"))
    assert kept.cube.detector_mask is None


def test_regions_outside_the_scan_are_refused_before_the_work(crystal):
    record = Record()
    with pytest.raises(InputError, match="outside the scan"):
        analyse(DataCube(crystal.cube.source.array), recipe(strain__reference=[0, 99, 0, 3]), record)
    assert record.stages == []


def test_a_wrong_pixel_size_is_noticed(thin):
    cube = DataCube(thin.cube.source.array, gpu4d.Calibration(energy=80e3, semiangle=25.0, r_pixel=0.4, q_pixel=0.2))
    assert any("one of them is wrong" in line for line in analyse(cube, recipe(analysis__technique="images")).record.warnings)


def test_trial_lists_go_to_their_places():
    lists = gpu4d.PointListArray(np.array([0, 2, 3, 3]), {"qx": np.array([1.0, 2.0, 3.0])}, (3,))
    whole = in_scan_shape(lists, np.array([[1, 2], [0, 1], [1, 0]]), (2, 3))
    assert whole.counts.tolist() == [[0, 1, 0], [0, 0, 2]]
    assert whole[1, 2].qx.tolist() == [1.0, 2.0] and whole[0, 1].qx.tolist() == [3.0]


def test_results_are_items_and_attributes(thin):
    a = analyse(thin.cube, recipe(analysis__technique="images"))
    assert a.technique is a["technique"] and a.disk is a["disk"]
    with pytest.raises(AttributeError, match=r"no stage made 'strain'; there are .*disk"):
        _ = a.strain
