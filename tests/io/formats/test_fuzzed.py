"""Damaged files of every detector's format: each is read, or refused in one line. None crashes, hangs, takes memory, or is written to.

Every subclass of `FormatTests` in this folder is tried. ``pytest -m slow tests/io/formats/test_fuzzed.py --cases 2000`` tries more of each.
"""

import ast
import selectors
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fuzzed_formats
import pytest

HERE = Path(__file__).parent
CASES = 120  # of each format in the usual slow run
SECONDS = 30  # that one file may take; all of them take some milliseconds


def classes() -> list[tuple[Path, str]]:
    """Return the subclasses of `FormatTests` in the files of this folder, without importing them."""
    found = []
    for file in sorted(HERE.glob("test_*.py")):
        nodes = ast.walk(ast.parse(file.read_text()))
        known = {"FormatTests"}
        for node in nodes:
            if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) and base.id in known for base in node.bases):
                known.add(node.name)
                if node.name.startswith("Test"):
                    found.append((file, node.name))
    return found


class Process:
    """A process that tries one case after the other of a format."""

    def __init__(self, folder: Path, file: Path, name: str):
        command = [sys.executable, "-W", "ignore", fuzzed_formats.__file__, str(folder), str(file), name]
        pipe = subprocess.PIPE
        self.running = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def __call__(self, number: int) -> str:
        """Return what became of a case. "hangs" or "ends with …" are the last words of a process."""
        self.running.stdin.write(f"{number}\n")
        self.running.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(self.running.stdout, selectors.EVENT_READ)
            if not ready.select(SECONDS):
                return "hangs"
        line = self.running.stdout.readline().strip()
        return line or f"ends with {self.running.wait()}: {self.running.stderr.read()[-500:]}"

    def close(self):
        self.running.kill()
        self.running.communicate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="waits for a pipe, and limits address space as Linux does")
@pytest.mark.parametrize("file, name", classes(), ids=lambda part: part if isinstance(part, str) else part.stem)
def test_damaged_files(file, name, tmp_path, request):
    cases = request.config.getoption("--cases") or CASES
    process, became, wrong = Process(tmp_path, file, name), Counter(), []
    try:
        for number in range(cases):
            outcome = process(number)
            became[outcome.split(":")[0].split(" ")[0]] += 1
            if outcome not in ("same", "other", "refused"):
                wrong.append(f"case {number}: {outcome}")
            if outcome.startswith(("hangs", "ends")):
                break
    finally:
        process.close()
    print(dict(became), *wrong, sep="\n")
    assert not wrong, wrong
    assert became["refused"] > cases // 20, became
