"""A run of a list of frames with fly-back, and of a preview; `gpu4d info --shapes`."""

import json

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.workflow.inputs import given_probe, open_scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A phase object of 32×36 positions, as a list of frames with two dark frames of fly-back after each row."""
    made = gpu4d.simulate.phase_object_scan((32, 36), (64, 64), r_pixel=0.5, semiangle=25.0, dose=1e4, seed=3)
    patterns = np.asarray(made.cube)
    frames = np.concatenate([patterns, np.zeros((32, 2, 64, 64), patterns.dtype)], axis=1).reshape(-1, 64, 64)
    path = tmp_path_factory.mktemp("scan") / "frames.h5"
    with h5py.File(path, "w") as file:
        file["frames"], file["probe"] = frames, made.probe if made.probe is not None else patterns[0, 0]
    return path, patterns, made.cube.calibration


def test_fly_back_is_left_out_of_a_run(scan):
    path, patterns, _ = scan
    given = {"input__dataset": "frames", "input__scan_shape": [32, 36], "input__flyback": 2}
    np.testing.assert_array_equal(np.asarray(open_scan(path, recipe(**given))), patterns)
    at_start = open_scan(path, recipe(**given | {"input__flyback_at": "start"}))
    np.testing.assert_array_equal(np.asarray(at_start)[:, :-2], patterns[:, 2:])
    some = open_scan(path, recipe(**given | {"input__scan_shape": [31, 36], "input__extra_frames": [38, 0]}))
    np.testing.assert_array_equal(np.asarray(some), patterns[1:])
    with pytest.raises(InputError, match="flyback=2"):
        open_scan(path, recipe(**given | {"input__flyback": 3}))
    with pytest.raises(InputError, match="give --scan-shape"):
        open_scan(path, recipe(input__dataset="frames", input__flyback=2))


def test_a_preview_keeps_the_values_of_the_calibration(scan):
    path, patterns, known = scan
    given = {"input__dataset": "frames", "input__scan_shape": [32, 36], "input__flyback": 2, "input__preview": True}
    cube = open_scan(path, recipe(**given, calibration__q_pixel=known.q_pixel, calibration__r_pixel=0.5))
    assert cube.shape == (16, 18, 32, 32), "16 positions and 32 pixels along an axis stay"
    np.testing.assert_array_equal(np.asarray(cube), patterns[::2, ::2].reshape(16, 18, 32, 2, 32, 2).sum((3, 5)))
    assert (cube.calibration.q_pixel, cube.calibration.r_pixel) == (pytest.approx(2 * known.q_pixel), 1.0)
    probe = given_probe(cube, recipe(**given, probe__file=f"{path}:/probe"))
    assert probe.shape == (32, 32)


def test_the_report_of_a_preview_says_so_first(scan, tmp_path, monkeypatch, capfd):
    path, _, _ = scan
    monkeypatch.chdir(tmp_path)
    known = ["--energy", "80e3", "--semiangle", "25", "--r-pixel", "0.5", "--technique", "images"]
    flags = ["--dataset", "frames", "--scan-shape", "32,36", "--flyback", "2", "--preview", "--json", "--quiet", "-o", "out"]
    assert run_command(["run", str(path), *known, *flags]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["warnings"][0].startswith("PREVIEW, not the result: 16×18×32×32") and "every 2 positions" in said["warnings"][0]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.index("PREVIEW, not the result") < page.index("<img")


def test_info_lists_the_shapes(scan, capfd):
    path, _, _ = scan
    assert run_command(["info", str(path), "--dataset", "frames", "--shapes"]) == 0
    said = capfd.readouterr().out
    assert said.startswith("1216 frames, which repeat after 38") and "32×36 + 2 fly-back at the end of each row" in said
    assert run_command(["info", str(path), "--dataset", "nothing", "--shapes"]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1
