"""Thousands of damaged files of every layout: each is read as HDF5 reads it, or refused in one line. None crashes, hangs, or is written to.

``pytest -m slow tests/io/test_fuzz_files.py --cases 20000`` tries more of them.
"""

import os
import selectors
import subprocess
import sys
from collections import Counter

import fuzzed_files
import pytest

CASES = 900  # in the usual slow run: thirty of each layout
SECONDS = 30  # that one file may take; all of them take some milliseconds
# For the GNU C library: memory that is handed out holds one value. HDF5 leaves what a damaged chunk of LZF lacks as it was in memory, so
# that without this two reads of the same file may differ.
FILLED = {"MALLOC_PERTURB_": "85"}
KNOWN = 0.005  # of all cases: where HDF5 alone never returns (damaged text that says what a group is), or crashes (virtual datasets)


class Process:
    """A process that tries one case after the other."""

    def __init__(self, folder):
        self.folder, self.running = folder, None

    def __call__(self, number):
        """Return what became of a case; "hangs" or "ends with …" if the process had to be replaced."""
        if self.running is None:
            command = [sys.executable, "-W", "ignore", fuzzed_files.__file__, self.folder]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.running = subprocess.Popen(command, **pipes, env=os.environ | FILLED, text=True)
        self.running.stdin.write(f"{number}\n")
        self.running.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(self.running.stdout, selectors.EVENT_READ)
            answered = ready.select(SECONDS)
        line = self.running.stdout.readline().strip() if answered else ""
        if line:
            return line
        code = self.running.poll() if not answered else self.running.wait()
        self.close()
        return f"ends with {code}" if answered else "hangs"

    def close(self):
        if self.running is not None:
            self.running.kill()
            self.running.wait()
            self.running.stdin.close()
            self.running.stdout.close()
            self.running = None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="waits for a pipe")
def test_damaged_files(tmp_path, request):
    cases = request.config.getoption("--cases") or CASES
    process, became, wrong = Process(tmp_path), Counter(), []
    for number in range(cases):
        outcome, layout = process(number), fuzzed_files.LAYOUTS[number % len(fuzzed_files.LAYOUTS)]
        kind = "crash of HDF5" if outcome.startswith("ends") and layout == "virtual" else outcome.split(" ")[0]
        became[kind] += 1
        if kind not in ("same", "right", "read", "refused"):
            wrong.append(f"case {number} ({layout}): {outcome}")
    process.close()
    print(dict(became), *wrong, sep="\n")
    assert not became["fault"] and not became["ends"] and not became["other"], wrong
    assert became["hangs"] + became["crash of HDF5"] <= KNOWN * cases, wrong
    assert became["refused"] > cases // 10 and became["same"] > cases // 10, became
