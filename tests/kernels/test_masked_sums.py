"""Weighted sums on the host shim: against float64, whatever patterns and masks stand beside each other, and broken on purpose."""

import numpy as np
import pytest
from cuda_on_host import HostBackend

from gpu4d import operation
from gpu4d.device.backend import inlined, using_backend
from gpu4d.imaging.masked_sums import masked_sums

FILE = "masked_sums.cu"


def on_shim(*args, host=None):
    with using_backend(host or HostBackend(seed=7)), operation.using("cuda"):
        return masked_sums(*args)


def patterns_and_weights(dtype="uint16", shape=(11, 19, 23), masks=7, weights="float64", seed=0):
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 200, shape).astype(dtype)
    under = rng.normal(size=(masks, *shape[1:])).astype(weights)
    under[:, 3:5] = 0
    return patterns, under


def exact(patterns, weights):
    """Sums in long double over the pixels whose weight is not zero."""
    seen = [np.flatnonzero(w.ravel()) for w in weights]
    return np.stack([patterns.reshape(len(patterns), -1)[:, i].astype("longdouble") @ w.ravel()[i] for i, w in zip(seen, weights)], -1)


@pytest.mark.parametrize("weights", ["float32", "float64"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_any_number_of_masks_and_patterns(dtype, weights):
    for n, masks in ((1, 1), (4, 2), (8, 3), (9, 4), (13, 7)):
        patterns, under = patterns_and_weights(dtype, (n, 19, 23), masks, weights)
        if dtype == "float32":
            patterns[:, 3] = np.nan  # under weights of zero: not looked at
        np.testing.assert_allclose(on_shim(patterns, under), exact(patterns, under).astype(float), rtol=1e-13, atol=1e-9)


def test_the_largest_counts_become_doubles_exactly():
    patterns = np.full((3, 2, 5), 2**32 - 1, "uint32")
    patterns[1] = 2**31
    assert on_shim(patterns, np.ones((1, 2, 5))).tolist() == [[10.0 * (2**32 - 1)], [10.0 * 2**31], [10.0 * (2**32 - 1)]]


@pytest.mark.parametrize("shape", [(10, 13, 21), (10, 130, 140)])
def test_bits_do_not_depend_on_company_or_order(shape):
    patterns, weights = patterns_and_weights(shape=shape, masks=5)
    whole = on_shim(patterns, weights, host=HostBackend(seed=0))
    for seed in (1, 2, 7):
        assert on_shim(patterns, weights, host=HostBackend(seed=seed)).tobytes() == whole.tobytes()
    for masks in (slice(0, 1), slice(1, 3), slice(2, 5), slice(4, 5)):
        np.testing.assert_array_equal(on_shim(patterns[3:], weights[masks]), whole[3:, masks])


def test_a_block_takes_eight_patterns_and_large_detectors_go_in_slices():
    """Weights go to registers once for eight patterns: so many blocks, and a second launch only where a detector has slices."""
    for dtype, shape, blocks in (("uint16", (20, 128, 128), (3, 1)), ("float32", (20, 16, 16), (5, 1)), ("uint16", (3, 128, 129), (1, 2))):
        host = HostBackend()
        patterns, weights = patterns_and_weights(dtype, shape, 1)
        np.testing.assert_allclose(on_shim(patterns, weights, host=host), exact(patterns, weights).astype(float), rtol=1e-12)
        assert host.launched[0][1] == blocks and len(host.launched) == (1 if blocks[1] == 1 else 2)


BREAKS = {
    "barrier behind the warps' sums": ("= mine;\n  __syncthreads();", "= mine;"),
    "barrier before they are used again": (
        "    parts[p * pitch + m] = total;\n  }\n  __syncthreads();",
        "    parts[p * pitch + m] = total;\n  }",
    ),
    "bound of a slice": ("i + s * THREADS < end;", "i + s * THREADS <= end;"),
    "bound of the patterns": ("if (m < masks && p < some) {", "if (m < masks) {"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    old, new = BREAKS[what]
    text = inlined(FILE)
    assert old in text
    patterns, weights = patterns_and_weights(shape=(11, 130, 140), masks=9)
    expected = exact(patterns, weights).astype(float)
    wrong = 0
    for seed in (0, 1, 2, 7):
        try:
            found = on_shim(patterns, weights, host=HostBackend(seed=seed, sources={FILE: text.replace(old, new)}))
            wrong += not np.allclose(found, expected, rtol=1e-12, atol=1e-9)
        except (AssertionError, RuntimeError):
            wrong += 1
    assert wrong, f"without the {what} all sums are right"


def test_no_detector_has_more_slices_than_a_grid_takes():
    from gpu4d.kernels.masked_sums import MOST_SLICES, SLICE, slices_of

    assert slices_of(128 * 128) == (1, SLICE) and slices_of(129 * 128) == (2, SLICE)
    for pixels in (MOST_SLICES * SLICE, MOST_SLICES * SLICE + 1, 2**31 - 1):
        slices, span = slices_of(pixels)
        assert slices <= MOST_SLICES and (slices - 1) * span < pixels <= slices * span
