"""Arguments that are arrays of real numbers: what is taken, in which form it comes back, and what is refused."""

import numpy as np
import pytest

import gpu4d
from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.real_arrays import beside, floats, radians, real_array, real_number


def test_an_array_of_usual_numbers_is_returned_itself():
    for dtype in ("bool", "uint8", "int64", "float16", "float64"):
        given = np.ones((2, 3), dtype)
        assert real_array(given, "x") is given


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy"])
def test_arrays_of_other_libraries_stay_in_theirs(library, need):
    xp = need(library)
    given = xp.ones((2, 3))
    assert real_array(given, "x") is given
    with pytest.raises(InputError, match=r"x holds .*complex"):
        real_array(xp.ones((2, 3)) * 1j, "x")
    mask = beside(np.array([True, False]), "mask", given)
    assert type(mask) is type(given) and arrays.to_numpy(mask).tolist() == [True, False]


class Later:
    """An array that is computed when it is asked for, as Dask's."""

    def __array__(self, dtype=None, copy=None):
        return np.arange(3.0)


class Failing:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the file was closed\nsome lines of a library")


def test_lists_and_objects_become_numpy_arrays():
    assert real_array([[1, 2], (3, 4)], "x").tolist() == [[1, 2], [3, 4]]
    assert real_array([np.ones(2), np.zeros(2)], "x").tolist() == [[1, 1], [0, 0]]
    assert real_array(Later(), "x").tolist() == [0, 1, 2]
    swapped = np.arange(3, dtype=">u2")
    assert real_array(swapped, "x").dtype == np.dtype("uint16") and real_array(swapped, "x").tolist() == [0, 1, 2]


def test_a_list_of_arrays_of_another_library_becomes_one(need):
    xp = need("array_api_strict")
    assert real_array([xp.ones(2), xp.zeros(2)], "x").tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("scan.h5", "x is the text 'scan.h5'.*gpu4d.open"),
        (None, "x is a NoneType"),
        ({}, "x is a dict"),
        ([[1], [2, 3]], "x is no array .list"),
        (["a", "b"], "x holds <U1"),
        (np.array([1, None]), "x holds object"),
        (np.ones(2, np.longdouble), "x holds .*float"),
        (np.zeros(2, "M8[s]"), "x holds datetime64"),
        (Failing(), "x is no array .Failing: the file was closed."),
        (np.ma.masked_array([1, 2], [True, False]), "x is a NumPy masked array.*mask="),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused_in_one_line(given, says):
    with pytest.raises(InputError, match=says) as caught:
        real_array(given, "x")
    assert "\n" not in str(caught.value)


def test_a_masked_array_without_masked_values_is_an_array():
    values = np.arange(3)
    found = real_array(np.ma.masked_array(values), "x")
    assert type(found) is np.ndarray and np.shares_memory(found, values)


def test_a_mask_is_refused_whatever_was_compiled_before():
    patterns = np.ones((2, 8, 8), "float32")
    masked = np.ma.masked_array(patterns, patterns > 0)
    for _ in range(2):
        with pytest.raises(InputError, match="patterns is a NumPy masked array"):
            gpu4d.center_of_mass(masked)
        gpu4d.center_of_mass(patterns)


def test_angles_are_in_radians():
    assert radians(-2 * np.pi, "angle") == -2 * np.pi and radians(np.float32(0.5), "angle") == 0.5
    for wrong, said in ((30, r"4.8 turns: is it in degrees\? Give radians \(numpy.deg2rad\(30\)\)"), (np.nan, "radians"), ("1", "number")):
        with pytest.raises(InputError, match=said):
            radians(wrong, "angle")


def test_numbers():
    assert floats((1, np.float32(2))) == (1.0, 2.0)
    assert [real_number(n, "n", whole=True) for n in (2, 2.0, np.int64(2), np.float32(2))] == [2] * 4
    for wrong in ("2", None, [2], 1j):
        with pytest.raises(InputError, match=r"n is .*need a number"):
            real_number(wrong, "n")
    with pytest.raises(InputError, match="need a whole number"):
        real_number(2.5, "n", whole=True)
    with pytest.raises(InputError, match="need 2 numbers"):
        floats((1, 2, 3), 2, "centre")
