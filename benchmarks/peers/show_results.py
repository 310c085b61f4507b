"""Which results of gpu4d other programs read: ``python benchmarks/peers/show_results.py``.

Started in gpu4d's own environment. It writes one EMD file for every class of results, with parts at random, and one with all of them, and
has emdfile, py4DSTEM and RosettaSciIO read them, each in a virtual environment that is made from PyPI on the first run. What a reader gives
is compared with the numbers in the file. The table says how many arrays of each class each reader gives, with right values and axes.

Ends with 1 if a reader could not be set up, or refuses a file.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from gpu4d.benchmarks.peers import environments
from gpu4d.benchmarks.peers.environments import Environment, SetupError

import gpu4d
from gpu4d.testing.example_results import classes, example

HERE = pathlib.Path(__file__).resolve().parent
READERS = {  # name -> environment, and whose classes its files name
    "emdfile": (Environment("emdfile", ("emdfile==0.0.16", "hdf5plugin"), ("emdfile", "hdf5plugin"), "results_readers.py"), "emdfile"),
    "py4DSTEM": (Environment("py4DSTEM", ("py4dstem==0.14.18",), ("py4DSTEM",), "results_readers.py"), "py4DSTEM"),
    "RosettaSciIO": (
        Environment(
            "RosettaSciIO",
            ("rosettasciio==0.15.0", "hyperspy==2.5.0", "hdf5plugin"),
            ("rsciio.emd", "hyperspy.api", "hdf5plugin"),
            "results_readers.py",
        ),
        "py4DSTEM",
    ),
}
ALL = "everything in one file"
BUNDLE = "a compressed scan"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show which results of gpu4d other programs read.")
    parser.add_argument("--only", action="append", choices=list(READERS), help="a reader; may be repeated")
    parser.add_argument("--folder", type=pathlib.Path, default=environments.default_folder(), help="where environments are kept")
    parser.add_argument("--summary", action="store_true", help="print the table of the docs alone")
    options = parser.parse_args(arguments)
    answers: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="gpu4d-results-") as made:
        written = write_all(pathlib.Path(made))
        for name in options.only or READERS:
            try:
                answers[name] = ask(name, options.folder, pathlib.Path(made))
            except SetupError as error:
                answers[name] = {"about": f"could not be set up: {error}", "files": {}}
    if not options.summary:
        print(table(answers, written), end="\n\n")
    print(summary(answers, written))
    return 1 if problems(answers, written) else 0


def write_all(folder: pathlib.Path) -> list[str]:
    """Write a file for every class of results, and one with all, for each kind of classes. Return the names of the classes."""
    names = sorted(classes())
    made = {name: example(name) for name in names}
    for kind in ("py4DSTEM", "emdfile"):
        place = folder / kind
        place.mkdir()
        for name, result in made.items():
            gpu4d.save(place / f"{name}.h5", {"calibration" if name == "Calibration" else name: result}, classes=kind)
        everything = {"calibration" if name == "Calibration" else name: result for name, result in made.items()}
        gpu4d.save(place / f"{ALL}.h5", everything, classes=kind)
        gpu4d.save(place / f"{BUNDLE}.h5", {"datacube": made["DataCube"], "RealSlice": made["RealSlice"]}, classes=kind, links="bundle")
    return names


def ask(name: str, environments_at: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
    """Return what a reader says of every file: its version, and for each file what was given or why it was refused."""
    environment, kind = READERS[name]
    python = environments.python_of(environment, environments_at)
    command = [str(python), str(HERE / environment.script), name, str(folder / kind)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise SetupError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def problems(answers: dict[str, dict[str, Any]], names: Sequence[str]) -> list[str]:
    """Return the readers that were not set up, and the files that were refused or given with other values."""
    found = []
    for reader, answer in answers.items():
        if not answer["files"]:
            found.append(f"{reader}: {answer['about']}")
        for name in (*names, ALL, BUNDLE):
            held = answer["files"].get(name)
            if held is not None and (held["problem"] or held["wrong"]):
                found.append(f"{reader}, {name}: {held['problem'] or ', '.join(held['wrong'])}")
    return found


def table(answers: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """Return a row for every class: arrays that each reader gives with right values, of those in the file."""
    lines = [f"| class | {' | '.join(answers)} |", "| --- |" + " --- |" * len(answers)]
    for name in (*names, ALL, BUNDLE):
        cells = [_cell(answer["files"].get(name)) for answer in answers.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(held: dict[str, Any] | None) -> str:
    if held is None:
        return "—"
    if held["problem"]:
        return f"refused: {held['problem']}"
    text = f"{held['right']} of {held['arrays']}" if held["arrays"] else "numbers and texts" if held["metadata"] else "nothing to see"
    return text + (f"; other axes: {len(held['axes'])}" if held["axes"] else "")


def summary(answers: dict[str, dict[str, Any]], names: Sequence[str]) -> str:
    """Return the table of the docs: a row for every reader."""
    head = ("reader", "files read", "arrays given with right values", "of these with right axes", "numbers and texts", "as")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for answer in answers.values():
        held = [answer["files"][name] for name in names if name in answer["files"]]
        good = [h for h in held if not h["problem"]]
        arrays, right = sum(h["arrays"] for h in held), sum(h["right"] for h in good)
        axes = right - sum(len(h["axes"]) for h in good)
        texts = "all" if all(h["metadata"] for h in good if h["has_metadata"]) else "none"
        kinds = ", ".join(sorted({kind for h in good for kind in h["classes"]}))
        lines.append(f"| {answer['about']} | {len(good)} of {len(names)} | {right} of {arrays} | {axes} | {texts} | {kinds} |")
    return "\n".join([*lines, *(f"PROBLEM {line}" for line in problems(answers, names))])


if __name__ == "__main__":
    sys.exit(main())
