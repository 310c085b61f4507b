"""Make the pages of machines that were measured, from the results in benchmarks/results: `python -m gpu4d.benchmarks.suite.results_page`.

With files, `… results_page R.json`: verify them, and first copy them to where they belong. Nothing else is written but
docs/reference/machines.md and machines.html.
"""

from __future__ import annotations

import argparse
import getpass
import json
import re
import shutil
import socket
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu4d.benchmarks.suite.result import FORMAT, Result, read
from gpu4d.benchmarks.suite.verify import verify_result
from gpu4d.benchmarks.suite.workload import PARTS, QUICK, TIERS

import gpu4d
from gpu4d.errors import Gpu4dError, InputError

REPOSITORY = Path(gpu4d.__file__).resolve().parents[1]
RESULTS = Path("benchmarks/results")
PAGE, HTML = Path("docs/reference/machines.md"), Path("docs/reference/machines.html")
LONGEST = 60  # characters of a machine's name in the name of a file
HEAD = f"""# Machines that were measured

<!-- Made by `python -m gpu4d.benchmarks.suite.results_page` from the files in {RESULTS}. Do not edit. -->

Scores of `gpu4d bench run`. 1000 is the reference machine, 2000 is twice as fast. [Benchmark a machine](../how-to/benchmark.md)
says what is measured and how. [Submit a result](../contributing/submit-a-result.md) says how to add yours. [machines.html](machines.html)
shows the same as bars. It also shows what limits each workload, how long usual scans take, and which detectors each machine keeps up with.

Results of two tiers, or of two divisions, are not compared. Precision is 1000 where the distance from the truth is that of the reference.
"""


@dataclass(frozen=True)
class Entry:
    """A result and the name of its file."""

    name: str
    result: Result

    @property
    def label(self) -> str:
        return str(self.result["machine"]["label"])

    @property
    def total(self) -> float | None:
        return self.result["score"]["total"]


def entries(folder: Path) -> list[Entry]:
    """Return the results of the benchmark suite in a folder: by tier, division and score, the fastest first.

    Raises
    ------
    InputError
        One of them does not fit.
    """
    found = [Entry(path.name, read(path)) for path in sorted(folder.glob("*.json")) if _is_result(path)]
    for entry in found:
        if findings := verify_result(entry.result)[0]:
            raise InputError(f"{entry.name} does not fit, and is not published: {'; '.join(findings[:3])} (gpu4d bench verify)")
    return sorted(found, key=_order)


def _is_result(path: Path) -> bool:
    content = json.loads(path.read_text(encoding="utf-8"))
    return isinstance(content, dict) and content.get("format") == FORMAT


def _order(entry: Entry) -> tuple[int, str, float, str]:
    suite = entry.result["suite"]
    return ([*TIERS, QUICK].index(suite["tier"]), suite["division"], -(entry.total or 0.0), entry.name)


# ---------------------------------------------------------------- Markdown


def markdown(found: Sequence[Entry]) -> str:
    """Return the page with the tables of scores."""
    blocks = [HEAD]
    for tier in TIERS:
        some = [entry for entry in found if entry.result["suite"]["tier"] == tier]
        if some:
            blocks.append(f"## Tier {tier}\n\n{_table(some)}\n")
    if len(blocks) == 1:
        blocks.append("There is no result yet.\n")
    return "\n".join(blocks)


def _table(found: Sequence[Entry]) -> str:
    columns = ("machine", "division", "score", "interval", *PARTS, "Precision", "under heat", "measured", "file")
    rows = [f"| {' | '.join(columns)} |", f"|{' --- |' * 2}{' ---: |' * 9} --- | --- |"]
    for entry in found:
        score, suite = entry.result["score"], entry.result["suite"]
        whole = "none" if entry.total is None else f"**{entry.total:.0f}**"
        between = "–" if entry.total is None else f"{score['low']:.0f}–{score['high']:.0f}"
        parts = [f"{score['parts'][part]['score']:.0f}" if part in score["parts"] else "–" for part in (*PARTS, "Precision")]
        link = f"[{entry.name}](../../{RESULTS.as_posix()}/{entry.name})"
        cells = (_escaped(entry.label), suite["division"], whole, between, *parts, _heat(entry.result), entry.result["made"][:10], link)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, *_remarks(found)])


def _remarks(found: Sequence[Entry]) -> list[str]:
    """Return why there is no score, and why a division is open."""
    lines = []
    for entry in found:
        lines += [f"* {_escaped(entry.label)} has no score: {_escaped(reason)}" for reason in entry.result["score"]["why_not"]]
        lines += [f"* {_escaped(entry.label)} is of the open division: {_escaped(reason)}" for reason in entry.result["suite"]["why_open"]]
    return ["", *lines] if lines else []


def _heat(result: Result) -> str:
    heat = result["sustained"]
    return "–" if heat is None else f"{100 * heat['ratio']:.0f} %"


def _escaped(text: str) -> str:
    """Return text that means nothing to Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


# ---------------------------------------------------------------- results that come in


def file_name(result: Result) -> str:
    """Return the name under which a result is published: bench-S-amd-epyc-7b13-2-cores-20261201.json."""
    plain = unicodedata.normalize("NFKD", result["machine"]["label"]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:LONGEST].strip("-") or "machine"
    return f"bench-{result['suite']['tier']}-{words}-{result['made'][:10].replace('-', '')}.json"


def private(text: str) -> list[str]:
    """Return what in the text of a result tells whose machine this is: the host's name, the user's, the home folder."""
    asked = {"the name of this host": socket.gethostname(), "the name of the user": _user(), "the home folder": str(Path.home())}
    return [f"{what} ({name})" for what, name in asked.items() if len(name) > 4 and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def add(path: Path, folder: Path) -> Path:
    """Copy a result that fits to where results are published, and return the copy.

    Raises
    ------
    InputError
        It does not fit, is only a trial, names a host or a user, or is there already.
    """
    found = read(path)
    if findings := verify_result(found)[0]:
        raise InputError(f"{path} does not fit: {'; '.join(findings[:3])} (gpu4d bench verify)")
    if found["suite"]["tier"] == QUICK or found["suite"]["seed_is"] != "announced" or found["suite"].get("only"):
        raise InputError(f"{path} is a trial: only whole runs of a tier with the announced seed are published")
    if names := private(path.read_text(encoding="utf-8")):
        raise InputError(f"{path} holds {' and '.join(names)}, which would be published, and no result should hold them: please report it")
    target = folder / file_name(found)
    if target.exists():
        raise InputError(f"{target} is there already: one result a day for each machine and tier")
    shutil.copyfile(path, target)
    return target


def write_pages(repository: Path) -> None:
    """Write both pages of a checkout anew."""
    from gpu4d.benchmarks.suite.machines_page import html

    found = entries(repository / RESULTS)
    (repository / PAGE).write_text(markdown(found), encoding="utf-8")
    (repository / HTML).write_text(html(found), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu4d.benchmarks.suite.results_page", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", nargs="*", type=Path, metavar="R.json", help="results to add")
    given = parser.parse_args(arguments)
    try:
        if not (REPOSITORY / PAGE.parent).is_dir():
            raise InputError(f"{REPOSITORY} is no checkout of the repository: results are added in one (git clone, pip install -e .)")
        for path in given.results:
            print(f"added {add(path, REPOSITORY / RESULTS).relative_to(REPOSITORY)}")
        write_pages(REPOSITORY)
    except Gpu4dError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"wrote {PAGE} and {HTML}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
