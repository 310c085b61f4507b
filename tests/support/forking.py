"""Runs Python code in forks of one process that has imported what the code needs, because imports take most of the time of short code.

``python forking.py MODULE…`` imports these modules too. It reads a line of JSON for each piece: the folder to run in, the code, and a file
for what it prints. It answers each with a line, the exit code. A fork is a process of its own: nothing that the code changes is left
for the next piece.
"""

import importlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

from own_process import importing


class Forks:
    """The process that forks. It imports what most pages use, and the modules named here; variables are added to its environment."""

    def __init__(self, *modules: str, **variables: str):
        pipe = subprocess.PIPE
        command = [sys.executable, __file__, *modules]
        self.running = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=importing() | variables)

    def run(self, code: str, folder: Path, said: Path | None = None) -> tuple[int, str]:
        """Run a piece of code in a folder. Return its exit code, negative for a signal, and what it printed, which is kept in `said`."""
        said = said or folder / "said.txt"
        self.running.stdin.write(json.dumps([str(folder), code, str(said)]) + "\n")
        self.running.stdin.flush()
        return int(self.running.stdout.readline()), said.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the process."""
        self.running.communicate()


def in_a_fork(folder: str, code: str, said: str) -> int:
    """Run code in a fork of this process, and return the exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    failed = 1
    try:
        os.chdir(folder)
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        exec(compile(code, "page", "exec"), {"__name__": "__main__"})
        failed = 0
    except SystemExit as leaving:
        failed = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failed)


def main() -> None:
    """Import what pages use, without starting a thread, and answer every line."""
    import h5py  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import numba  # noqa: F401
    import scipy.ndimage  # noqa: F401

    import gpu4d

    for name in gpu4d.__all__:
        getattr(gpu4d, name)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        print(in_a_fork(*json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
