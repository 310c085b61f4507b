"""Which worker of pytest-xdist runs what: whole files, but first the table of operations, one operation after the other.

The table calls every twin with every kind of numbers, and numba's code that it leaves on disk is read by all other files. With whole
files one worker would have the whole table, and the other would compile the same twins for another file at the same time.
"""

from collections import Counter
from pathlib import Path

import pytest
from xdist.scheduler import LoadFileScheduling

TABLE = "tests/operations/test_definitions.py"


class OperationsFirst(LoadFileScheduling):
    """As `--dist loadfile`, but each operation of the table is a unit of its own. Units are given out in the order of the tests."""

    def __init__(self, config: pytest.Config, log=None):
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return f"{file}::{test.partition('[')[2].partition('-')[0]}" if file == TABLE else file


def put_in_order(items: list[pytest.Item]) -> None:
    """Put the table first, and then files with many tests before files with few: in one order, wherever a worker began to collect."""
    units = [item.nodeid.partition("::")[0] for item in items]
    many = Counter(units)
    order = sorted(range(len(items)), key=lambda i: (units[i] != TABLE, -many[units[i]], units[i]))
    items[:] = [items[i] for i in order]


def collect_from_elsewhere(config: pytest.Config, tests: Path) -> None:
    """Let each worker begin to collect at another folder of `tests`, where all of it is asked for.

    pytest rewrites the assertions of a file once, and keeps them on disk. In the same order all workers would rewrite each file at the
    same time.
    """
    if [Path(config.invocation_params.dir, arg).resolve() for arg in config.args] != [tests]:
        return
    parts = sorted(str(p) for p in tests.iterdir() if (p.is_dir() and p.name[0] not in "._") or p.match("test_*.py"))
    first = int(config.workerinput["workerid"].removeprefix("gw")) * len(parts) // config.workerinput["workercount"]
    config.args = parts[first:] + parts[:first]
