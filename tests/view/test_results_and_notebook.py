"""What the viewer takes: scans, results of a run, cubes of a notebook; and the command."""

import json
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from own_process import importing

import gpu4d
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.view import open_view, view_of, widget
from gpu4d.view.answers import Answers
from gpu4d.view.widget import reply

NAMES = ["bf", *(f"lattice vectors {plane}" for plane in ("g1 qx", "g1 qy", "g2 qx", "g2 qy")), "strain e_xx", "strain e_yy"]


@pytest.fixture(scope="module")
def result(tmp_path_factory, counts):
    """A folder as `gpu4d run` writes it: the scan by a link, maps, disks, the unstrained lattice."""
    folder = tmp_path_factory.mktemp("result")
    np.save(folder / "scan.npy", counts.source.array)
    cube = gpu4d.open(folder / "scan.npy")
    step = counts.calibration.r_pixel
    ends, x = np.arange(100), np.arange(198.0)
    calibration = gpu4d.Calibration(origin=(9.5, 12.0), energy=200e3, q_pixel=0.02, r_pixel=step)
    planes = np.stack([np.full((9, 11), -0.01), np.full((9, 11), 0.02)])
    items = {
        "datacube": cube,
        "bf": gpu4d.RealSlice.calibrated(np.ones((9, 11)), "bf", "counts", step),
        "strain": gpu4d.RealSlice.calibrated(planes, "strain", "1", step, ("e_xx", "e_yy")),
        "parallax_image": gpu4d.RealSlice(np.ones((18, 22))),
        "mean_pattern": gpu4d.DiffractionSlice(np.ones((20, 24))),
        "braggvectors": gpu4d.PointListArray(2 * ends, {"qx": x / 20, "qy": x / 18, "intensity": np.ones(198)}, (9, 11)),
        "strain_reference": gpu4d.PointList({"qx": np.array([6.0, 0.5]), "qy": np.array([0.25, 7.0])}),
        "lattice_vectors": gpu4d.RealSlice.calibrated(
            np.arange(4.0)[:, None, None] + 10 * np.arange(99).reshape(9, 11),
            "lattice vectors",
            "px",
            step,
            ("g1 qx", "g1 qy", "g2 qx", "g2 qy"),
        ),
        "calibration": calibration,
    }
    gpu4d.save(folder / "result.h5", items)
    return folder


def test_a_result_brings_its_maps_disks_and_lattice(result, counts):
    for path in (result, result / "result.h5"):
        view = open_view(path)
        assert list(view.maps) == NAMES  # not those of another grid
        assert np.array_equal(view.pattern(2, 3), counts.source.array[2, 3])
    assert view.drawn_at(1, 2)["lattice"] == [[130.0, 131.0], [132.0, 133.0]]
    assert view.overlays.lattice.tolist() == [[6.0, 0.25], [0.5, 7.0]]
    drawn = view.drawn_at(1, 2)
    assert drawn["origin"] == [9.5, 12.0] and np.allclose(drawn["disks"], [[26 / 20, 26 / 18], [27 / 20, 27 / 18]])
    about = view.about()
    assert about["r"] == {"size": 5.0, "unit": "Å"} and about["origin"] == [9.5, 12.0] and about["disks"]
    assert json.loads(json.dumps(about)) == about  # as a page is told it


def test_a_renamed_result_is_known_by_its_content(result):
    other = result / "other.h5"
    other.write_bytes((result / "result.h5").read_bytes())
    assert list(open_view(other).maps) == NAMES


def test_a_result_without_its_scan_says_what_to_do(result):
    away = (result / "scan.npy").rename(result / "away.npy")
    try:
        with pytest.raises(InputError, match=r"not where it was.*--bundle"):
            open_view(result)
    finally:
        away.rename(result / "scan.npy")


def test_a_message_of_a_notebook_is_answered_with_its_number(counts):
    answers = Answers(view_of(counts))
    asked = {"ask": "image", "detector": {"shape": "disk", "center": [9.5, 12], "outer": 4}, "number": 7, "client": "x"}
    said, buffers = reply(answers, asked)
    image = np.frombuffer(buffers[0], "<f8").reshape(said["shape"])
    assert said["number"] == 7
    assert np.array_equal(image, np.asarray(gpu4d.virtual_image(counts, gpu4d.detectors.disk(4, (9.5, 12)))))
    said, buffers = reply(answers, {"ask": "map", "name": "?", "number": 8})
    assert said["number"] == 8 and "no map" in said["error"] and buffers == []
    assert "error" in reply(answers, "no request")[0]


def test_a_widget_holds_the_page_and_answers(counts, need):
    need("anywidget")
    made = widget(counts, title="in a notebook")
    assert json.loads(made.about)["title"] == "in a notebook" and "export default" in made._esm and ".gpu4d-view" in made._css
    sent = []
    made.send = lambda content, buffers=None: sent.append((content, buffers))
    made._handle_custom_msg({"ask": "pattern", "position": [1, 2], "number": 3}, [])
    assert sent[0][0]["number"] == 3 and np.array_equal(np.frombuffer(sent[0][1][0]).reshape(20, 24), counts.source.array[1, 2])


def test_without_anywidget_the_error_names_the_extra(counts, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r"gpu4d\[view\]"):
        widget(counts)


def test_the_command_writes_a_page(result, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert run_command(["view", str(result), "--export", str(page), "--quiet", "--bin", "2"]) == 0
    assert str(page) in capsys.readouterr().out and "strain e_yy" in page.read_text(encoding="utf-8")
    assert run_command(["view", str(result), "--export", str(page), "--quiet"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_the_command_refuses_flags_that_belong_to_a_page(result, capsys):
    assert run_command(["view", str(result), "--bin", "2", "--no-browser"]) == 1
    assert "--bin belongs to --export" in capsys.readouterr().err
    assert run_command(["view", str(result / "none.h5")]) == 1
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(result, how):
    """In a process of its own, because it takes the signals."""
    code = f"from gpu4d.cli import main; main(['view', {str(result / 'scan.npy')!r}, '--no-browser', '--quiet'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=importing())
    try:
        url = process.stdout.readline().strip()
        cookies = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with cookies.open(url, timeout=60) as page:
            assert b"gpu4d-view" in page.read()
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "the viewer has ended" in out and err == ""
