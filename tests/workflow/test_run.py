"""From a file to a report: what is written, the folder, the demo, devices."""

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe
from report_structure import structure

import gpu4d
from gpu4d import DataCube, plot
from gpu4d.device.timeline import Timeline
from gpu4d.errors import InputError
from gpu4d.testing.accounting import AccountingProcessor
from gpu4d.workflow import Recipe, run
from gpu4d.workflow.describe import describe_file
from gpu4d.workflow.record import SilentWatcher
from gpu4d.workflow.report.methods import numbered
from gpu4d.workflow.report.output import check_free, folder

DOCS = Path(__file__).parents[2] / "docs"

# ---------------------------------------------------------------- what is left


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


def test_the_phase_is_saved_too(thin, tmp_path, blank_pictures):
    np.save(tmp_path / "thin.npy", thin.cube.source.array)
    known = {"calibration__energy": 80e3, "calibration__semiangle": 25.0, "calibration__r_pixel": 0.4}
    done = run(tmp_path / "thin.npy", tmp_path / "out", recipe=recipe(**known))
    saved = gpu4d.io.read_emd(done.folder / "result.h5")
    assert {"datacube", "dpc_phase", "dpc_com", "com", "bf"} <= set(saved) and saved["dpc_phase"].units == "rad"
    assert saved["dpc_phase"].pixel_size == pytest.approx(0.4)


def test_the_report_needs_nothing_but_itself(results):
    text = (results.folder / "report.html").read_text()
    without_data = re.sub(r'"bytes":"[^"]*"|"colours":"[^"]*"|data:image/png;base64,[A-Za-z0-9+/=]+', "", text)
    assert not re.search(r"(https?:)?//[a-z]", without_data), "something outside is referred to"
    assert set(re.findall(r'src="(.{5})', text)) == {"data:"} and "<link" not in text and "<script src" not in text
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
        "GB/s",
        "Can this be trusted?",
        "BLAKE2b-128 of the whole file",
        "bragg.max_peaks",
        "outside the recommended 20 – 50",
        "Å⁻¹",
        "gpu4d 0.",
    ):
        assert word in text, word
    pictures = {path.stem for path in results.folder.glob("*.png")}
    assert len(re.findall("<figure", text)) == len(pictures) >= 10 and {path.stem for path in results.folder.glob("*.svg")} == pictures
    assert "semi-angle 3 mrad over a disk radius" in text, "how the pixel came to be known"


def test_the_recipe_that_is_left_repeats_the_run(results, tmp_path, blank_pictures):
    again = Recipe.load(results.folder / "recipe.toml")
    assert again.as_dict() == results.state.recipe.as_dict()
    done = run(next(results.folder.parent.glob("*.h5")), tmp_path / "again", recipe=results.folder / "recipe.toml")
    assert np.array_equal(np.asarray(done.state["strain"].exx), np.asarray(results.state["strain"].exx), equal_nan=True)


def test_the_recipe_that_is_left_works_from_anywhere(crystal, tmp_path, monkeypatch, blank_pictures):
    """A probe given by a relative path is found again by the recipe in the result folder."""
    monkeypatch.chdir(tmp_path)
    np.save("scan.npy", crystal.cube.source.array[:3, :4])
    with h5py.File("probe.h5", "w") as file:
        file["p"] = crystal.probe
    images = {"analysis__technique": "images"}
    first = run("scan.npy", "out", recipe=recipe(probe__file="probe.h5:/p", **images)).state["disk"]
    assert Recipe.load("out/recipe.toml").probe.file == f"{tmp_path}/probe.h5:/p"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = run("../scan.npy", "again", recipe="../out/recipe.toml").state["disk"]
    assert again == first != run("../scan.npy", "without", recipe=recipe(**images)).state["disk"], "the probe's disk, not the scan's"


def test_the_summary_is_for_reading(results):
    text = results.summary()
    assert "Bragg disks and strain" in text and "report.html" in text and "quality gates passed" in text


def test_binning_and_masks_are_honoured(crystal, tmp_path, blank_pictures):
    """Detector binned by two: half the disk, too small to tell the pixel; masked positions are NaN."""
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
    assert done.state.calibration.q_pixel is None  # a disk of less than 3 px gives none
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


@pytest.mark.parametrize(
    "name", ["result.h5", "phase_object.h5", "scan.h5", "phase_object_scan.h5", "figure.png", "figure.svg", "methods.txt", "references.bib"]
)
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
    for name in ("bf.png", "bf.svg"):
        plot.save(plot.image(np.ones((4, 4)), "bf"), tmp_path / name)
    numbered("Disks [@pekin2017].").write(tmp_path)
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
    fresh = structure((done.folder / "report.html").read_text(encoding="utf-8"))
    assert fresh["names of scans"] == ["Crystal", "Phase object"] and "Comparison with the truth: strain" in fresh["headings"]
    example = structure((DOCS / "examples" / "report.html").read_text(encoding="utf-8"))
    assert example == fresh, "the example is no report of today: gpu4d demo && python docs/demo_pictures.py gpu4d-demo"
    made = gpu4d.simulate.bragg_scan((36, 36), strain="inclusion", vacuum_rows=4)
    rx0, rx1, ry0, ry1 = REFERENCE
    assert np.abs(np.median(relative_truth(made.truth)["exx"][rx0:rx1, ry0:ry1])) < 1e-3, "the truth is relative to the same region"
    again = gpu4d.open(done.folder / "scan.h5")
    assert again.shape == (36, 36, 128, 128)


# ---------------------------------------------------------------- devices


@pytest.fixture
def two_cards(monkeypatch):
    """Two devices that count stand for "cuda:0" and "cuda:1"; "auto" takes the first."""
    cards = {f"cuda:{i}": AccountingProcessor(f"cuda:{i}", link_rate=1e6) for i in range(2)}

    def choose_all(device="auto"):
        return tuple(cards[name] for name in ("cuda:0" if device == "auto" else device).split(","))

    for module in ("gpu4d.device.choose", "gpu4d.streaming.place", "gpu4d.workflow.workers"):  # the package has a function `choose`
        monkeypatch.setattr(sys.modules[module], "choose_all", choose_all)
    return cards


@pytest.fixture
def file(thin, tmp_path):
    np.save(tmp_path / "thin.npy", thin.cube.source.array)
    return tmp_path / "thin.npy"


def test_info_plans_for_the_device_of_the_run(file, two_cards):
    size = 20 * 24 * 32 * 32 * 2
    text = describe_file(file, with_plan=True)  # "auto" is a card here, and its link slower than the disk
    assert "on cuda:0: " in text and "page-locked on the host" in text
    assert f"at least {size / 1e6:.2g} s: the link at 1 MB/s (nominal) is slower than reading at " in text
    both = describe_file(file, device="cuda:0,cuda:1", with_plan=True)
    assert "on cuda:0, cuda:1 each: " in both and f"at least {size / 2e6:.2g} s: the link at 2 MB/s" in both
    assert all(card.counts["bytes copied"] == 0 and card.held == 0 for card in two_cards.values()), "a plan takes nothing"
    for card in two_cards.values():
        card.link_rate = 1e15
    assert "is slower than the link at 1e+03 TB/s" in describe_file(file, with_plan=True)


def test_a_run_on_two_devices_is_that_on_one(file, two_cards, tmp_path, blank_pictures):
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
