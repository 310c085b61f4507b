"""Test and measure everything on a machine with a GPU, in one run with a deadline. If it is interrupted, its results so far are kept.

    python3 -P benchmarks/on_a_gpu.py OUT [--deadline 460] [--resume FOLDER] [--failed] [--rehearse]

Start it from the root of a checkout, or as `python3 -m gpu4d.benchmarks.on_a_gpu`. It imports the installed gpu4d. Without a network,
`pip wheel` and `pip install --target` are enough (docs/contributing/gpu-todo.md). It leaves six files in OUT: env.txt (the machine, smoke
tests, compiled kernels, how each stage ended), tests.jsonl, kernels.jsonl and streaming.jsonl (one record a line), profiler.txt (ncu and
compute-sanitizer, if they work) and summary.txt. The summary is printed last. If it is started again with the same OUT, or with --resume
and a folder of earlier files, it continues after the known results. The exit code is 1 if anything failed, 2 if anything is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.gpu_run import records, settings, stages, summary
from gpu4d.benchmarks.gpu_run.processes import Deadline

SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


class Told(BaseException):
    """The run was told to end."""


def told(number: int, _frame: Any) -> None:
    raise Told(number)


def say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of the output may be gone
        print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--deadline", type=float, default=460.0, metavar="SECONDS", help="time limit of the whole run  [default: 460]")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="folder of an earlier run, which is continued in OUT")
    settings.add_options(parser)
    given = parser.parse_args(arguments)
    deadline = Deadline(given.deadline)
    for number in SIGNALS:
        signal.signal(number, told)
    chosen = settings.of(given)
    if chosen.rehearse and not chosen.checkout:
        parser.error("--rehearse needs the tests of a checkout: run it in one, or name it with --checkout")
    if chosen.rehearse and (reason := settings.stand_in(chosen.checkout).why_not()):
        parser.error(f"--rehearse: {reason}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    if given.resume is not None:
        records.take_over(settings.FILES, given.resume, chosen.out)
    run = stages.Run(stages.plan(chosen), chosen, deadline, say)
    code = 0
    try:
        if not chosen.failed:
            run.in_the_background(stages.part("warm-up", chosen), "warm-up")
        run.everything()
    except Told as signalled:
        code = 128 + int(signalled.args[0])
    finally:
        for number in SIGNALS:  # told a second time it would leave without a summary
            signal.signal(number, signal.SIG_IGN)
        run.end()
        text = summary.write(chosen.out, chosen.checkout)
        say(text)
    return code or summary.exit_code(chosen.out, [stage.name for stage in run.stages])


if __name__ == "__main__":
    sys.exit(main())
