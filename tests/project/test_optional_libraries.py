"""Tests can be collected where optional libraries are absent: pytest runs none of them after an error of collection."""

import ast
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
# What gpu4d needs itself, and pytest. A machine with a GPU has these, or they are brought along.
THERE = {"array_api_compat", "gpu4d", "h5py", "numba", "numpy", "pytest", "scipy"}
OURS = {path.stem for folder in (TESTS, TESTS / "support", TESTS / "contracts") for path in folder.iterdir()}


@pytest.mark.parametrize("file", sorted(str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py")))
def test_no_module_needs_an_optional_library_to_be_collected(file):
    named = set()
    for line in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Import):
            named |= {alias.name.partition(".")[0] for alias in line.names}
        elif isinstance(line, ast.ImportFrom):
            named.add(line.module.partition(".")[0])
    optional = named - THERE - OURS - sys.stdlib_module_names
    assert not optional, f"{file} imports {', '.join(sorted(optional))} at its top: ask for it in a test, by the fixture `need`"
