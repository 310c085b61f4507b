"""Moments and medians of rings against pixels counted one by one: corners, origins and ellipses of each pattern, masks, types."""

import numpy as np
import pytest

import gpu4d
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.rings import radial_sums, ring_moments

SHAPE = (19, 26)


def one_by_one(pattern, origin, m, n_r, r_max, mask=None):
    """Values of the pixels of every ring, by a loop."""
    found = [[] for _ in range(n_r)]
    for x in range(pattern.shape[0]):
        for y in range(pattern.shape[1]):
            r = np.linalg.norm(m @ (np.array([x, y]) - origin)) * n_r / r_max
            if r < n_r and (mask is None or mask[x, y]) and np.isfinite(float(pattern[x, y])):
                found[int(r)].append(pattern[x, y])
    return found


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64", "int64"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_they_are_those_of_the_pixels(dtype, everywhere):
    """Eight patterns of one place take another way than patterns of eight places."""
    rng = np.random.default_rng(2)
    patterns = (rng.poisson(5, (8, *SHAPE)) * (257 if dtype == "uint32" else 1)).astype(dtype)
    if dtype.startswith("float"):
        patterns[1, 4, 5] = np.nan
    mask = rng.random(SHAPE) > 0.1
    origins = rng.uniform(5, 20, (8, 2)) if everywhere else np.array([9.3, 14.1])
    ellipses = np.stack([rng.uniform(1, 1.3, 8), np.ones(8), rng.uniform(0, 3, 8)], -1) if everywhere else np.array([1.2, 1.0, 0.5])
    found = ring_moments(patterns, origins, n_r=12, r_max=20.0, ellipse=ellipses, mask=mask, median=True)
    for i, pattern in enumerate(patterns):
        origin, ellipse = (a[i] if everywhere else a for a in (origins, ellipses))
        for k, values in enumerate(one_by_one(pattern, origin, ellipse_matrix(tuple(ellipse)), 12, 20.0, mask)):
            exact = np.array(values, dtype=np.float64)
            assert found.pixels[i, k] == len(exact)
            np.testing.assert_allclose(found.sums[i, k], exact.sum(), rtol=1e-13)
            np.testing.assert_allclose(found.squares[i, k], (exact**2).sum(), rtol=1e-13)
            np.testing.assert_equal(found.medians[i, k], np.median(exact) if len(exact) else np.nan)


def test_every_pixel_counts_up_to_the_corners():
    """Peers leave out the last row and column, and rings beyond the half side."""
    counts = np.random.default_rng(1).poisson(3, (2, *SHAPE)).astype("uint16")
    found = ring_moments(counts, (9.0, 12.5), r_max=40.0)
    assert (found.pixels.sum(axis=-1) == SHAPE[0] * SHAPE[1]).all()
    np.testing.assert_array_equal(found.sums.sum(axis=-1), counts.sum(axis=(1, 2), dtype=np.int64))
    np.testing.assert_array_equal(found.squares.sum(axis=-1), (counts.astype(np.int64) ** 2).sum(axis=(1, 2)))
    corner = int(np.hypot(9.0, 12.5))
    assert found.pixels[0, corner] == sum(len(v) for v in one_by_one(counts[0], np.array([9.0, 12.5]), np.eye(2), 40, 40.0)[corner:])


def test_the_largest_counts_do_not_overflow():
    patterns = np.full((5, 40, 44), 65535, "uint16")
    found = ring_moments(patterns, (20.0, 20.0), n_r=1, r_max=60.0)
    assert found.sums.tolist() == [[1760 * 65535]] * 5 and found.squares.tolist() == [[1760 * 65535**2]] * 5
    assert ring_moments(patterns.astype("uint32"), (20.0, 20.0)).squares.dtype == np.float64
    wide = ring_moments(np.full((4, 300, 250), 65535, "uint16"), (150.0, 120.0), n_r=1, r_max=400.0)
    assert wide.sums.tolist() == [[75000 * 65535]] * 4, "more pixels in a ring than 32 bits hold sums of"
    low = ring_moments(np.full((4, 300, 250), -32768, "int16"), (150.0, 120.0), n_r=1, r_max=400.0)
    assert low.sums.tolist() == [[-75000 * 32768]] * 4


def test_a_matrix_is_the_ellipse_it_stands_for():
    counts = np.random.default_rng(3).poisson(4, (3, *SHAPE)).astype("uint16")
    a = ring_moments(counts, (9.2, 12.7), ellipse=(1.3, 1.0, 0.4))
    b = ring_moments(counts, (9.2, 12.7), ellipse=ellipse_matrix((1.3, 1.0, 0.4)))
    c = ring_moments(counts, (9.2, 12.7), ellipse=np.tile([1.3, 1.0, 0.4], (3, 1)))
    turned = ring_moments(counts, (9.2, 12.7), ellipse=np.array([[0.0, -1.0], [1.0, 0.0]]) @ ellipse_matrix((1.3, 1.0, 0.4)))
    for other in (b, c, turned):
        np.testing.assert_array_equal(a.sums, other.sums)
    sums, pixels = radial_sums(counts, (9.2, 12.7), ellipse=(1.3, 1.0, 0.4))
    np.testing.assert_array_equal(a.sums, sums)
    np.testing.assert_array_equal(a.pixels, pixels)


def test_patterns_of_one_place_in_any_grouping():
    """Runs of one origin of 1, 3, 4, 16 and 17 patterns, and a place that is not known between them."""
    rng = np.random.default_rng(4)
    runs = [1, 3, 4, 16, 17, 2]
    counts = rng.poisson(3, (sum(runs), *SHAPE)).astype("uint8")
    origins = np.repeat(rng.uniform(6, 18, (len(runs), 2)), runs, axis=0)
    origins[5] = np.nan
    whole = ring_moments(counts, origins)
    for i in range(len(counts)):
        alone = ring_moments(counts[i], origins[i])
        for a, b in zip(whole, alone):
            np.testing.assert_array_equal(a[i], b)
    assert whole.pixels[5].sum() == 0 and whole.squares[5].sum() == 0


def test_read_only_and_empty_stacks():
    counts = np.ones((0, *SHAPE), "uint16")
    assert [a.shape for a in ring_moments(counts, np.zeros((0, 2)), median=True)] == [(0, 10)] * 4
    assert ring_moments(np.ones(SHAPE, "uint16"), (9, 9)).medians.shape == (0,)
    still = np.ones((2, *SHAPE), "uint16")
    still.flags.writeable = False
    assert ring_moments(still[:, ::-1], (9, 9)).sums[0, 0] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ellipse": np.ones((2, 3))}, r"ellipse is \(2, 3\)"),
        ({"ellipse": (1.0, 1.2, 0.0)}, "a ≥ b > 0"),
        ({"n_r": 0}, "positive"),
        ({"mask": np.ones((3, 3), bool)}, "mask is"),
    ],
)
def test_wrong_arguments_are_refused(options, says):
    with pytest.raises(InputError, match=says), gpu4d.using("definition"):
        ring_moments(np.ones((4, *SHAPE)), (9.0, 9.0), **options)
