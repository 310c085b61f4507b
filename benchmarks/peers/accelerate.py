"""py4DSTEM's own calls without and with `gpu4d.interop.py4dstem.accelerate`: ``python benchmarks/peers/accelerate.py [--quick]``.

The environment with py4DSTEM and this gpu4d is made in the first run, and kept. Answers are compared first. Then both take turns: py4DSTEM
on one thread, because its own threads make it slower, and gpu4d on all that it may use. Seconds are medians for one pattern; processor
seconds count all threads, and say more on a busy machine. Ends with 1 if answers differ or the environment cannot be made.
"""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence

from gpu4d.benchmarks.peers.child import options_of, rows_of
from gpu4d.benchmarks.peers.conformance_py4dstem import environment
from gpu4d.benchmarks.peers.environments import SetupError

CHILD = pathlib.Path(__file__).with_name("accelerated.py")
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments, __doc__, "few patterns, to see that all works")
    try:
        python = options.python or environment(options.folder)
    except SetupError as error:
        print(f"py4DSTEM's environment cannot be made: {error}")
        return 1
    scan, theirs, rounds = (12, 2, 2) if options.quick else (32, 5, options.rounds)
    rows = rows_of(python, CHILD, (scan, theirs, rounds), os.environ | ONE_THREAD | {"MPLBACKEND": "Agg"})
    if rows is None:
        return 1
    print(table(rows))
    return int(any(row["apart"] > row["limit"] for row in rows))


def table(rows: list[dict]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| what | theirs, ms | gpu4d, ms | ratio | processor: theirs, ms | gpu4d, ms | ratio | apart |", "|" + " --- |" * 8]
    for row in rows:
        cells = [row["what"]]
        for kind in ("wall", "processor"):
            theirs, ours = row[kind]
            cells += [f"{1e3 * theirs:.3f}", f"{1e3 * ours:.4f}", f"{theirs / ours:.1f}"]
        lines.append(f"| {' | '.join([*cells, format(row['apart'], '.1e')])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
