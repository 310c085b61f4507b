"""Damaged files of every detector's format: each is read, or refused in one line. None crashes, hangs, takes memory, or is written to.

Every subclass of `FormatTests` in this folder is tried. ``pytest -m slow tests/io/formats/test_fuzzed.py --cases 2000`` tries more of each.
"""

import ast
import selectors
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
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
    """A process that tries one case after the other. One serves all formats, because its imports take longer than the cases."""

    def __init__(self, folder: Path):
        self.folder, self.running, self.starts = folder, None, 0

    def begin(self, file: Path, name: str) -> str:
        """Let cases be of this class from now on, in a new process where the last one has ended."""
        if self.running is None:
            self.starts += 1
            folder = self.folder / str(self.starts)
            folder.mkdir()
            command, pipe = [sys.executable, "-W", "ignore", fuzzed_formats.__file__, str(folder)], subprocess.PIPE
            self.running = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        return self(f"{file}\t{name}", 10 * SECONDS)

    def __call__(self, line: str, seconds: float = SECONDS) -> str:
        """Return what became of a case. "hangs" or "ends with …" are the last words of a process."""
        self.running.stdin.write(f"{line}\n")
        self.running.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(self.running.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                self.close()
                return "hangs"
        said = self.running.stdout.readline().strip()
        if not said:
            said = f"ends with {self.running.wait()}: {self.running.stderr.read()[-500:]}"
            self.close()
        return said

    def close(self):
        if self.running is not None:
            self.running.kill()
            self.running.communicate()
            self.running = None


@pytest.fixture(scope="module")
def process(tmp_path_factory) -> Iterator[Process]:
    made = Process(tmp_path_factory.mktemp("fuzzed"))
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="waits for a pipe, and limits address space as Linux does")
@pytest.mark.parametrize("file, name", classes(), ids=lambda part: part if isinstance(part, str) else part.stem)
def test_damaged_files(file, name, process, request):
    cases = request.config.getoption("--cases") or CASES
    assert process.begin(file, name) == "ready"
    became, wrong = Counter(), []
    for number in range(cases):
        outcome = process(str(number))
        became[outcome.split(":")[0].split(" ")[0]] += 1
        if outcome not in ("same", "other", "refused"):
            wrong.append(f"case {number}: {outcome}")
        if outcome.startswith(("hangs", "ends")):
            break
    print(dict(became), *wrong, sep="\n")
    assert not wrong, wrong
    assert became["refused"] > cases // 20, became
