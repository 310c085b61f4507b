"""Each twin of the CPU is compiled once for a kind of numbers, wherever they lie: in memory, in a file of their own, or columns first."""

import numpy as np
import pytest
from operations.comparing import convert
from operations.examples import EXAMPLES

from gpu4d import compiled, operation

TWINS = sorted(name for name, op in operation.all_operations().items() if "cpu" in op.twins)


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.setflags(write=False)
    return a


def _columns_first(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a) if a.ndim == 2 else a


def _versions() -> dict[str, int]:
    return {name: len(getattr(entry, "overloads", ())) for name, entry in compiled.ENTRIES.items()}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("other", [_read_only, _columns_first], ids=["read-only", "columns first"])
def test_other_memory_compiles_nothing(name, other):
    op, example = operation.all_operations()[name], EXAMPLES[name]()[0]
    args, options = convert(example, np.copy)
    op(*args, **options)
    before = _versions()
    args, options = convert(example, other)
    op(*args, **options)
    assert _versions() == before
