"""One table: every operation × every implementation × every array library, against the definition in float64 on NumPy.

A library that is not installed is skipped, with the reason; `GPU4D_REQUIRE=torch,jax` makes its absence a failure.
"""

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
            assert op.choose(*args, **options) == expected_kind(op, kind, args, options), "the dispatch steps aside"
            found = leaves(op(*args, **options))

    plain = leaves(op.definition(*example.args, **example.options))  # dtype and shape, from the same input
    double_args, double_options = convert(example, doubled)
    reference = leaves(op.definition(*double_args, **double_options))
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
