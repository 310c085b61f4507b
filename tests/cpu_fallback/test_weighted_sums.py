"""Sums under weights on the CPU: the definition's values, and the same bits in any company."""

import numpy as np
import pytest
from gpu4d.cpu_fallback import masked_sums as twin
from gpu4d.cpu_fallback.masked_sums import masked_sums
from gpu4d.cpu_fallback.weight_lanes import LANES

DTYPES = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"]


def some(n, m, shape, dtype="uint16", seed=0):
    """Patterns, and weights of which a third are zero."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 if dtype == "bool" else 100, (n, *shape))
    weights = rng.normal(size=(m, *shape)) * (rng.random((m, *shape)) > 0.3)
    return (values / 8 if "float" in dtype else values).astype(dtype), weights


def defined(patterns, weights):
    """The sums one by one in long double, and the sums of magnitudes, which say how large an error may be."""
    flat = patterns.reshape(len(patterns), 1, -1).astype(np.longdouble)
    rows = weights.reshape(1, len(weights), -1).astype(np.longdouble)
    with np.errstate(invalid="ignore"):
        products = np.where(rows != 0, flat * rows, 0)
    return products.sum(-1), np.abs(products).sum(-1)


def assert_right(found, patterns, weights):
    want, size = defined(patterns, weights)
    assert found.dtype == np.float64 and found.shape == want.shape
    assert (np.abs(found - want) <= 1e-14 * size + 1e-300).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_pixels(dtype):
    patterns, weights = some(6, 4, (23, 37), dtype)
    assert_right(masked_sums(patterns, weights), patterns, weights)


@pytest.mark.parametrize("masks", [1, 2, 3, 4, 64, 65, 130])
@pytest.mark.parametrize("n", [1, 3, 17])
def test_every_number_of_masks(masks, n):
    patterns, weights = some(n, masks, (23, 25))
    assert_right(masked_sums(patterns, weights), patterns, weights)


@pytest.mark.parametrize("pixels", [1, LANES - 1, LANES, LANES + 1, twin.TILE - 1, twin.TILE, twin.TILE + 1, 3 * twin.TILE + 5])
def test_every_number_of_pixels(pixels):
    patterns, weights = some(twin.PACK_PATTERNS + 1, twin.PACK_MASKS + 1, (1, pixels))
    packed = masked_sums(patterns, weights)
    assert_right(packed, patterns, weights)
    np.testing.assert_array_equal(packed[:5], masked_sums(patterns[:5], weights))


def test_large_counts_beside_small_ones():
    patterns, weights = some(5, 3, (9, 11), "uint64")
    patterns[:, 4, 4] = 2**63 + 1025
    assert_right(masked_sums(patterns, weights), patterns, weights)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("masks", [1, 5, 64, 65])
def test_bits_do_not_depend_on_how_patterns_are_divided(dtype, masks):
    patterns, weights = some(40, masks, (33, 41), dtype)
    if dtype == "float32":
        patterns[3, 5, 6] = patterns[21, 0, 0] = np.nan
        patterns[8, 32, 40] = np.inf
    whole = masked_sums(patterns, weights)
    for n in range(1, 10):
        np.testing.assert_array_equal(np.concatenate([masked_sums(patterns[i : i + n], weights) for i in range(0, 40, n)]), whole)
    for begin, end in ((0, 16), (1, 18), (7, 40), (23, 24)):
        np.testing.assert_array_equal(masked_sums(patterns[begin:end], weights), whole[begin:end])


def test_bits_do_not_depend_on_other_masks():
    patterns, weights = some(20, 70, (33, 41))
    weights[5:, :20] = 0  # some masks are 0 in whole tiles, and are left out there
    whole = masked_sums(patterns, weights)
    for chosen in ([0], [69, 5, 1], list(range(3, 17)), list(range(69, -1, -1))):
        np.testing.assert_array_equal(masked_sums(patterns, weights[chosen]), whole[:, chosen])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 20])
def test_pixels_where_the_weight_is_zero_are_not_seen(dtype, n):
    """To the last bit the sums with 0 there, whether all masks are 0 at the pixel or some. Under a weight a NaN shows."""
    patterns, weights = some(n, 14, (30, 31), dtype)
    weights[:, 3, 4], weights[::2, 29, 30], weights[1::2, 29, 30] = 0, 0, 1
    clean = patterns.copy()
    clean[:, 3, 4] = clean[1, 29, 30] = 0
    want = masked_sums(clean, weights)
    for junk in (np.nan, np.inf, -np.inf):
        patterns[:, 3, 4] = patterns[1, 29, 30] = junk
        found = masked_sums(patterns, weights)
        np.testing.assert_array_equal(found[1, 1::2], np.full(7, junk))
        found[1, 1::2] = want[1, 1::2]
        np.testing.assert_array_equal(found, want)


def test_bool_masks_of_floats_are_weights_of_one():
    patterns, weights = some(9, 5, (19, 21), "float32")
    np.testing.assert_array_equal(masked_sums(patterns, weights != 0), masked_sums(patterns, (weights != 0).astype(float)))
    assert_right(masked_sums(patterns, weights != 0), patterns, weights != 0)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
def test_nothing_to_sum(shape):
    n, m, *frame = shape
    found = masked_sums(np.ones((n, *frame), "float32"), np.ones((m, *frame)))
    assert found.shape == (n, m) and (found == 0).all()
