"""The examples of the pages run, and the names they list exist."""

import ast
import contextlib
import functools
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import Forks

import gpu4d
from gpu4d.io.formats.table import formats_table
from gpu4d.workflow import gates, pitfalls

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
    "from-libertem", "recipes", "compare", "view", "notebooks",
)  # fmt: skip
QUESTIONS = sorted(page.relative_to(DOCS).as_posix() for page in (DOCS / "questions").glob("*.md"))
RUN = [f"how-to/{name}.md" for name in PAGES] + [
    page for page in QUESTIONS if "```python" in (DOCS / page).read_text("utf-8")
]  # their Python runs


ELSEWHERE = ["how-to/from-pyxem.md", "how-to/from-quantem.md"]  # their Python needs these libraries: tests/interop runs it
OTHERS = {  # pages whose Python is run or read by other tests
    "tutorials/first-scan.md": "below",
    "explanation/streaming.md": "tests/streaming/test_page.py",
    "how-to/from-py4dstem.md": "one call in a script of py4DSTEM: tests/interop/test_py4dstem_accelerate.py makes it",
    "how-to/peers.md": "a peer of a tool that does not exist: compiled below",
    "how-to/benchmark.md": "a plug-in: compiled below",
    "contributing/deprecation.md": "names that do not exist: compiled below",
    "reference/conventions.md": "two lines for streams of a GPU: compiled below",
}


@pytest.mark.parametrize(
    "page", ["reference/api.md", "reference/capabilities.md", "explanation/architecture.md", *dict.fromkeys([*RUN, *QUESTIONS]), *ELSEWHERE]
)
def test_the_names_they_list_exist(page):
    names = sorted(set(re.findall(r"`(gpu4d(?:\.\w+)+)", (DOCS / page).read_text(encoding="utf-8"))))
    assert names or page in QUESTIONS
    for name in names:
        assert resolve(name) is not None


def python_of(page: str) -> str:
    """All Python of a page."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.S))
    assert code
    return code


def test_no_page_with_python_is_forgotten():
    with_python = {
        page.relative_to(DOCS).as_posix()
        for page in DOCS.rglob("*.md")
        if "```py" in page.read_text("utf-8") and not page.relative_to(DOCS).as_posix().startswith(("generated/", "_build/"))
    }
    assert with_python == {*RUN, *ELSEWHERE, *OTHERS}


@pytest.mark.parametrize("page", [page for page, why in OTHERS.items() if "compiled below" in why])
def test_python_that_is_not_run_can_be_compiled_and_its_names_exist(page):
    found = re.findall(r"^( *)```python\n(.*?)^ *```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)
    assert found
    for indent, code in found:
        tree = ast.parse("\n".join(line.removeprefix(indent) for line in code.splitlines()))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("gpu4d"):
                assert all(resolve(f"{node.module}.{alias.name}") is not None for alias in node.names)


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
    assert {int(row[2]) for row in rows} == {1, 2, 3, 4, 5, 6, 7, 8}
    root = DOCS.parent
    there = {name for path in (root / "tests").rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.M)}
    for row in rows:
        files, tests = re.findall(r"`(gpu4d/[\w/.]+)`", row), re.findall(r"`(test_\w+)`", row)
        assert files and all((root / name).is_file() for name in files), row
        assert tests and set(tests) <= there, row


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


def test_the_tables_of_recipes_are_what_the_code_says():
    from gpu4d.workflow.guide import parameters, scenarios, stages

    page = DOCS / "how-to" / "recipes.md"
    in_its_place(page, "table of scenarios", scenarios.scenarios_table())
    in_its_place(page, "table of parameters", parameters.parameters_table())
    in_its_place(page, "table of stages", stages.stages_table())


@pytest.mark.parametrize(("name", "table"), [("gates", gates.markdown), ("pitfalls", pitfalls.markdown)])
def test_the_table_of_gates_and_that_of_pitfalls_are_what_a_run_does(name, table):
    in_its_place(DOCS / "reference" / f"{name}.md", f"table of {name}", table())


def test_the_table_of_capabilities_is_what_the_code_says():
    in_its_place(DOCS / "reference" / "capabilities.md", "table of capabilities", gpu4d.capabilities().markdown())
