"""LiberTEM's own tests of what our UDFs replace, with theirs and with ours: ``python benchmarks/peers/conformance_libertem.py``.

Its source package is fetched from PyPI, and its tests run three times in an environment of their own: as they are; with our UDFs in the
place of its CoM and masks (`libertem_test_plugin.py`); and with our sums in LiberTEM's float32. Prints how many pass, and every test
whose result differs with its reason. Ends with 1 if one differs for no reason that is listed here.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence

from gpu4d.benchmarks.peers.environments import SetupError, default_folder, python_of
from gpu4d.benchmarks.peers.in_libertem import LIBERTEM, environment_variables

VERSION = "0.16.0"
FILES = (
    "tests/udf/test_com.py",
    "tests/analysis/test_analysis_com.py",
    "tests/analysis/test_analysis_masks.py",
    "tests/analysis/test_analysis_shapes.py",
    "tests/analysis/test_analysis_radialfourier.py",
)
PRECISION = (
    "the test wants LiberTEM's float32 analysis to 1e-7 of its value; ours is float64, up to 2e-6 px away. With the same sums rounded to "
    "float32 it passes"
)
SPARSE = "LiberTEM tests its UDF with each kind of array that it takes; ours takes NumPy and CuPy, into which LiberTEM turns sparse arrays"
EXACT = "the test asserts that sums of large float32 values go wrong in LiberTEM; ours are in float64, and right"
MASKS = {"test_analysis_masks.py::test_numerics_fail": EXACT}
KINDS = {f"test_com.py::test_com[{kind}": SPARSE for kind in ("scipy.sparse", "cupyx.scipy.sparse", "sparse.")}
COM = {f"test_com.py::{name}[": PRECISION for name in ("test_com", "test_com_params", "test_com_roi")}
REASONS = {
    "with ours": MASKS | KINDS | COM,
    "with our sums in float32": MASKS | KINDS,
}  # beginning of a test's name -> why it ends otherwise
RUNS = {"theirs": {}, "with ours": {"GPU4D_ROUNDED": "0"}, "with our sums in float32": {"GPU4D_ROUNDED": "1"}}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=pathlib.Path, default=default_folder(), help="folder for the environment and the source package")
    parser.add_argument("--python", type=pathlib.Path, help="interpreter of an environment that exists")
    parser.add_argument("--source", type=pathlib.Path, help="unpacked source package of LiberTEM")
    parser.add_argument("--only", help="only test files whose names have this")
    options = parser.parse_args(arguments)
    try:
        python = options.python or python_of(LIBERTEM, options.folder)
        source = options.source or fetch(options.folder)
    except SetupError as error:
        print(f"LiberTEM's environment cannot be made: {error}")
        return 1
    files = [name for name in FILES if not options.only or options.only in name]
    with tempfile.TemporaryDirectory(prefix="gpu4d-conformance-") as made:
        results = {name: run(python, source, files, pathlib.Path(made), name) for name in RUNS}
    return report(results)


def fetch(folder: pathlib.Path) -> pathlib.Path:
    """Return LiberTEM's source package, which has its tests; wheels have not."""
    place = folder / f"libertem-{VERSION}"
    if not (place / "tests").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
        done = subprocess.run([*command, f"libertem=={VERSION}"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(done.stderr.splitlines()[-1])
        with tarfile.open(folder / f"libertem-{VERSION}.tar.gz") as packed:
            packed.extractall(folder, filter="data")
    return place


def run(python: pathlib.Path, source: pathlib.Path, files: list[str], folder: pathlib.Path, name: str) -> dict[str, str]:
    """Run the tests once. Return test -> passed, failed or skipped."""
    place = folder / name.replace(" ", "-")
    place.mkdir()
    variables = environment_variables(place, GPU4D_TILES=str(place / "tiles"), NUMBA_NUM_THREADS="4", **RUNS[name])  # as its pytest.ini
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={place / 'junit.xml'}", *files]
    if RUNS[name]:
        variables["PYTHONPATH"] += f":{pathlib.Path(__file__).parent}"
        command += ["-p", "libertem_test_plugin"]
    print(f"{name} …", flush=True)
    done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True, check=False)
    if not (place / "junit.xml").exists():
        raise SystemExit(f"pytest did not run: {done.stdout[-1500:]}{done.stderr[-1500:]}")
    if (place / "tiles").exists():
        counts: Counter[str] = sum((Counter(json.loads(line)) for line in (place / "tiles").read_text().splitlines()), Counter())
        print("   tiles: " + ", ".join(f"{what} {n}" for what, n in sorted(counts.items())))
    return outcomes(place / "junit.xml")


def outcomes(file: pathlib.Path) -> dict[str, str]:
    """Return test -> passed, failed or skipped, from a report of pytest."""
    found = {}
    for case in ET.parse(file).iter("testcase"):
        kinds = {child.tag for child in case}
        result = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name')}"] = result
    return found


def report(results: dict[str, dict[str, str]]) -> int:
    """Print what passed, and what ends otherwise with ours. Return 1 if a difference has no reason."""
    theirs = results["theirs"]
    print("\n| tests | passed | failed | skipped | not there |\n| --- | --- | --- | --- | --- |")
    for name, found in results.items():
        counts = Counter(found.values())
        print(f"| {name} | {counts['passed']} | {counts['failed']} | {counts['skipped']} | {len(set(theirs) - set(found))} |")
    unknown = 0
    for name, found in results.items():
        why: dict[str, list[str]] = {}
        for test in sorted({*found, *theirs}):
            if found.get(test) != theirs.get(test):
                reason = next((reason for start, reason in REASONS.get(name, {}).items() if test.startswith(start)), "NO REASON LISTED")
                why.setdefault(reason, []).append(f"{test} ({theirs.get(test, 'not there')} -> {found.get(test, 'not there')})")
        unknown += len(why.get("NO REASON LISTED", []))
        for reason, tests in why.items():
            print(f"\n{name}, {len(tests)} tests: {reason}", *tests, sep="\n  ")
    return int(unknown > 0)


if __name__ == "__main__":
    sys.exit(main())
