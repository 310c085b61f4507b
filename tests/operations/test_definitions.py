"""One table: every operation × every implementation × every array library, against the definition in float64 on NumPy.

A library that is not installed is skipped, with the reason; `GPU4D_REQUIRE=torch,jax` makes its absence a failure.
"""

import functools

import array_api_compat as compat
import numpy as np
import pytest
from operations.comparing import assert_close, assert_same_home, convert, doubled, dtype_name, expected_kind, leaves
from operations.examples import EXAMPLES
from operations.libraries import LIBRARIES, strictest

from gpu4d import arrays, operation

OPERATIONS = operation.all_operations()


def _table() -> list:
    rows = []
    for name, op in sorted(OPERATIONS.items()):
        for number, example in enumerate(EXAMPLES.get(name, list)()):
            for library in LIBRARIES:
                for kind in _kinds(op, library, number):
                    rows.append(
                        pytest.param(op, example, library, kind, id=f"{name}-{example.label}-{library.name}-{kind}", marks=library.marks)
                    )
    return rows


def _kinds(op, library, number) -> list[str]:
    kinds = ["definition"] if library.definitions is None or number < library.definitions else []
    twin = library.twin in op.twins and (library.twins is None or number < library.twins)
    return [*kinds, library.twin] if twin else kinds


@functools.lru_cache(maxsize=8)  # the rows of an example follow each other
def _expected(op, number) -> tuple[list, list]:
    """The definition's results for an example: from the same input (for dtype and shape), and in float64."""
    example = BY_NUMBER[number]
    double_args, double_options = convert(example, doubled)
    with operation.using("definition"):  # also for operations that this one calls
        plain = leaves(op.definition(*example.args, **example.options))
        return plain, leaves(op.definition(*double_args, **double_options))


BY_NUMBER: dict = {}  # id -> example: examples hold arrays, which cannot be keys


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
            assert op.choose(*args, **options) == expected_kind(op, kind, args, options), "the dispatch steps aside"
            found = leaves(op(*args, **options))

    BY_NUMBER[id(example)] = example
    plain, reference = _expected(op, id(example))
    assert len(found) == len(reference)
    twin = example.tolerances(kind) or (0.0,) * len(found)
    for result, same, expected, allowed in zip(found, plain, reference, twin, strict=True):
        if not compat.is_array_api_obj(expected):  # NumPy scalars are the results without axes
            assert type(result) is type(expected)
            assert result == expected
            continue
        assert_same_home(result, like)
        assert dtype_name(result) == dtype_name(same)
        assert tuple(result.shape) == expected.shape
        assert_close(arrays.to_numpy(result), expected, example, allowed)
    for a, old in zip((a for a in (*args, *options.values()) if arrays.is_array(a)), before):
        np.testing.assert_array_equal(arrays.to_numpy(a), old, err_msg="an argument was written into")
