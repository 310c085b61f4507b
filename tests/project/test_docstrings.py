"""Every example in a docstring runs, and every public name has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import gpu4d

PACKAGE = Path(gpu4d.__file__).parent
MODULES = sorted(
    "gpu4d" + "".join(f".{part}" for part in file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for file in PACKAGE.rglob("*.py")
)
ROOMS = [name for name in gpu4d.__all__ if inspect.ismodule(getattr(gpu4d, name))]
MODULES_WITHOUT_EXAMPLE = {name for name in ROOMS if ">>>" not in (inspect.getdoc(getattr(gpu4d, name)) or "")}


def examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("module", MODULES[::-1])  # not in the order of the table of operations: two workers compile different twins
def test_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    said: list[str] = []
    for test in examples(module):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)


def test_examples_of_operations_are_found():
    names = {test.name for test in examples("gpu4d.imaging.center_of_mass")}
    assert "gpu4d.imaging.center_of_mass.center_of_mass" in names


@pytest.mark.parametrize("name", sorted(set(gpu4d.__all__) - MODULES_WITHOUT_EXAMPLE))
def test_public_names_have_an_example(name):
    text = inspect.getdoc(getattr(gpu4d, name)) or ""
    assert text.strip(), f"gpu4d.{name} has no docstring"
    assert ">>>" in text, f"gpu4d.{name} has no example in its docstring"


@pytest.mark.parametrize("name", sorted(MODULES_WITHOUT_EXAMPLE))
def test_functions_of_public_modules_are_described(name):
    module = getattr(gpu4d, name)
    public = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    for one in public:
        thing = getattr(module, one)
        if callable(thing) and str(getattr(thing, "__module__", "")).startswith("gpu4d"):
            assert inspect.getdoc(thing), f"gpu4d.{name}.{one} has no docstring"


def test_parameters_are_those_of_the_signature():
    """Every parameter of a public function is named in its docstring."""
    for name in sorted(set(gpu4d.__all__) - MODULES_WITHOUT_EXAMPLE):
        thing = getattr(gpu4d, name)
        if inspect.isclass(thing) or not callable(thing):
            continue
        text = inspect.getdoc(thing) or ""
        for parameter in inspect.signature(thing).parameters:
            assert parameter.lstrip("*") in text, f"gpu4d.{name}: parameter {parameter} is not described"
