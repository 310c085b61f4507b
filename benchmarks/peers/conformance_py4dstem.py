"""py4DSTEM's own tests, without and with `gpu4d.interop.py4dstem.accelerate`: ``python benchmarks/peers/conformance_py4dstem.py``.

The tests are those of its source distribution. They are run where they are, and nothing of them is copied. The environment with py4DSTEM,
pytest and this gpu4d is made in the first run, and kept. The exit code is 1 if a test ends otherwise than it did with py4DSTEM's engine
and no reason is listed in DIFFERENCES.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET

from gpu4d.benchmarks.peers.environments import SetupError, default_folder

VERSION = "0.14.18"
PACKAGES = (f"py4dstem=={VERSION}", "pytest")
ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGIN = "py4dstem_test_plugin"

# Tests that end otherwise with our engine, and why. Empty: there is none.
DIFFERENCES: dict[str, str] = {}
# Tests whose data are downloads. Stand-ins of the same kind are read instead, see the plugin.
STAND_INS = ("test_braggvectors", "test_calibration", "test_datacube", "test_probe", "test_strain")


def environment(folder: pathlib.Path) -> pathlib.Path:
    """Return the interpreter of an environment with py4DSTEM and this gpu4d, in one line of pip."""
    place = folder / "py4DSTEM with gpu4d"
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if (
        not python.exists()
        or subprocess.run([str(python), "-c", "import py4DSTEM, gpu4d, pytest"], capture_output=True, check=False).returncode
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for step in ([sys.executable, "-m", "venv", str(place)], [str(python), "-m", "pip", "install", "-q", "-e", str(ROOT), *PACKAGES]):
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SetupError(done.stderr.strip().splitlines()[-1])
    return python


def tests(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder with the tests of py4DSTEM's source distribution, which is downloaded once."""
    place = folder / f"py4dstem-{VERSION}"
    if not (place / "test").is_dir():
        archive = folder / f"py4dstem-{VERSION}.tar.gz"
        if not archive.exists():
            step = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder), PACKAGES[0]]
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SetupError(done.stderr.strip().splitlines()[-1])
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return place / "test"


def outcomes(python: pathlib.Path, where: pathlib.Path, fast: bool) -> tuple[dict[str, str], str]:
    """Run the tests, and return the outcome of each, and what the plugin counted."""
    with tempfile.TemporaryDirectory() as out:
        report = pathlib.Path(out) / "report.xml"
        paths = os.pathsep.join((str(pathlib.Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
        given = {**os.environ, "PYTHONPATH": paths, "MPLBACKEND": "Agg", "GPU4D_ACCELERATE": "1" if fast else ""}
        command = [str(python), "-m", "pytest", "-q", "-s", "-p", PLUGIN, "-p", "no:cacheprovider", f"--junitxml={report}", str(where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
        if not report.exists():
            raise SetupError((done.stderr or done.stdout).strip().splitlines()[-1])
        found = {}
        for case in ET.parse(report).iter("testcase"):
            kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
            found[f"{case.get('classname')}::{case.get('name')}"] = kinds[0] if kinds else "passed"
        counted = [line for line in done.stdout.splitlines() if line.startswith("calls of replaced functions")]
        return found, counted[0] if counted else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=pathlib.Path, default=default_folder(), help="where the environment and the tests are kept")
    folder = parser.parse_args().folder
    try:
        python, where = environment(folder), tests(folder)
        theirs, _ = outcomes(python, where, fast=False)
        ours, counted = outcomes(python, where, fast=True)
    except SetupError as error:
        print(f"not run: {error}")
        return 1
    print(f"{'test':72} {'py4DSTEM':10} {'gpu4d':10} data")
    unexplained = 0
    for name in sorted(theirs | ours):
        first, second = theirs.get(name, "absent"), ours.get(name, "absent")
        data = "stand-in" if name.partition("::")[0].split(".")[1] in STAND_INS else ""
        reason = DIFFERENCES.get(name, "") if first != second else ""
        unexplained += first != second and not reason
        print(f"{name:72} {first:10} {second:10} {data}{'  ' + reason if reason else ''}")
    passed = [sum(outcome == "passed" for outcome in run.values()) for run in (theirs, ours)]
    print(f"passed: {passed[0]} with py4DSTEM's engine, {passed[1]} with gpu4d's")
    print(counted or "no replaced function was called")
    return int(unexplained > 0)


if __name__ == "__main__":
    raise SystemExit(main())
