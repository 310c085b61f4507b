"""The example package of docs/how-to/extend.md: installed, it brings a reduction, a format and a stage; and it is short."""

import json
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from own_process import importing

DATA = np.random.default_rng(0).poisson(3.0, (9, 8, 32, 32)).astype("<u2")
CODE = """
import json, logging, sys
import numpy as np
import gpu4d
from gpu4d.cli import run_command
from gpu4d.streaming import registered_reductions
codes = [run_command(["info", "scan.any"]), run_command(["run", "scan.any", "-o", "out"])]
cube = gpu4d.open("scan.any")
swept = gpu4d.sweep(cube, {"peak": "brightest"})["peak"]
live = gpu4d.live(iter(np.asarray(cube)), {"peak": "brightest"}, cube)["peak"]
known = [[one.name, one.kind.__name__, one.package] for one in registered_reductions()]
print("RESULT" + json.dumps([codes, np.asarray(swept).tolist(), np.asarray(live).tolist(), known, gpu4d.__file__]))
"""


@pytest.fixture
def example(checkout):
    return checkout / "docs" / "examples" / "plugin"


def used(site, folder):
    """Use the package that is installed in `site`, in a process of its own; what it printed, and its results."""
    (folder / "scan.any").write_bytes(b"PLAIN4D 9 8 32 32\n" + DATA.tobytes())
    environment = importing()
    environment["PYTHONPATH"] = f"{site}:{environment['PYTHONPATH']}"
    done = subprocess.run([sys.executable, "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, _, results = done.stdout.partition("RESULT")
    return said + done.stderr, json.loads(results)


def check(site, folder):
    said, (codes, swept, live, known, _) = used(site, folder)
    assert codes == [0, 0] and "left out" not in said, said
    assert "9×8 scan positions, 32×32 detector pixels, uint16" in said and "plain, mapped at byte 18" in said, "gpu4d info shows it"
    assert swept == live == DATA.max((2, 3)).tolist()
    assert known == [["brightest", "Brightest", "brightest-pixel"]]
    assert (folder / "out" / "brightest.png").stat().st_size > 0
    assert "The largest value of every pattern." in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_it_is_short(example):
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in example.iterdir() if file.is_file()) <= 60
    assert {file.name for file in example.iterdir() if file.is_file()} == {"pyproject.toml", "brightest_pixel.py"}


def test_it_brings_a_reduction_a_format_and_a_stage(example, tmp_path):
    """Its files lie as an installer puts them, with the entry points of its pyproject.toml."""
    project = tomllib.loads((example / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path / "site"
    information = site / f"brightest_pixel-{project['version']}.dist-info"
    information.mkdir(parents=True)
    shutil.copy(example / "brightest_pixel.py", site)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [f"[{group}]\n" + "".join(f"{n} = {v}\n" for n, v in names.items()) for group, names in project["entry-points"].items()]
    (information / "entry_points.txt").write_text("\n".join(groups))
    check(site, tmp_path)


@pytest.mark.slow
def test_pip_installs_it(example, tmp_path):
    """From a copy, with the build backend that its pyproject.toml names."""
    copy, site = tmp_path / "copy", tmp_path / "site"
    shutil.copytree(example, copy, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, copy]
    subprocess.run(command, check=True, cwd=tmp_path)
    check(site, tmp_path)
