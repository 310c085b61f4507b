"""The table of operations: whole, without doubles, and its comparisons fail where they must."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from operations.comparing import Example, assert_close, assert_same_home, expected_kind
from operations.examples import EXAMPLES

import gpu4d
from gpu4d import operation

OPERATIONS = operation.all_operations()
PACKAGE = Path(gpu4d.__file__).parent
MODULES = {  # every module that defines an operation
    name: importlib.import_module(name)
    for file in sorted(PACKAGE.rglob("*.py"))
    if "\n@operation(" in file.read_text(encoding="utf-8")
    for name in ["gpu4d." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)]
}


@pytest.mark.parametrize("op", [op for op in OPERATIONS.values() if "cuda" in op.twins], ids=lambda op: op.name)
def test_kernels_step_aside_for_pixel_types_alone(op):
    """Whatever else an example has: for these types, and complex numbers in single precision, there are kernels."""
    for example in EXAMPLES[op.name]():
        first = next(a for a in example.args if isinstance(a, np.ndarray))
        if first.dtype.name in ("uint8", "uint16", "uint32", "float32", "complex64"):
            assert expected_kind(op, "cuda", example.args, example.options) == "cuda", example.label


def test_every_operation_has_an_example():
    assert set(OPERATIONS) == set(EXAMPLES), "tests/operations/examples has one file an operation, named as it"


def test_no_two_operations_share_a_name():
    for module in MODULES.values():
        for found in vars(module).values():
            if isinstance(found, operation.Operation):
                assert OPERATIONS[found.name] is found, f"{found.name} of {module.__name__} is hidden by another operation of that name"


def test_results_in_numpy_by_accident_are_refused(need):
    strict = need("array_api_strict")
    given = strict.asarray([1.0, 2.0])
    assert_same_home(given + 1.0, given)
    with pytest.raises(AssertionError, match="came out"):
        assert_same_home(np.asarray([2.0, 3.0]), given)
    with pytest.raises(AssertionError, match="not an array"):
        assert_same_home(3.0, given)
    with pytest.raises(AssertionError, match="on "):
        assert_same_home(given, strict.asarray([1.0], device=strict.Device("device1")))


def test_wrong_values_are_refused():
    example = Example("", ())
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(np.asarray([1.0, 2.0001]), np.asarray([1.0, 2.0]), example)
    with pytest.raises(AssertionError, match="NaN"):
        assert_close(np.asarray([1.0, 0.0]), np.asarray([1.0, np.nan]), example)


@pytest.mark.parametrize("op", OPERATIONS.values(), ids=lambda op: op.name)
def test_twins_exist_with_the_definitions_signature(op):
    for kind, twin in op.twins.items():
        folder = {"cpu": "gpu4d.cpu_fallback", "cuda": "gpu4d.kernels"}[kind]
        file = op.definition.__module__.rpartition(".")[2]
        assert twin.module == f"{folder}.{file}", "a twin lives in a file of the definition's name"
        assert operation.signature(op, kind) == operation.signature(op, "definition")


def test_every_cpu_twin_belongs_to_an_operation(checkout):
    """A file is a twin, or what a twin is built from."""
    named = {op.twins["cpu"].module.rpartition(".")[2] for op in OPERATIONS.values() if "cpu" in op.twins}
    texts = {p.stem: p.read_text(encoding="utf-8") for p in (checkout / "cpu_fallback").glob("*.py")}
    assert named <= set(texts)
    for part in set(texts) - named - {"__init__"}:
        assert any(f"from gpu4d.cpu_fallback.{part} import" in text for text in texts.values()), f"nothing uses cpu_fallback/{part}.py"


def test_every_cuda_source_has_a_launcher_and_the_other_way_round(checkout):
    """Other files are what launchers are built from."""
    sources = {p.stem for p in (checkout / "kernels").rglob("*.cu")}
    texts = {p.stem: p.read_text(encoding="utf-8") for p in (checkout / "kernels").rglob("*.py") if not p.stem.startswith("_")}
    assert sources <= set(texts)
    named = {op.twins["cuda"].module.rpartition(".")[2] for op in OPERATIONS.values() if "cuda" in op.twins}
    for part in named - sources:  # it launches what another source holds, itself or through another operation's launcher
        others = (sources | named) - {part}
        assert any(f"from gpu4d.kernels.{other} import" in texts[part] for other in others), f"kernels/{part}.py launches no source"
    for part in set(texts) - named:
        assert any(f"from gpu4d.kernels.{part} import" in text for text in texts.values()), f"nothing uses kernels/{part}.py"


def test_all_operations_are_found_wherever_they_are_defined():
    defined = {found.name for module in MODULES.values() for found in vars(module).values() if isinstance(found, operation.Operation)}
    assert defined == set(OPERATIONS)
    assert {name.split(".")[1] for name in MODULES} == set(operation.ROOMS)
