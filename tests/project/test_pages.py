"""The examples of the pages run, and the names they list exist."""

import contextlib
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def resolve(dotted: str) -> object:
    """Import as far as modules go, then take attributes."""
    first, *rest = dotted.split(".")

    def step(parent, name):
        with contextlib.suppress(AttributeError):
            return getattr(parent, name)
        return importlib.import_module(f"{parent.__name__}.{name}")

    return functools.reduce(step, rest, importlib.import_module(first))


PAGES = ("host-application", "calibration", "strain", "strain-looks-wrong", "classification", "orientation", "probes", "dpc", "magnetic")
RUN = [f"how-to/{name}.md" for name in PAGES]  # their Python runs


@pytest.mark.parametrize("page", ["reference/api.md", "explanation/architecture.md", *RUN])
def test_the_names_they_list_exist(page):
    names = sorted(set(re.findall(r"`(gpu4d(?:\.\w+)+)", (DOCS / page).read_text(encoding="utf-8"))))
    assert names
    for name in names:
        assert resolve(name) is not None


@pytest.mark.parametrize("page", ["tutorials/first-scan.md", *RUN])
def test_their_python_runs(page, tmp_path):
    """In a process of its own, because one of them turns off the guard of mapped files."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S))
    assert code
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_the_pitfalls_name_files_and_tests_that_exist():
    """The table promises a check and a test for each."""
    page = (DOCS / "reference" / "pitfalls.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| \d\. ", line)]
    assert {int(row[2]) for row in rows} == {1, 2, 3, 4, 5, 6, 7}
    root = DOCS.parent
    there = {name for path in (root / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M)}
    for row in rows:
        files, tests = re.findall(r"`(gpu4d/[\w/.]+)`", row), re.findall(r"`(test_\w+)`", row)
        assert files and all((root / name).is_file() for name in files), row
        assert tests and set(tests) <= there, row
