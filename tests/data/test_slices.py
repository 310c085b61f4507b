"""Slices are arrays with a name, units and pixel sizes."""

import numpy as np
import pytest

from gpu4d import arrays
from gpu4d.data import DiffractionSlice, RealSlice
from gpu4d.errors import InputError


def test_a_slice_is_an_array_with_a_name():
    a = np.arange(6.0).reshape(2, 3)
    s = RealSlice(a, "bf", "counts", 5.0, "Å")
    assert (s.shape, s.dtype, s.ndim, len(s), s.name, s.units, s.pixel_size, s.pixel_units) == (
        (2, 3),
        a.dtype,
        2,
        2,
        "bf",
        "counts",
        5.0,
        "Å",
    )
    assert np.shares_memory(np.asarray(s), a)
    np.testing.assert_array_equal(np.array(s, dtype="float32"), a.astype("float32"))
    assert not np.shares_memory(np.array(s, copy=True), a)
    assert "'bf'" in repr(s) and "2×3" in repr(s) and "5 Å" in repr(s)


@pytest.mark.parametrize(
    "expression", [lambda s: s + 1, lambda s: 2 * s - s, lambda s: -s, lambda s: np.sqrt(s), lambda s: s / s.shape[0], lambda s: s > 2]
)
def test_arithmetic_gives_plain_arrays(expression):
    a = np.arange(6.0).reshape(2, 3)
    out = expression(RealSlice(a))
    assert type(out) is np.ndarray
    np.testing.assert_array_equal(out, expression(a))


def test_reductions_and_in_place_results():
    a = np.arange(6.0).reshape(2, 3)
    s = RealSlice(a)
    assert np.add.reduce(s, axis=None) == 15 and np.mean(s) == 2.5 and np.max(s) == 5
    out = RealSlice(np.zeros((2, 3)))
    np.add(s, 1, out=out)
    np.testing.assert_array_equal(out, a + 1)
    np.testing.assert_array_equal(np.add(s, s, where=s > 2, out=np.zeros((2, 3))), np.where(a > 2, 2 * a, 0))


def test_planes_by_label():
    s = RealSlice(np.arange(8.0).reshape(2, 2, 2), labels=("com_x", "com_y"))
    np.testing.assert_array_equal(s["com_y"], s.data[1])
    np.testing.assert_array_equal(s[0], s.data[0])
    with pytest.raises(InputError, match=r"com_z.*com_x, com_y"):
        s["com_z"]


def test_iteration_gives_the_rows_of_the_array():
    a = np.arange(6.0).reshape(2, 3)
    assert [row.tolist() for row in RealSlice(a)] == [[0, 1, 2], [3, 4, 5]]
    assert all(np.shares_memory(row, a) for row in RealSlice(a)) and float(RealSlice(a)[1, 2]) == 5


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_iteration_gives_rows_of_other_libraries(need, library):
    """It ends after the last row. JAX gives the last row again for any larger index."""
    given = need(library).asarray(np.arange(6.0).reshape(2, 3))
    rows = list(RealSlice(given))
    assert [row.tolist() for row in rows] == [[0, 1, 2], [3, 4, 5]] and all(isinstance(row, type(given)) for row in rows)


def test_slices_of_other_libraries_stay_there(need):
    strict = need("array_api_strict")
    s = DiffractionSlice(strict.asarray([[1.0, 2.0]], device=strict.Device("device1")))
    assert arrays.device(s.data) == strict.Device("device1")
    np.testing.assert_array_equal(np.asarray(s), [[1, 2]])
