"""The kernel that fits strained rings: pixel types, patterns that leave nothing behind, and copies broken on purpose."""

import numpy as np
import pytest
from broken_copies import broken_copy
from cuda_on_host import HostBackend
from operations.examples.fit_strained_ring import RADII, SHAPE, STEP, UNDISTORT, knots, strained_frames

import gpu4d
from gpu4d.amorphous.fit_strained_ring import fit_strained_ring
from gpu4d.device.backend import using_backend

FIXED = {"step": STEP, "radii": RADII, "undistort": UNDISTORT}


def on_host(frames, origins, host=None, **options):
    with using_backend(host or HostBackend(seed=7)), gpu4d.using("cuda"):
        return fit_strained_ring(frames, origins, knots(), **{**FIXED, **options})


def same_bits(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "float32"])
def test_pixel_types_give_the_same_bits(dtype):
    frames, origins, _ = strained_frames(1)
    frames = np.minimum(frames, 255)
    assert same_bits(on_host(frames.astype(dtype), origins), on_host(frames, origins))


def test_a_mask_of_ones_is_no_mask():
    frames, origins, _ = strained_frames(1)
    assert same_bits(on_host(frames, origins, mask=np.ones(SHAPE, bool)), on_host(frames, origins))


BREAKS = {
    "a step that is never taken": ("state[i] += change[i] / ratio", "state[i] += 0.0 * ratio"),
    "the ellipse forgotten": ("v = ring.xy * dx + ring.yy * dy", "v = dy"),
    "a fixed origin that moves": ("(i < 5 ? fit_origin != 0", "(i < 5 ? true"),
    "errors in other units": ("+ 1 + k % 3] * shared.unit[k / 3] * shared.unit[k % 3]", "+ 1 + k % 3]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", BREAKS)
def test_broken_copies_are_caught(what):
    frames, origins, _ = strained_frames(1)
    good, broken = (
        on_host(frames, origins, fit_origin=False),
        HostBackend(seed=7, sources=broken_copy("fit_strained_ring.cu", BREAKS[what])),
    )
    found = on_host(frames, origins, broken, fit_origin=False)
    different = [not np.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in zip(found[:3], good[:3], strict=True)]
    assert any(different), f"with {what} all answers are right"
