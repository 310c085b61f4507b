"""The examples of the pages run, and the names they list exist."""

import contextlib
import functools
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import Forks

import gpu4d
from gpu4d.io.formats.table import formats_table

DOCS = Path(__file__).resolve().parents[2] / "docs"


def resolve(dotted: str) -> object:
    """Import as far as modules go, then take attributes."""
    first, *rest = dotted.split(".")

    def step(parent, name):
        with contextlib.suppress(AttributeError):
            return getattr(parent, name)
        return importlib.import_module(f"{parent.__name__}.{name}")

    return functools.reduce(step, rest, importlib.import_module(first))


PAGES = (
    "plan-an-experiment", "formats", "convert", "bin-crop-reshape", "raw-data", "results",
    "host-application", "calibration", "strain", "strain-looks-wrong", "classification", "orientation",
    "probes", "dpc", "magnetic", "aberrations", "ptychography", "iterative-ptychography", "drift",
    "live", "extend", "counting-and-events", "rdf", "amorphous-strain", "amorphous", "cluster",
    "from-libertem",
)  # fmt: skip
RUN = [f"how-to/{name}.md" for name in PAGES]  # their Python runs


ELSEWHERE = ["how-to/from-pyxem.md", "how-to/from-quantem.md"]  # their Python needs these libraries: tests/interop runs it


@pytest.mark.parametrize("page", ["reference/api.md", "reference/capabilities.md", "explanation/architecture.md", *RUN, *ELSEWHERE])
def test_the_names_they_list_exist(page):
    names = sorted(set(re.findall(r"`(gpu4d(?:\.\w+)+)", (DOCS / page).read_text(encoding="utf-8"))))
    assert names
    for name in names:
        assert resolve(name) is not None


def python_of(page: str) -> str:
    """All Python of a page."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S))
    assert code
    return code


def test_the_python_of_the_tutorial_runs(tmp_path):
    done = subprocess.run([sys.executable, "-c", python_of("tutorials/first-scan.md")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs pages in forks")
@pytest.mark.parametrize("page", RUN)
def test_their_python_runs(page, tmp_path, forks):
    """In a process of its own, because one of them turns off the guard of mapped files; it begins with gpu4d imported."""
    code, said = forks.run(python_of(page), tmp_path)
    assert code == 0, said


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


def commands_of(page):
    """The command lines `gpu4d run` and `gpu4d calibrate` of a page, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if re.match(r"gpu4d (run|calibrate) ", line)]


@pytest.mark.parametrize("page", RUN)
def test_their_commands_have_flags_and_values_that_are_accepted(page, tmp_path, monkeypatch):
    """Nothing is run: the command line is read as the program reads it, and the settings go into a recipe."""
    from gpu4d.cli import _commands
    from gpu4d.cli_flags import FLAGS, with_flags

    monkeypatch.chdir(tmp_path)
    group = _commands()
    for name, *arguments in commands_of(page):
        context = group.commands[name].make_context(name, list(arguments))
        flags = {key: value for key, value in context.params.items() if key in FLAGS or key in ("energy", "q_pixel", "semiangle")}
        with_flags(None, flags)


@pytest.mark.parametrize("page", RUN)
def test_their_recipes_are_valid(page):
    from gpu4d.workflow import Recipe

    text = (DOCS / page).read_text(encoding="utf-8")
    recipes = re.findall(r"```toml\n(.*?)```", text, re.S) + [
        r.replace("\\n", "\n") for r in re.findall(r"printf '(.*?)' > \w+\.toml", text)
    ]
    for recipe in recipes:
        Recipe.from_toml(recipe)


def in_its_place(page: Path, name: str, table: str) -> None:
    """Compare what stands between a table's marks in a page with the table; with GPU4D_WRITE_TABLES write it there first."""
    begin, end = f"<!-- {name} -->\n", "<!-- end of the table -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    wanted = f"{before}{begin}{table}\n{end}{after}"
    if os.environ.get("GPU4D_WRITE_TABLES"):
        page.write_text(wanted, encoding="utf-8")
    assert page.read_text(encoding="utf-8") == wanted


def test_the_table_of_formats_is_what_the_formats_say():
    """``GPU4D_WRITE_TABLES=1 pytest tests/project/test_pages.py -k table_of`` writes it anew, and the one below."""
    rates = DOCS.parent / "benchmarks" / "results" / "readers.json"
    measured = json.loads(rates.read_text(encoding="utf-8")) if rates.exists() else {}
    in_its_place(DOCS / "how-to" / "formats.md", "table of formats", formats_table(measured))


def test_the_table_of_capabilities_is_what_the_code_says():
    in_its_place(DOCS / "reference" / "capabilities.md", "table of capabilities", gpu4d.capabilities().markdown())
