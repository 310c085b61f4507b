"""py4DSTEM, LiberTEM and quantem beside gpu4d, on the same data in the same run: ``python benchmarks/peers/compare.py``.

Started in gpu4d's own environment. Every peer gets a virtual environment (made on the first run, from PyPI) and a process that lives
as long as its comparisons. Calls take turns: peer on one thread, gpu4d, peer as it is by default, gpu4d, and again; times are
medians after a warm-up. Answers are compared before anything is said about times. What is compared how: docs/how-to/peers.md.

Ends with 1 if a peer could not be set up or run, or if answers differ; a target that is missed is only said.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from gpu4d.benchmarks.peers import environments, inputs
from gpu4d.benchmarks.peers.comparisons import OURS, Arrays, Comparison, comparisons
from gpu4d.benchmarks.peers.environments import ENVIRONMENTS, SetupError
from gpu4d.benchmarks.peers.table import Check, Row, as_json, details, from_json, short_table, table
from gpu4d.benchmarks.peers.worker import Worker, WorkerError, arrays_of

HERE = pathlib.Path(__file__).resolve().parent
STARTED = time.perf_counter()
THREADS = "2"  # of gpu4d, unless GPU4D_THREADS says otherwise

Start = Callable[[str, bool], Worker]  # peer, on one thread


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.show:
        rows, about = from_json(options.show.read_text())
        print(report(rows, about), short_table(rows), sep="\n\n")
        return 0
    os.environ.setdefault("GPU4D_THREADS", THREADS)
    sizes = inputs.QUICK if options.quick else inputs.FULL
    chosen = choose(comparisons(sizes), options.only)
    if not chosen:
        print(
            f"nothing is called {' or '.join(options.only)}: {', '.join(sorted({n for c in comparisons(sizes) for n in (c.peer, c.key)}))}"
        )
        return 1
    with tempfile.TemporaryDirectory(prefix="gpu4d-peers-") as made:
        folder = pathlib.Path(made)
        say("writing the inputs")
        inputs.write(folder, sizes)
        rows, about = run(chosen, starter(options.folder, folder), folder, rounds=sizes.rounds, full=not options.quick)
    about |= {
        "quick": options.quick,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(report(rows, about))
    if options.json:
        options.json.write_text(as_json(rows, about))
    return 0 if all(row.good for row in rows) else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare gpu4d with py4DSTEM, LiberTEM and quantem on the same data in the same run.")
    parser.add_argument("--quick", action="store_true", help="use small data, few rounds and peers on one thread, to see that all works")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="run only this peer or comparison; may be repeated")
    parser.add_argument("--folder", type=pathlib.Path, default=environments.default_folder(), help="folder for the environments")
    parser.add_argument("--json", type=pathlib.Path, help="write every figure to this file")
    parser.add_argument("--show", type=pathlib.Path, metavar="FILE", help="only print the figures that --json wrote, and README's table")
    return parser.parse_args(arguments)


def choose(every: list[Comparison], only: Sequence[str]) -> list[Comparison]:
    """Those of the peers or with the keys named; those of one peer together, for its processes are kept that long."""
    wanted = [c for c in every if not only or {c.peer.lower(), c.key.lower()} & {name.lower() for name in only}]
    peers = list(dict.fromkeys(c.peer for c in wanted))
    return sorted(wanted, key=lambda c: peers.index(c.peer))


def starter(environments_folder: pathlib.Path, folder: pathlib.Path) -> Start:
    """Starts a worker; makes its environment first where it is not there."""

    def start(peer: str, one_thread: bool) -> Worker:
        log = folder / f"{peer}{'-1' if one_thread else ''}.log"
        if peer == OURS:
            return Worker(pathlib.Path(sys.executable), HERE / "gpu4d_tasks.py", folder, one_thread=False, log=log)
        environment = ENVIRONMENTS[peer]
        python = environments.python_of(environment, environments_folder)
        return Worker(python, HERE / environment.script, folder, one_thread=one_thread, log=log)

    return start


def run(chosen: list[Comparison], start: Start, folder: pathlib.Path, *, rounds: int, full: bool) -> tuple[list[Row], dict[str, Any]]:
    """Rows of the comparisons, and the versions of everything. What cannot be set up or run is a row with its problem.

    `full`: peers as they are by default too, and targets judged.
    """
    rows: list[Row] = []
    with ExitStack() as ours_too:
        ours = start(OURS, False)
        ours_too.callback(ours.close)
        versions: dict[str, Any] = {OURS: ours.ask("about")["about"]}
        for peer, group in _by_peer(chosen):
            with ExitStack() as theirs_too:
                try:
                    say(f"{peer}: its environment")
                    theirs = [ours] if peer == OURS else [start(peer, True), *([start(peer, False)] if full else [])]
                    for worker in theirs if peer != OURS else []:
                        theirs_too.callback(worker.close)
                    versions[peer] = theirs[0].ask("about")["about"]
                except (SetupError, WorkerError) as error:
                    rows += [_problem(c, f"{peer} could not be set up: {error}") for c in group]
                    continue
                for comparison in group:
                    say(f"{peer}: {comparison.key}")
                    rows.append(compared(comparison, theirs, ours, folder, rounds, judge=full))
    return rows, {"versions": versions}


def compared(comparison: Comparison, theirs: list[Worker], ours: Worker, folder: pathlib.Path, rounds: int, *, judge: bool = True) -> Row:
    """One row: warm-ups and answers, then the rounds in turns. `judge`: whether the targets are meant for data of this size."""
    row = comparison.row()
    one, default = theirs[0], theirs[1] if len(theirs) > 1 and not comparison.one_thread_only else None
    try:
        saved = folder / "theirs.npz", folder / "ours.npz"
        one.run(*(comparison.precise or comparison.task), saved[0])
        ours.run(*comparison.ours, saved[1])
        row.checks = _checks(comparison, folder, *(arrays_of(path) for path in saved))
        for worker in ([one] if comparison.precise else []) + ([default] if default is not None else []):
            worker.run(*comparison.task)
        for _ in range(min(rounds, comparison.rounds)):
            row.one_thread.append(one.run(*comparison.task))
            row.gpu4d.append(ours.run(*comparison.ours))
            if default is not None:
                row.default.append(default.run(*comparison.task))
                row.gpu4d.append(ours.run(*comparison.ours))
    except WorkerError as error:
        return _problem(comparison, str(error))
    row.judge(comparison.targets if judge else ())
    return row


def _checks(comparison: Comparison, folder: pathlib.Path, theirs: Arrays, ours: Arrays) -> list[Check]:
    try:
        return comparison.agree(folder, theirs, ours)
    except (KeyError, ValueError, IndexError) as error:  # arrays of another shape, or none
        raise WorkerError(f"{comparison.key}: the answers cannot be compared: {error!r}") from error


def _by_peer(chosen: list[Comparison]) -> Iterator[tuple[str, list[Comparison]]]:
    for peer in dict.fromkeys(c.peer for c in chosen):
        yield peer, [c for c in chosen if c.peer == peer]


def _problem(comparison: Comparison, text: str) -> Row:
    row = comparison.row()
    row.problem = text
    return row


def report(rows: list[Row], about: dict[str, Any]) -> str:
    """What is printed at the end."""
    versions = "; ".join(" ".join(f"{name} {version}" for name, version in found.items()) for found in about["versions"].values())
    judged = [row for row in rows if row.targets]
    missed = [f"{row.key}: {text}" for row in rows for text, met in row.targets.items() if not met]
    parts = [
        table(rows),
        "Times are medians of interleaved calls after a warm-up; times faster: per unit, against the peer on one thread / by default.",
        details(rows),
        f"targets missed: {'; '.join(missed)}" if missed else "all targets are met" if judged else "targets are not judged on small data",
        *(f"PROBLEM {row.key}: {row.problem}" for row in rows if row.problem),
        *(f"ANSWERS DIFFER {row.key}" for row in rows if not row.problem and not row.good),
        f"{versions}; {about.get('cores', '?')} cores, {about.get('date', '')}",
    ]
    return "\n\n".join(parts)


def say(text: str) -> None:
    print(f"{time.perf_counter() - STARTED:5.0f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
