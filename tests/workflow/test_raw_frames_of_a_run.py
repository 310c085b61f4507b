"""Runs on raw frames: corrected as the recipe says or the frames show, said in the report, and checked at the edge."""

import h5py
import numpy as np
import pytest
from raw_frames import ADU, inside, raw_frames
from recipes_in_tests import recipe

import gpu4d
from gpu4d.data.source import below_views
from gpu4d.errors import InputError
from gpu4d.workflow import analyse, run
from gpu4d.workflow.clean import clean, measured_background
from gpu4d.workflow.inputs import views

SHAPE = (64, 60)


def electrons(scan=(8, 8), radius=0.85, halo=0.05):
    rng = np.random.default_rng(0)
    x, y = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    mean = halo + 12 / (1 + np.exp(3 * (np.hypot(x - 31.0, y - 30.0) - 7.0)))
    return rng.poisson(np.broadcast_to(mean * inside(SHAPE, radius), (*scan, *SHAPE))).astype(float)


@pytest.fixture(scope="module")
def made():
    return raw_frames(electrons())


@pytest.fixture(scope="module")
def files(made, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    with h5py.File(folder / "scan.h5", "w") as file:
        file["frames"], file["darks"], file["gain"] = made.raw, made.darks, made.gain
    return folder / "scan.h5"


def given(files, **more):
    return recipe(
        input__dataset="/frames", corrections__dark=f"{files}:/darks", corrections__gain=f"{files}:/gain",
        analysis__technique="images", **more,
    )  # fmt: skip


def gate(state):
    return next(g for g in state.record.gates if g.name == "Background at the edge")


@pytest.mark.slow
def test_a_run_with_dark_and_gain(made, files, tmp_path):
    """The mean pattern is that of the electrons; what was done stands in decisions, log and result file; the file stays as it is."""
    before = files.read_bytes()
    state = run(files, tmp_path / "out", recipe=given(files)).state
    mean, bad = np.asarray(state["mean_pattern"]), made.hot | made.dead
    np.testing.assert_allclose(mean[~bad], made.clean.mean((0, 1))[~bad], atol=4.5)
    assert np.abs(mean - made.clean.mean((0, 1)))[bad].max() < 6 * ADU
    decisions = {d.what: d.why for d in state.record.decisions}
    assert "streaks along columns are subtracted" in decisions and "12 bad pixels take the value of a neighbour" in decisions
    assert any(what.startswith("raw frames are corrected: background subtracted") for what in decisions)
    assert not any("left out" in what for what in decisions), "nothing of the background looks like a dead pixel"
    assert gate(state).passed and state.reasons["corrections"].wanted
    assert not any("subtracting a background" in line for line in state.record.warnings), "noise about zero is right"
    with h5py.File(tmp_path / "out" / "result.h5") as file:
        stored = np.asarray(file["gpu4d/background/data"])
        assert stored.shape == SHAPE and np.isfinite(stored).all()
        np.testing.assert_array_equal(np.asarray(file["gpu4d/corrected_pixels/data"]) != 0, bad)
    saved = gpu4d.io.read_emd(tmp_path / "out" / "result.h5")
    np.testing.assert_array_equal(saved["raw_datacube"].load().source.array, made.raw)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Background of raw frames" in report and "streaks along columns" in report
    assert files.read_bytes() == before


def test_streaks_are_found_without_being_asked_for(made):
    """An array in memory, without dark and gain. Its calibration is completed in place."""
    cube = gpu4d.DataCube(made.raw, gpu4d.Calibration(energy=200e3, semiangle=3.0))
    state = analyse(cube, recipe(analysis__technique="images"))
    assert measured_background(state.cube) is not None and below_views(state.cube.source).array is made.raw
    assert cube.calibration.q_pixel is not None and cube.calibration is state.calibration and not cube.corrections
    off = analyse(cube, recipe(analysis__technique="images", corrections__streaks="off"))
    assert not off.cube.corrections and not off.reasons["corrections"].wanted
    again = analyse(cube.corrected(gpu4d.preprocess.background(cube)), recipe(analysis__technique="images"))
    assert gate(again).passed, "measured before by the caller"


def test_streaks_are_looked_for_at_an_edge_that_is_given(made, tmp_path):
    np.save(tmp_path / "edge.npy", (~inside(SHAPE, 0.85)).astype("uint8"))
    np.save(tmp_path / "centre.npy", np.pad(np.ones((20, 20), "uint8"), ((22, 22), (20, 20))))
    cube = gpu4d.DataCube(made.raw)
    found = measured_background(clean(cube, recipe(corrections__edge=str(tmp_path / "edge.npy"))))
    assert found is not None and (found.edge == ~inside(SHAPE, 0.85)).all()
    assert clean(cube, recipe(corrections__edge=str(tmp_path / "centre.npy"))) is cube, "the beam reaches these pixels"


def test_counts_are_used_as_they_are(crystal):
    state = analyse(crystal.cube, recipe(analysis__technique="images"))
    assert not state.cube.corrections and "no streaks were found" in state.reasons["corrections"].why
    assert any("frames are used as they were recorded" in line for line in state.record.log)


def test_corrected_first_and_then_turned_and_binned(made, files):
    from gpu4d.workflow.inputs import open_scan

    settings = given(files, input__swap_detector=True, input__bin_detector=2)
    cube = open_scan(files, settings)
    assert cube.shape == (8, 8, 30, 32)
    plain = open_scan(files, given(files)).load().source.array
    expected = plain.swapaxes(2, 3).reshape(8, 8, 30, 2, 32, 2).sum((3, 5))
    np.testing.assert_allclose(cube.load().source.array, expected, rtol=1e-5, atol=1e-3)
    state = analyse(cube, settings, cleaned=True)
    assert gate(state).passed and measured_background(cube).edge.shape == (60, 64)


def test_the_gate_sees_a_beam_that_reaches_the_edge():
    """Guide 16.2: the edge should be at zero; what to do is said."""
    made = raw_frames(electrons(radius=1.0, halo=0.6))
    state = analyse(gpu4d.DataCube(made.raw), recipe(analysis__technique="images", corrections__streaks="on", corrections__hits=False))
    found = gate(state)
    assert not found.passed and "background_mask_radius" in found.advice and "check the dark reference" in found.advice
    assert recipe(corrections__background_mask_radius=0.8, corrections__hot_pixel_threshold=7.0).advice() == [
        "corrections.background_mask_radius = 0.8 is outside the recommended 0.85 – 0.95",
        "corrections.hot_pixel_threshold = 7 is outside the recommended 3 – 5",
    ]


def test_the_gate_is_of_pixels_of_raw_frames_in_binned_scans_too():
    made, levels = raw_frames(electrons(radius=1.0, halo=0.6)), []
    for settings in ({}, {"input__bin_scan": 2}, {"input__bin_detector": 2}):
        chosen = recipe(analysis__technique="images", corrections__streaks="on", corrections__hits=False, **settings)
        cube = views(clean(gpu4d.DataCube(made.raw), chosen), chosen)
        levels.append(float(gate(analyse(cube, chosen, cleaned=True)).measured.split()[0]))
    assert levels[1] == pytest.approx(levels[0], rel=0.05) and levels[2] == pytest.approx(levels[0], rel=0.3)


def test_patterns_that_come_corrected_are_not_said_to_be_as_recorded(made):
    cube = gpu4d.DataCube(made.raw).corrected(dark=made.darks, streaks=True)
    state = analyse(cube, recipe(analysis__technique="images", corrections__streaks="off"))
    assert "came corrected already (background subtracted" in state.reasons["corrections"].why


def test_wrong_files_are_refused(made, files, tmp_path):
    np.save(tmp_path / "small.npy", np.zeros((4, 4)))
    for name, said in (
        ("dark", "dark is"),
        ("gain", r"corrections.gain .* is \(4, 4\), the detector is \(64, 60\)"),
        ("edge", "corrections.edge"),
    ):
        settings = recipe(**{f"corrections__{name}": str(tmp_path / "small.npy"), "corrections__streaks": "on"})
        with pytest.raises(InputError, match=said):
            analyse(gpu4d.DataCube(made.raw), settings)
    with pytest.raises(InputError, match="absent"):
        run(files, tmp_path / "out", recipe=recipe(input__dataset="/frames", corrections__dark=str(tmp_path / "absent.h5")))
    assert not (tmp_path / "out").exists()


def test_flags():
    from gpu4d.cli_flags import with_flags

    found = with_flags(None, {"dark": "a.h5:/d", "gain": "g.npy"})
    assert (found.corrections.dark, found.corrections.gain) == ("a.h5:/d", "g.npy")
