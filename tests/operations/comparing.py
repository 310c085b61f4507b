"""What an example of an operation is, and how results are compared with the definition in float64."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import array_api_compat as compat
import numpy as np

from gpu4d import operation


@dataclass(frozen=True)
class Example:
    """One call of an operation: arrays as NumPy, everything else as it is.

    `single` and `double` are the largest errors allowed, over the largest value of the answer, where the answer is in single and in
    double precision. `twin` stands for `double` where the twin computes in single precision, one number for each array of the answer.
    """

    label: str
    args: tuple
    options: dict = field(default_factory=dict)
    single: float = 2e-5
    double: float = 1e-11
    twin: tuple[float, ...] = ()
    cuda: tuple[float, ...] = ()  # the same for the CUDA twin, where it differs from the CPU twin
    shapes_depend_on_values: bool = False

    def tolerances(self, kind: str) -> tuple[float, ...]:
        """What one implementation may be off, for each array of the answer; empty where `double` says it."""
        return {"cpu": self.twin, "cuda": self.cuda or self.twin}.get(kind, ())


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


def assert_close(result: np.ndarray, reference: np.ndarray, example: Example, twin: float = 0.0) -> None:
    """NaN where the reference is NaN, equal integers, floats within the example's tolerance of the largest value."""
    if result.dtype.kind in "iub":
        np.testing.assert_array_equal(result, reference)
        return
    assert np.array_equal(np.isnan(result), np.isnan(reference)), "NaN at other places than in the reference"
    finite = np.isfinite(reference)
    assert np.array_equal(np.isfinite(result), finite)
    if finite.any():
        tolerance = example.single if result.dtype.itemsize <= (8 if result.dtype.kind == "c" else 4) else example.double
        tolerance = max(tolerance, twin)
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


def expected_kind(op: operation.Operation, kind: str, args: tuple, options: dict) -> str:
    """The implementation that arrays made for `kind` must take: kernels state what they do not, CPU twins take every example."""
    return "definition" if kind == "cuda" and op.unsupported(kind, *args, **options) else kind


def with_cuda() -> list[str]:
    """Return the names of the operations that have a CUDA twin."""
    return sorted(name for name, op in operation.all_operations().items() if "cuda" in op.twins)
