"""`gpu4d plan`: flags, a TOML file, a recorded scan; the table, the JSON, and one line for what is wrong."""

import json
import os
import re

import numpy as np
import pytest

import gpu4d
from gpu4d.cli import run_command
from gpu4d.cli_plan import table_of
from gpu4d.planning import Acquisition, plan_experiment

FLAGS = ["--scan", "256,256", "--detector", "256x256", "--energy", "200keV", "--semiangle", "2", "--q-pixel", "0.01", "--step", "2nm"]
BEAM = ["--dwell", "1ms", "--current", "0.02nA", "--spacing", "2.04", "--spacing", "0.144nm"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def planned(capfd, *arguments):
    assert run_command(["plan", *arguments, "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def test_flags_give_what_python_gives(capfd):
    said = planned(capfd, *FLAGS, *BEAM, "--for", "strain")
    a = Acquisition(
        scan_shape=(256, 256), detector_shape=(256, 256), energy=200e3, semiangle=2.0, q_pixel=0.01, step=20.0, dwell=1e-3, current=20.0,
        spacings=(2.04, 1.44), purpose=("strain",),
    )  # fmt: skip
    assert said == json.loads(json.dumps(plan_experiment(a).as_dict()))
    assert said["suits"] == {"strain": True} and said["volume"]["bytes"] == 8 * 2**30


def test_the_table_says_numbers_verdicts_and_what_to_change(capfd):
    assert run_command(["plan", *FLAGS, *BEAM, "--dose-limit", "100", "--for", "strain", "--for", "ssb"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("256×256 positions, 256×256 pixels, uint16: 8 GiB (8.59 GB), 66 s at 131 MB/s")
    dose = out[out.index(" dose ") : out.index("range of the counter")]
    assert "312 e/Å²" in dose and "WARN" in dose and "→ 6.79 times less" in re.sub(r"\s+", " ", dose)
    assert "256×256×64×64" in out and "strain: suits" in out and "SSB, WDD: look at overlap of disks, step" in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_structure_gives_its_spacings(capfd):
    pytest.importorskip("gemmi")
    said = planned(capfd, *FLAGS, "--structure", "Au")
    np.testing.assert_allclose(said["acquisition"]["spacings"][:2], [4.078 / np.sqrt(3), 4.078 / 2], rtol=1e-3)


def test_flags_replace_what_a_file_says(capfd):
    with open("e.toml", "w", encoding="utf-8") as file:
        file.write('scan_shape = [64, 64]\ndetector_shape = [128, 128]\nenergy = "80 keV"\ndose = 100\nstep = 1.0\n')
    said = planned(capfd, "e.toml", "--scan", "32,32", "--electrons", "500")
    assert said["acquisition"]["scan_shape"] == [32, 32] and said["acquisition"]["energy"] == 80e3
    assert said["dose"]["electrons"] == 500 and said["acquisition"]["dose"] is None


def test_a_recorded_scan(capfd):
    made = gpu4d.simulate.bragg_scan((4, 6), (64, 64), spacing=20.0, reach=1.1, seed=1)
    gpu4d.save("scan.h5", {"cube": made.cube})
    said = planned(capfd, "scan.h5", "--dwell", "1ms", "--q-pixel", "0.02")
    assert (
        said["acquisition"]["scan_shape"] == [4, 6] and said["acquisition"]["semiangle"] == 3.0 and said["acquisition"]["q_pixel"] == 0.02
    )
    assert said["dose"]["electrons"] == pytest.approx(np.asarray(made.cube).sum((2, 3)).mean())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "needs at least --scan A,B and --detector A,B"),
        (["--scan", "3", "--detector", "4,4"], "write --scan 64,64"),
        (["--scan", "4,4", "--detector", "4,4", "--energy", "300"], "did you mean 300e3"),
        (["--scan", "4,4", "--detector", "4,4", "--spacing", "wide"], "need a number in Å"),
        (["--scan", "4,4", "--detector", "4,4", "--for", "fun"], "is not one of"),
        (["--scan", "4,4", "--detector", "4,4", "--structure", "Unobtainium"], "no such standard"),
        (["--scan", "4,4", "--detector", "4,4", "--memory", "1kB"], "needs"),
        (["none.toml"], "cannot be read"),
        (["none.h5"], "no such file"),
    ],
)
def test_one_line_for_what_is_wrong(capfd, arguments, says):
    assert run_command(["plan", *arguments]) == 1
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and says in err and os.listdir(".") == []


def test_a_plan_of_almost_nothing_is_a_table_too():
    assert "strain: not judged" in table_of(plan_experiment(Acquisition(scan_shape=(1, 1), detector_shape=(2, 3), dtype=1)))
