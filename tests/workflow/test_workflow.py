"""From a file to a report: recipes, decisions, gates, what is written, and the figures of the shared scans."""

import re
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import DataCube, plot
from gpu4d.crystal import suggest_technique
from gpu4d.crystal.lattice import Lattice
from gpu4d.device.timeline import Timeline
from gpu4d.errors import InputError
from gpu4d.testing.accounting import AccountingProcessor
from gpu4d.workflow import Recipe, Record, RunState, analyse, run
from gpu4d.workflow.describe import describe_file
from gpu4d.workflow.recipe import explain, to_toml
from gpu4d.workflow.record import SilentWatcher
from gpu4d.workflow.report.output import check_free, folder
from gpu4d.workflow.stages.trial import in_scan_shape


def recipe(**settings):
    """recipe(bragg__power=0.9)"""
    made = Recipe()
    for name, value in settings.items():
        made.set(name.replace("__", "."), value, origin="test")
    made.check()
    return made


# ---------------------------------------------------------------- recipes


def test_a_new_recipe_reads_back_to_the_defaults():
    text = to_toml(Recipe())
    back = Recipe.from_toml(text)
    assert back.as_dict() == Recipe().as_dict() and back.advice() == []
    for name, _, _ in Recipe().values():
        assert re.search(rf"^(# )?{name.split('.')[1]} = ", text, re.M), f"{name} is not in the recipe"


def test_every_setting_survives_the_round_trip():
    given = recipe(
        input__dataset='a "quoted" path/ü', input__scan_shape=[3, 4], calibration__transpose=True, bragg__max_peaks=33, bragg__power=0.9,
        strain__reference=[0, 4, 2, 8], dpc__lambda1=1e-4, compute__memory="1 GiB", images__adf_outer=4,
    )  # fmt: skip
    for comments in (True, False):
        assert Recipe.from_toml(to_toml(given, comments)).as_dict() == given.as_dict()
    assert set(tomllib.loads(to_toml(given, comments=False))) == {"input", "calibration", "bragg", "strain", "dpc", "compute", "images"}


@pytest.mark.parametrize(
    "text, says",
    [
        ("[brag]\npower = 1", ["[brag]", "'bragg'"]),
        ("[bragg]\npowr = 0.9", ["'powr'", "'power'"]),
        ("[bragg]\npower = 1.5", ["bragg.power = 1.5", "0 to 1"]),
        ("[bragg]\npower = true", ["bragg.power", "a number"]),
        ("[bragg]\nmax_peaks = 2.5", ["max_peaks", "a whole number"]),
        ("[bragg]\nmin_spacing = nan", ["min_spacing", "px"]),
        ('[bragg]\nrefine = "corelation"', ["'corelation'", "'correlation'", "parabola"]),
        ("[calibration]\nenergy = 80", ["energy", "eV"]),
        ('[calibration]\ntranspose = "yes"', ["true or false"]),
        ("[input]\nscan_shape = [3]", ["2 whole numbers"]),
        ('[strain]\nreference = "mean"', ["median", "[rx0, rx1, ry0, ry1]"]),
        ("[strain]\nreference = [5, 5, 0, 3]", ["rx0 < rx1"]),
        ("[images]\nadf_inner = 4.0\nadf_outer = 2.0", ["adf_outer", "larger"]),
        ('[compute]\nmemory = "much"', ["'much'", "512 MB"]),
        ("bragg = 3", ["[bragg]"]),
        ("[bragg\n", ["not valid TOML", "recipe new"]),
    ],
)
def test_mistakes_in_a_recipe_are_named(text, says):
    with pytest.raises(InputError) as error:
        Recipe.from_toml(text, "r.toml")
    assert all(word in str(error.value) for word in says), str(error.value)


def test_only_what_the_user_set_is_measured_against_the_guide():
    assert Recipe().bragg.upsample == 16 and Recipe().advice() == [], "our defaults lie outside on purpose"
    (line,) = recipe(bragg__upsample=32).advice()
    assert "bragg.upsample = 32" in line and "4 – 8" in line
    assert recipe(bragg__upsample=8, bragg__power=0.9, bragg__max_peaks=70).advice() == []


def test_paths_in_a_recipe_start_at_its_folder(tmp_path):
    (tmp_path / "r.toml").write_text('[probe]\nfile = "vacuum.h5:/probe"\n')
    assert Recipe.load(tmp_path / "r.toml").probe.file == f"{tmp_path}/vacuum.h5:/probe"


def test_explain_says_everything_of_everything():
    text = explain(recipe(bragg__power=0.9))
    for name, _, rule in Recipe().values():
        assert name in text and rule.explain.split(".")[0][:30] in text.replace("\n    ", " ")
    assert "bragg.power = 0.9   [test]" in text and len(Recipe().sections) == 10


# ---------------------------------------------------------------- decisions


@pytest.fixture(scope="module")
def crystal():
    return gpu4d.simulate.bragg_scan((14, 12), (96, 80), spacing=18.0, radius=5.0, dose=60.0, strain_size=0.01, seed=2)


@pytest.fixture(scope="module")
def thin():
    return gpu4d.simulate.phase_object_scan((20, 24), (32, 32), r_pixel=0.4, dose=1e5, rotation=0.3, seed=1)


def lattice(g, fraction=0.98):
    return Lattice(np.array([g, 0.0]), np.array([0.0, g + 1]), indexed_fraction=fraction, chance=0.12)


@pytest.mark.parametrize(
    "counts, found, scan, expected, because",
    [
        ([20] * 9, lattice(22.0), (32, 32), "bragg", "no overlap"),
        ([20] * 9, lattice(9.0), (32, 32), "dpc", "overlap"),
        ([20] * 9, lattice(9.0), (4, 32), "images", "too few"),
        ([1] * 9, None, (32, 32), "dpc", "bright-field disk only"),
        ([1] * 35 + [9], lattice(22.0), (32, 32), "dpc", "too few for a lattice"),
        ([1] * 30 + [9] * 6, lattice(22.0), (32, 32), "bragg", "6 of them"),
        ([12] * 9, None, (32, 32), "dpc", "no lattice"),
    ],
)
def test_the_technique_follows_the_trial(counts, found, scan, expected, because):
    chosen, _, why = suggest_technique(np.array(counts), found, 5.5, scan)
    assert chosen == expected and because in why, why


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
    a = analyse(DataCube(crystal.cube.source.array))
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
    a = analyse(DataCube(crystal.cube.source.array), recipe(analysis__technique="dpc"))
    assert a["technique"] == "dpc" and "strain" not in a
    a = analyse(DataCube(crystal.cube.source.array), recipe(analysis__technique="both"))
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
    a = analyse(DataCube(crystal.cube.source.array), recipe(bragg__min_significance=1e5))
    assert "strain" not in a and any("thresholds may be too high" in line for line in a.record.warnings)


@pytest.mark.parametrize("cut", [np.s_[:1, :], np.s_[:, :1], np.s_[:1, :1], np.s_[:2, :3]])
def test_small_scans_work(crystal, cut):
    a = analyse(DataCube(crystal.cube.source.array[cut]))
    assert a.products["bf"].shape == crystal.cube.source.array[cut].shape[:2]


def test_several_grains_are_told_of():
    grains = [gpu4d.simulate.bragg_scan((6, 12), (96, 96), spacing=18.0, radius=5.0, angle=t, strain=None, seed=1) for t in (8.0, 40.0)]
    a = analyse(DataCube(np.concatenate([g.cube.source.array for g in grains])))
    assert a["technique"] == "bragg" and any("several grains" in line for line in a.record.warnings)


def test_stuck_and_dead_pixels_do_no_harm(crystal):
    """A stuck pixel is the brightest thing in the mean pattern; it must be found, left out and told of."""
    data = crystal.cube.source.array.copy()
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


# ---------------------------------------------------------------- what is left


@pytest.fixture(scope="module")
def results(tmp_path_factory, crystal):
    """A crystal's file, run with a title that must be escaped."""
    root = tmp_path_factory.mktemp("results")
    path = root / "a <b> & c.h5"
    with h5py.File(path, "w") as file:
        file["scan"] = crystal.cube.source.array
    settings = recipe(calibration__energy=200e3, calibration__semiangle=3.0, calibration__r_pixel=20.0, bragg__max_peaks=99)
    return run(path, root / "out", recipe=settings, command="gpu4d run <script>")


def test_the_result_file_has_everything_by_name(results, crystal):
    saved = gpu4d.io.read_emd(results.folder / "result.h5")
    names = {"datacube", "bf", "adf", "mean_pattern", "max_pattern", "com", "probe", "braggvectors", "bragg_vector_map", "strain"}
    assert names <= set(saved), names - set(saved)
    assert np.array_equal(np.asarray(saved["datacube"][3, 4]), crystal.cube.source.array[3, 4]), "the link leads to the raw scan"
    assert np.allclose(np.asarray(saved["strain"])[0], np.asarray(results.state["strain"].exx), equal_nan=True)
    assert saved["strain"].labels == ("e_xx", "e_yy", "e_xy", "theta", "mask")
    with h5py.File(results.folder / "result.h5") as file:
        bundle = file["gpu4d/metadatabundle"]
        assert {"calibration", "settings", "versions", "log"} <= set(bundle)
        centre = crystal.truth["origin"].mean((0, 1))
        assert bundle["calibration/qx0_mean"][()] == pytest.approx(centre[0], abs=0.05)
        assert bundle["calibration/qy0_mean"][()] == pytest.approx(centre[1], abs=0.05)
        assert bundle["calibration/Q_pixel_size"][()] == pytest.approx(results.state.calibration.q_pixel)
    assert (results.folder / "result.h5").stat().st_size < crystal.cube.nbytes, "the scan is linked, not copied"


def test_the_phase_is_saved_too(thin, tmp_path):
    np.save(tmp_path / "thin.npy", thin.cube.source.array)
    known = {"calibration__energy": 80e3, "calibration__semiangle": 25.0, "calibration__r_pixel": 0.4}
    done = run(tmp_path / "thin.npy", tmp_path / "out", recipe=recipe(**known))
    saved = gpu4d.io.read_emd(done.folder / "result.h5")
    assert {"datacube", "dpc_phase", "dpc_com", "com", "bf"} <= set(saved) and saved["dpc_phase"].units == "rad"
    assert saved["dpc_phase"].pixel_size == pytest.approx(0.4)


def test_the_report_needs_nothing_but_itself(results):
    text = (results.folder / "report.html").read_text()
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)), (
        "something outside is referred to"
    )
    assert set(re.findall(r'src="(.{5})', text)) == {"data:"} and "<link" not in text and "<script" not in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_the_report_says_what_was_found_and_done(results):
    text = (results.folder / "report.html").read_text()
    assert "a &lt;b&gt; &amp; c.h5" in text and "gpu4d run &lt;script&gt;" in text, "texts are escaped"
    for d in results.record.decisions:
        assert d.what in text
    for word in (
        "Quality gates",
        "Calibration",
        "Timings",
        "patterns/s",
        "bragg.max_peaks",
        "outside the recommended 20 – 50",
        "Å⁻¹",
        "gpu4d 0.",
    ):
        assert word in text, word
    assert len(re.findall("<figure", text)) == len(list(results.folder.glob("*.png"))) >= 10
    assert "semi-angle 3 mrad over a disk radius" in text, "how the pixel came to be known"


def test_the_recipe_that_is_left_repeats_the_run(results, tmp_path):
    again = Recipe.load(results.folder / "recipe.toml")
    assert again.as_dict() == results.state.recipe.as_dict()
    done = run(next(results.folder.parent.glob("*.h5")), tmp_path / "again", recipe=results.folder / "recipe.toml")
    assert np.array_equal(np.asarray(done.state["strain"].exx), np.asarray(results.state["strain"].exx), equal_nan=True)


def test_the_recipe_that_is_left_works_from_anywhere(crystal, tmp_path, monkeypatch):
    """A probe given by a relative path is found again by the recipe in the result folder."""
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", crystal.cube.source.array)
    with h5py.File("probe.h5", "w") as file:
        file["p"] = crystal.probe
    run("scan.npy", "out", recipe=recipe(probe__file="probe.h5:/p"))
    assert Recipe.load("out/recipe.toml").probe.file == f"{tmp_path}/probe.h5:/p"
    assert run("scan.npy", "again", recipe="out/recipe.toml").state["technique"] == "bragg"


def test_the_summary_is_for_reading(results):
    text = results.summary()
    assert "Bragg disks and strain" in text and "report.html" in text and "quality gates passed" in text


def test_binning_and_masks_are_honoured(crystal, tmp_path):
    """Detector binned by two: half the disk, twice the pixel; masked positions are NaN."""
    np.save(tmp_path / "scan.npy", crystal.cube.source.array)
    where = np.ones((14, 12))
    where[:4] = 0
    np.save(tmp_path / "where.npy", where)
    given = recipe(
        calibration__energy=200e3, calibration__semiangle=3.0, input__bin_detector=2, input__scan_mask=str(tmp_path / "where.npy"),
        probe__file=str(tmp_path / "probe.npy"),
    )  # fmt: skip
    np.save(tmp_path / "probe.npy", crystal.probe)
    done = run(tmp_path / "scan.npy", tmp_path / "out", recipe=given)
    assert done.state["disk"].radius == pytest.approx(2.5, abs=0.15)
    assert done.state.calibration.q_pixel == pytest.approx(2 * crystal.cube.calibration.q_pixel, rel=0.06)
    assert np.isnan(np.asarray(done.state.products["bf"])[:4]).all()
    assert "raw_datacube" in gpu4d.io.read_emd(done.folder / "result.h5"), "the link is to the file as it is"


# ---------------------------------------------------------------- the folder


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), folder(tmp_path / "deep" / "out") as new:
        (new / "report.html").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with folder(tmp_path / "deep" / "out") as new:
        (new / "report.html").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "report.html").read_text() == "whole"


def test_an_earlier_result_survives_a_failure(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("old")
    with pytest.raises(RuntimeError), folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "report.html").read_text() == "old"
    with folder(tmp_path / "out", overwrite=True) as new:
        (new / "report.html").write_text("new")
    assert (tmp_path / "out" / "report.html").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_links_and_files_are_not_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("x")
    for name, what in (("link", "a link"), ("file", "not a folder")):
        with pytest.raises(InputError, match=what):
            check_free(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("name", ["result.h5", "phase_object.h5", "scan.h5", "phase_object_scan.h5", "figure.png"])
def test_files_of_other_people_with_our_names_are_not_replaced(tmp_path, name):
    with h5py.File(tmp_path / name, "w") as file:
        file["data"] = np.ones((2, 2, 4, 4))
    with pytest.raises(InputError, match="did not write"):
        check_free(tmp_path, overwrite=True)


def test_our_own_files_are_replaced(tmp_path):
    gpu4d.save(tmp_path / "result.h5", {"a": np.ones((2, 2))})
    gpu4d.save(tmp_path / "phase_object.h5", {"a": np.ones((2, 2))})
    (tmp_path / "scan.h5").write_bytes(b"simulated")
    (tmp_path / "recipe.toml").write_text("")
    plot.save(plot.image(np.ones((4, 4)), "bf"), tmp_path / "bf.png")
    check_free(tmp_path, overwrite=True)


# ---------------------------------------------------------------- the demo


def test_a_file_that_is_cut_short_meanwhile_leaves_nothing(crystal, tmp_path):
    """Mapped pages that are gone must be an error, not a dead process."""
    np.save(tmp_path / "scan.npy", crystal.cube.source.array)

    class Cutter(SilentWatcher):
        def begin(self, stage):
            if stage.startswith("pass 2"):
                with open(tmp_path / "scan.npy", "r+b") as file:
                    file.truncate(10000)

    with pytest.raises(InputError, match=r"scan\.npy"):
        run(tmp_path / "scan.npy", tmp_path / "out", watcher=Cutter())
    assert [p.name for p in tmp_path.iterdir()] == ["scan.npy"]


@pytest.mark.slow
def test_the_demo_measures_what_was_put_in(tmp_path):
    from gpu4d.workflow.demo import REFERENCE, demo, relative_truth

    done = demo(tmp_path / "demo", scan=36)
    assert {"result.h5", "report.html", "scan.h5", "phase_object.h5", "strain.png", "phase_object_dpc_phase.png"} <= {
        p.name for p in done.folder.iterdir()
    }
    figures = {what: value for what, value, _ in done.record.figures}
    assert float(figures["Strain against the truth"].split()[0]) < 0.08, "rms in %"
    assert float(figures["Phase object: phase against the truth"].split()[-1]) > 0.98
    assert "Comparison with the truth" in (done.folder / "report.html").read_text()
    made = gpu4d.simulate.bragg_scan((36, 36), strain="inclusion", vacuum_rows=4)
    rx0, rx1, ry0, ry1 = REFERENCE
    assert np.abs(np.median(relative_truth(made.truth)["exx"][rx0:rx1, ry0:ry1])) < 1e-3, "the truth is relative to the same region"
    again = gpu4d.open(done.folder / "scan.h5")
    assert again.shape == (36, 36, 128, 128)


# ---------------------------------------------------------------- shared scans


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
@pytest.mark.parametrize("dataset, rms, bias", [("poisson_1e5", 5e-4, 2e-4), ("poisson_5e3", 2.5e-3, 5e-4)])
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
@pytest.mark.parametrize("dataset, least", [("noisefree", 0.995), ("poisson_1e5", 0.99), ("poisson_1e4", 0.96)])
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


# ---------------------------------------------------------------- devices


@pytest.fixture
def two_cards(monkeypatch):
    """Two devices that count stand for "cuda:0" and "cuda:1"; "auto" takes the first."""
    cards = {f"cuda:{i}": AccountingProcessor(f"cuda:{i}", link_rate=1e6) for i in range(2)}

    def choose_all(device="auto"):
        return tuple(cards[name] for name in ("cuda:0" if device == "auto" else device).split(","))

    for module in ("gpu4d.device.choose", "gpu4d.streaming.place"):  # the package has a function `choose`
        monkeypatch.setattr(sys.modules[module], "choose_all", choose_all)
    return cards


@pytest.fixture
def file(thin, tmp_path):
    np.save(tmp_path / "thin.npy", thin.cube.source.array)
    return tmp_path / "thin.npy"


def test_info_plans_for_the_device_of_the_run(file, two_cards):
    size = 20 * 24 * 32 * 32 * 2
    text = describe_file(file)  # "auto" is a card here, and its link slower than the disk
    assert "on cuda:0: " in text and "page-locked on the host" in text
    assert f"at least {size / 1e6:.2g} s: the link at 1 MB/s (nominal) is slower than reading at " in text
    both = describe_file(file, device="cuda:0,cuda:1")
    assert "on cuda:0, cuda:1 each: " in both and f"at least {size / 2e6:.2g} s: the link at 2 MB/s" in both
    assert all(card.counts["bytes copied"] == 0 and card.held == 0 for card in two_cards.values()), "a plan takes nothing"
    for card in two_cards.values():
        card.link_rate = 1e15
    assert "is slower than the link at 1e+03 TB/s" in describe_file(file)


def test_a_run_on_two_devices_is_that_on_one(file, two_cards, tmp_path):
    found = {}
    for device in ("cuda:0,cuda:1", "cuda:1"):
        made = run(file, tmp_path / device.replace(":", ""), recipe=recipe(compute__device=device))
        found[device] = {name: np.asarray(thing) for name, thing in made.state.products.items()}
    several, one = found.values()
    assert set(one) == set(several) and {"mean_pattern", "bf", "com"} <= set(one)
    for name in one:
        np.testing.assert_array_equal(several[name], one[name], err_msg=name)
    assert sum(card.counts["bytes copied"] for card in two_cards.values()) > 0  # who is first may take all of so small a scan
    assert not any(card.leaks() or card.faults for card in two_cards.values())


def test_sweeps_share_a_timeline(thin, tmp_path):
    timeline, cube = Timeline(), DataCube(thin.cube.source.array)
    gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern()}, trace=timeline)
    gpu4d.sweep(cube, {"com": gpu4d.CenterOfMass(), "max": gpu4d.MaxPattern()}, trace=timeline)
    passes = [span for span in timeline.events if span.track == "passes"]
    assert [span.name for span in passes] == ["pass 1 of 1: mean", "pass 1 of 1: com, max"]
    assert passes[0].end <= passes[1].start
    inside = [span for span in timeline.events if span.name.startswith("reduce ")]
    assert inside and all(any(p.start <= span.start and span.end <= p.end for p in passes) for span in inside)
    assert list(tmp_path.iterdir()) == []
