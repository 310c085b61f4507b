"""The sizes of the code: modules that can be read at once, functions with few parameters."""

import ast
import functools
import importlib
import inspect
import pkgutil

import pytest

import gpu4d
from gpu4d.operation import all_operations

FOLDERS = ("gpu4d", "kernels", "cpu_fallback", "benchmarks")
LINES = 450  # of a module
PARAMETERS = 8  # most of a function: a reader holds no more in mind, and more than these belong together in a class
COMPILED = {
    "njit",
    "entry",
    "helper",
    "routine",
    "part",
    "intrinsic",
    "vectorize",
}  # numba's: arrays and numbers one by one, and no keywords


@functools.cache
def public_calls():
    """Names that users call with keywords: of the front door and the rooms, and operations, whose twins have the same signature."""
    names = {*gpu4d.__all__, *all_operations()}
    for room in pkgutil.iter_modules(gpu4d.__path__[:1], "gpu4d."):
        if room.ispkg and room.name.removeprefix("gpu4d.") not in FOLDERS:
            names |= set(importlib.import_module(room.name).__all__)
    return names


def functions(tree):
    """Yield every function with the name it is called by: a constructor by that of its class."""
    classes = {id(inner): node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for inner in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield classes.get(id(node), node.name) if node.name == "__init__" else node.name, node


def parameters(node):
    given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return len(given) - (given[:1] in (["self"], ["cls"]))


def compiled(node):
    words = {word.id for decorator in node.decorator_list for word in ast.walk(decorator) if isinstance(word, ast.Name)}
    return bool(words & COMPILED)


def too_many(text):
    """Names of functions with too many parameters, which are neither public calls nor compiled."""
    for called, node in functions(ast.parse(text)):
        if parameters(node) > PARAMETERS and called not in public_calls() and not compiled(node):
            yield f"{called} (line {node.lineno}): {parameters(node)} parameters"


def sources(checkout, folders=FOLDERS):
    return [file for folder in folders for file in sorted((checkout / folder).rglob("*.py"))]


def test_no_module_is_too_long(checkout):
    long = {str(f.relative_to(checkout)): n for f in sources(checkout) if (n := len(f.read_text(encoding="utf-8").splitlines())) > LINES}
    assert not long and len(sources(checkout)) > 250, long


def test_functions_have_few_parameters(checkout):
    """Public calls are the exception, because they are called by keywords. Simulations of `benchmarks` are called so too."""
    files = sources(checkout, ("gpu4d", "kernels", "cpu_fallback"))
    found = [f"{file.relative_to(checkout)}: {what}" for file in files for what in too_many(file.read_text(encoding="utf-8"))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("many", "decorator", "refused"), [(9, "", 1), (8, "", 0), (9, "@njit(nogil=True)", 0)])
def test_the_search_finds_what_it_looks_for(many, decorator, refused):
    given = ", ".join(f"a{i}" for i in range(many))
    assert len(list(too_many(f"class Thing:\n    {decorator}\n    def f(self, {given}): ...\n"))) == refused
    assert not list(too_many(f"def find_bragg_disks({given}): ...\n")), "a public call"


def test_the_longest_operation_keeps_to_it_too():
    """Limits and refinement of `find_disks` are one argument each."""
    assert len(inspect.signature(all_operations()["find_disks"].definition).parameters) <= PARAMETERS
