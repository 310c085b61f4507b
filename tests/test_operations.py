"""One table: every operation × every implementation × every array library, against the definition in float64 on NumPy.

A library that is not installed is skipped, with the reason; `GPU4D_REQUIRE=torch,jax` makes its absence a failure.
"""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import array_api_compat as compat
import numpy as np
import pytest

import gpu4d
from gpu4d import arrays, operation
from gpu4d.errors import InputError

PACKAGE = Path(gpu4d.__file__).parent
MODULES = {  # every module that defines an operation: only an imported one is in the registry
    name: importlib.import_module(name)
    for file in sorted(PACKAGE.rglob("*.py"))
    if "\n@operation(" in file.read_text(encoding="utf-8")
    for name in ["gpu4d." + ".".join(file.relative_to(PACKAGE).with_suffix("").parts)]
}
OPERATIONS = operation.OPERATIONS

# ---------------------------------------------------------------- libraries


@dataclass(frozen=True)
class Library:
    """An array library, how an input gets there, and which twin its arrays take where there is one."""

    name: str
    module: str
    make: Callable[[Any, np.ndarray], Any]  # (module, NumPy array) -> array
    twin: str | None = None
    marks: tuple = ()


def _read_only(xp: Any, a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


LIBRARIES = [
    Library("numpy", "numpy", lambda xp, a: a.copy(), "cpu"),
    Library("numpy-readonly", "numpy", _read_only, "cpu"),
    Library("strict", "array_api_strict", lambda xp, a: xp.asarray(a)),
    Library("strict-device1", "array_api_strict", lambda xp, a: xp.asarray(a, device=xp.Device("device1"))),
    Library("torch", "torch", lambda xp, a: xp.from_numpy(a.copy()), "cpu"),
    Library("jax", "jax.numpy", lambda xp, a: xp.asarray(a), "cpu"),
    Library("cupy", "cupy", lambda xp, a: xp.asarray(a), "cuda", (pytest.mark.gpu,)),
]


def strictest(library: Library, xp: Any, example: "Example") -> contextlib.AbstractContextManager:
    """Refuse boolean-mask indexing and shapes that depend on values, where the library can."""
    if library.module != "array_api_strict" or example.shapes_depend_on_values:
        return contextlib.nullcontext()
    return xp.ArrayAPIStrictFlags(boolean_indexing=False, data_dependent_shapes=False)


# ---------------------------------------------------------------- examples


@dataclass(frozen=True)
class Example:
    """One call of an operation: arrays as NumPy, everything else as it is.

    `single` and `double` are the largest errors allowed, over the largest value of the answer, where the answer is in single and in
    double precision. `twin_dtype`: a twin may answer integers in single precision where the definition is in double.
    """

    label: str
    args: tuple
    options: dict = field(default_factory=dict)
    single: float = 2e-5
    double: float = 1e-11
    shapes_depend_on_values: bool = False


def disks(shape: tuple[int, ...], dtype: Any = "uint16", seed: int = 0) -> np.ndarray:
    """Patterns (..., Qx, Qy) of a few soft disks with counting noise."""
    rng = np.random.default_rng(seed)
    *scan, nx, ny = shape
    x, y = np.arange(nx)[:, None], np.arange(ny)[None, :]
    out = np.zeros((int(np.prod(scan)), nx, ny))
    for pattern in out:
        for cx, cy in ((0.5, 0.5), (0.25, 0.7), (0.75, 0.3)):
            centre = np.array([cx * nx, cy * ny]) + rng.uniform(-0.5, 0.5, 2)
            pattern += 60 / (1 + np.exp(2 * (np.hypot(x - centre[0], y - centre[1]) - 2.5)))
    return rng.poisson(out + 0.5).reshape(shape).astype(dtype)


def with_gaps(patterns: np.ndarray) -> np.ndarray:
    """A copy whose first pattern is empty and, where the dtype has it, whose second is all NaN."""
    out = patterns.copy()
    out[0] = 0
    if out.dtype.kind == "f":
        out[1] = np.nan
    return out


EXAMPLES: dict[str, Callable[[], list[Example]]] = {}


# ---------------------------------------------------------------- comparison


def leaves(result: Any) -> list[Any]:
    """The arrays (and plain values) of a result, in order."""
    if isinstance(result, tuple | list):
        return [leaf for part in result for leaf in leaves(part)]
    if isinstance(result, dict):
        return [leaf for key in sorted(result) for leaf in leaves(result[key])]
    return [result]


def assert_same_home(result: Any, like: Any) -> None:
    """A result lives in the library and on the device of the input, not in NumPy by accident."""
    assert compat.is_array_api_obj(result), f"the result is a {type(result).__name__}, not an array"
    assert compat.array_namespace(result) is compat.array_namespace(like), f"{type(result)} came out, {type(like)} went in"
    assert type(result).__module__.partition(".")[0] == type(like).__module__.partition(".")[0]
    assert compat.device(result) == compat.device(like), f"on {compat.device(result)}, input on {compat.device(like)}"


def dtype_name(x: Any) -> str:
    return str(x.dtype).rpartition(".")[2]


def assert_close(result: np.ndarray, reference: np.ndarray, example: Example) -> None:
    """NaN where the reference is NaN, equal integers, floats within the example's tolerance of the largest value."""
    if result.dtype.kind in "iub":
        np.testing.assert_array_equal(result, reference)
        return
    assert np.array_equal(np.isnan(result), np.isnan(reference)), "NaN at other places than in the reference"
    finite = np.isfinite(reference)
    assert np.array_equal(np.isfinite(result), finite)
    if finite.any():
        tolerance = example.single if result.dtype.itemsize <= (8 if result.dtype.kind == "c" else 4) else example.double
        error = np.abs(result[finite] - reference[finite]).max() / max(np.abs(reference[finite]).max(), 1e-300)
        assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


def doubled(x: Any) -> Any:
    """A NumPy input in double precision; integers stay what they are."""
    wider = {"f": np.float64, "c": np.complex128}
    return x.astype(wider[x.dtype.kind]) if isinstance(x, np.ndarray) and x.dtype.kind in wider else x


def convert(example: Example, make: Callable[[np.ndarray], Any]) -> tuple[tuple, dict]:
    """The example's arguments with every array made by `make`."""
    return (
        tuple(make(a) if isinstance(a, np.ndarray) else a for a in example.args),
        {k: make(a) if isinstance(a, np.ndarray) else a for k, a in example.options.items()},
    )


def _table() -> list:
    rows = []
    for name, op in sorted(OPERATIONS.items()):
        for example in EXAMPLES.get(name, list)():
            for library in LIBRARIES:
                kinds = ["definition", library.twin] if library.twin in op.twins else ["definition"]
                for kind in kinds:
                    rows.append(
                        pytest.param(op, example, library, kind, id=f"{name}-{example.label}-{library.name}-{kind}", marks=library.marks)
                    )
    return rows


@pytest.mark.parametrize(("op", "example", "library", "kind"), _table())
def test_against_the_definition(op, example, library, kind, need):
    xp = need(library.module)
    args, options = convert(example, lambda a: library.make(xp, a))
    before = [arrays.to_numpy(a).copy() for a in (*args, *options.values()) if arrays.is_array(a)]
    like = next(a for a in (*args, *options.values()) if arrays.is_array(a))

    with strictest(library, xp, example):
        if kind == "definition":
            with operation.using("definition"):
                found = leaves(op(*args, **options))
        else:
            assert op.choose(*args, **options) == kind, "the dispatch steps aside"
            found = leaves(op(*args, **options))

    plain = leaves(op.definition(*example.args, **example.options))  # dtype and shape, from the same input
    double_args, double_options = convert(example, doubled)
    reference = leaves(op.definition(*double_args, **double_options))
    assert len(found) == len(reference)
    for result, same, expected in zip(found, plain, reference):
        if not arrays.is_array(expected):
            assert type(result) is type(expected)
            assert result == expected
            continue
        assert_same_home(result, like)
        assert dtype_name(result) == dtype_name(same)
        assert tuple(result.shape) == expected.shape
        assert_close(arrays.to_numpy(result), expected, example)
    for a, old in zip((a for a in (*args, *options.values()) if arrays.is_array(a)), before):
        np.testing.assert_array_equal(arrays.to_numpy(a), old, err_msg="an argument was written into")


# ---------------------------------------------------------------- the table itself


def test_every_operation_has_an_example():
    assert set(OPERATIONS) == set(EXAMPLES), "EXAMPLES in this file and the operations of the library differ"


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
    for kind, module in op.twins.items():
        folder = {"cpu": "gpu4d.cpu_fallback", "cuda": "gpu4d.kernels"}[kind]
        file = op.definition.__module__.rpartition(".")[2]
        assert module == f"{folder}.{file}", "a twin lives in a file of the definition's name"
        assert operation.signature(op, kind) == operation.signature(op, "definition")


def test_every_cpu_twin_belongs_to_an_operation(checkout):
    named = {op.twins["cpu"].rpartition(".")[2] for op in OPERATIONS.values() if "cpu" in op.twins}
    files = {p.stem for p in (checkout / "cpu_fallback").glob("*.py") if not p.stem.startswith("_")}
    assert files == named


def test_every_cuda_source_has_a_launcher_and_the_other_way_round(checkout):
    sources = {p.stem for p in (checkout / "kernels").rglob("*.cu")}
    launchers = {p.stem for p in (checkout / "kernels").rglob("*.py") if not p.stem.startswith("_")}
    assert sources == launchers


# ---------------------------------------------------------------- dispatch, on an operation of this file


@pytest.fixture
def halve(monkeypatch):
    """An operation of its own registry, whose twin is a function of a module made here."""
    import sys
    import types

    monkeypatch.setattr(operation, "OPERATIONS", {})
    module = types.ModuleType("gpu4d_test_twin")
    module.halve = lambda x, /, *, refuse=False: np.asarray(x) / 2 + 1  # one off, so that one sees which ran
    monkeypatch.setitem(sys.modules, "gpu4d_test_twin", module)

    @operation.operation(cpu="gpu4d_test_twin", unsupported=lambda x, *, refuse=False: "refuse is set" if refuse else None)
    def halve(x, /, *, refuse=False):
        return x / 2.0

    return halve


def test_numpy_takes_the_twin_and_strict_the_definition(halve, need):
    assert halve(np.asarray([2.0])).tolist() == [2.0]
    strict = need("array_api_strict")
    given = strict.asarray([2.0])
    assert_same_home(halve(given), given)
    assert float(halve(given)[0]) == 1.0


def test_using_forces_one_implementation(halve):
    with gpu4d.using("definition"):
        assert halve(np.asarray([2.0])).tolist() == [1.0]
    assert halve(np.asarray([2.0])).tolist() == [2.0]
    with pytest.raises(InputError, match="'cuda' twin"), gpu4d.using("cuda"):
        halve(np.asarray([2.0]))
    with pytest.raises(InputError, match="'definition', 'cpu', 'cuda'"), gpu4d.using("fast"):
        pass


def test_stepping_aside_is_said_once(halve, caplog):
    with caplog.at_level("INFO", logger="gpu4d"):
        for _ in range(2):
            assert halve(np.asarray([2.0]), refuse=True).tolist() == [1.0]
    assert [r.getMessage() for r in caplog.records] == ["halve: the definition runs, because refuse is set"]


def test_gradients_and_tracers_take_the_definition(halve, need):
    torch = need("torch")
    x = torch.tensor([2.0], requires_grad=True)
    y = halve(x)
    y.sum().backward()
    assert x.grad.tolist() == [0.5]
    assert halve(torch.tensor([2.0])).tolist() == [2.0]


def test_jit_takes_the_definition(halve, need):
    jax = need("jax")
    assert float(jax.jit(halve)(jax.numpy.asarray([2.0]))[0]) == 1.0


def test_mixed_libraries_and_devices_are_refused(halve, need):
    strict = need("array_api_strict")
    with pytest.raises(InputError, match="different libraries"):
        halve(np.asarray([1.0]), refuse=strict.asarray([1.0]))
    with pytest.raises(InputError, match="different devices"):
        halve(strict.asarray([1.0]), refuse=strict.asarray([1.0], device=strict.Device("device1")))
    with pytest.raises(InputError, match="no array"):
        halve([1.0])


def test_cpu_twins_do_not_hold_the_lock(checkout: Path):
    """Reader and compute threads overlap only if every numba function lets go of the interpreter's lock."""
    for file in (checkout / "cpu_fallback").glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("@njit", "@numba.njit", "@jit", "@numba.jit")):
                assert "nogil=True" in line and "cache=True" in line, f"{file.name}: {line}"
