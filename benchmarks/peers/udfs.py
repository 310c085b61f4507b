"""Our UDFs beside LiberTEM's own and ptychography40's, in one executor: ``python benchmarks/peers/udfs.py [--quick]``.

A scan of 128² positions × 128² pixels (uint16, 537 MB) is read by LiberTEM, which runs its UDF and ours in turns: inline on one thread from
HDF5 and from memory, and in its default cluster. Times are medians after a warm-up; CPU seconds stand beside them where all work is in
one process, because they say more on a busy machine. Ends with 1 if answers differ or the environment cannot be made.
"""

from __future__ import annotations

import pathlib
import sys
import tempfile
from collections.abc import Sequence

from gpu4d.benchmarks.peers import inputs
from gpu4d.benchmarks.peers.child import options_of, rows_of
from gpu4d.benchmarks.peers.environments import SetupError, python_of
from gpu4d.benchmarks.peers.in_libertem import LIBERTEM, environment_variables

CHILD = pathlib.Path(__file__).with_name("udfs_in_libertem.py")


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(arguments, __doc__, "a small scan and no cluster, to see that all works")
    try:
        python = options.python or python_of(LIBERTEM, options.folder)
    except SetupError as error:
        print(f"LiberTEM's environment cannot be made: {error}")
        return 1
    with tempfile.TemporaryDirectory(prefix="gpu4d-udfs-") as made:
        folder = pathlib.Path(made)
        inputs.write_scan(folder, inputs.QUICK if options.quick else inputs.FULL)
        variables = environment_variables(folder, GPU4D_THREADS="1")  # LiberTEM gives a worker one thread
        rows = rows_of(python, CHILD, (folder, 2 if options.quick else options.rounds), variables)
    if rows is None:
        return 1
    print(table(rows))
    return 0 if all(row["apart"] is None or row["apart"] <= row["limit"] for row in rows) else 1


def table(rows: list[dict]) -> str:
    """The rows as a table in Markdown."""
    lines = ["| where | what | theirs, s | gpu4d, s | ratio | ratio of CPU s | apart |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        cpu = "–" if row["cpu"] is None else f"{row['cpu'][0] / row['cpu'][1]:.1f}"
        apart = "–" if row["apart"] is None else f"{row['apart']:.1e}"
        cells = (row["where"], row["what"], f"{row['theirs']:.3f}", f"{row['ours']:.3f}", f"{row['theirs'] / row['ours']:.1f}", cpu, apart)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
