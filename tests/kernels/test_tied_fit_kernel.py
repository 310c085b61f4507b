"""The kernel that fits lattices to whole patterns: blocks that take several patterns, pixel types, and copies broken on purpose."""

import gpu4d.kernels.tied_fit as launcher
import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend
from operations.examples.tied_fit import ORDERS, SHAPE, TRUE, tied_frames

import gpu4d
from gpu4d.bragg.likelihood.poisson_fit import disk_profile
from gpu4d.bragg.likelihood.tied_fit import overlapping, tied_fit
from gpu4d.device.backend import using_backend

PROFILE = disk_profile(gpu4d.probe.synthetic((33, 33), 4.3))
PAIRS = overlapping(ORDERS, TRUE[2:].reshape(2, 2), PROFILE.radius + 1)
SEEDS = (0, 2, 7)


def call(frames, pairs=PAIRS):
    start = TRUE + np.random.default_rng(1).uniform(-0.2, 0.2, (len(frames), 6))
    return frames, start, ORDERS, pairs, PROFILE.table, PROFILE.pixels


def on_host(given, host=None, **options):
    with using_backend(host or HostBackend(seed=7)), gpu4d.using("cuda"):
        return tied_fit(*given, **options)


def same_bits(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("blocks", [1, 2])
def test_blocks_that_take_several_patterns_give_the_same_bits(blocks, monkeypatch):
    """A pattern without counts, and one whose start is unknown, leave nothing behind for those after them."""
    given = call(tied_frames(5, coherence=0.8))
    given[0][1], given[1][3, 0] = 0, np.nan
    one_each = on_host(given)
    assert one_each.ok.tolist() == [True, False, True, False, True]
    each = launcher.work_sizes(SHAPE, len(ORDERS), PAIRS.shape[1], len(PROFILE.pixels)).nbytes
    monkeypatch.setattr(launcher, "WORK_BYTES", blocks * each)
    for seed in SEEDS:
        host = HostBackend(seed=seed)
        assert same_bits(on_host(given, host), one_each)
        assert host.launched[0][1] == (blocks,)


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "float32"])
def test_pixel_types_give_the_same_bits(dtype):
    given = call(np.minimum(tied_frames(1), 255))
    assert same_bits(on_host((given[0].astype(dtype), *given[1:])), on_host(given))


def test_a_mask_of_ones_is_no_mask():
    given = call(tied_frames(1))
    assert same_bits(on_host(given, mask=np.ones(SHAPE, bool)), on_host(given))


BREAKS = {
    "barrier behind a disk": (
        "float(theta[j]) * area.patch[j * model.square() + k];\n    }\n    __syncthreads();",
        "float(theta[j]) * area.patch[j * model.square() + k];\n    }",
    ),
    "interference in the slopes": ("height += float(mixed[q]) * value_at(model, area, one + two - j, j, k);", ";"),
    "held heights": ("!(hold && height && low && area.gradient[i] <= 0.0)", "true"),
    "gain of small changes": ("return (s * x - 0.5f) * x * x;", "return (s * x - 5.0f) * x * x;"),
    "entries of neighbours": ("i, int j) {\n  return abs(", "i, int j) {\n  return false && abs("),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    """By another answer, or by other bits in another order of threads."""
    sources = broken_copy(launcher.FILE, BREAKS[what])
    given = call(tied_frames(1, coherence=1.0))
    given[0][0, :, :12] = 0  # disks without counts: their heights are held
    good, different = on_host(given), 0
    for seed in SEEDS:
        found = on_host(given, HostBackend(seed=seed, sources=sources))
        different += any(not np.allclose(a, b, rtol=1e-9, atol=0, equal_nan=True) for a, b in zip(found, good, strict=True))
    assert different, f"without the {what} all answers are right"
