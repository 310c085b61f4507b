"""Launch frame_reductions.cu: first for tiles of the detector × groups of frames, then to add these parts in fixed order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gpu4d.kernels.pack_masks import planes
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import arrays, device
from gpu4d.imaging.frame_reductions import FrameReductions

FILE = "frame_reductions.cu"
THREADS = 256
VECTORS = {"u8": 2, "u16": 4, "u32": 2, "f32": 2}  # 16-byte vectors a thread, as in the kernel
TOTALS = {"u8": np.uint32, "u16": np.uint32, "u32": np.uint64, "f32": np.float64}
PART_BYTES = 12 * 1024  # of shared memory for sums of frames that wait to be written, where one frame needs no more


class FrameSums(NamedTuple):
    """Sums of a stack of patterns. Without totals all fields but the first are None."""

    sums: Any  # (n, masks + 4): under the masks, 1, x, y, and how many values are not finite
    total: Any = None  # (nx, ny) over the patterns that are finite
    maximum: Any = None
    count: Any = None  # () float64, their number


def frame_reductions(patterns, masks, /, *, mask=None):
    from gpu4d.kernels.masked_sums import masked_sums

    bits = masks.dtype.kind == "b"
    found = frame_sums(patterns, masks if bits else masks[:0].astype(bool), mask, totals=True)
    m = found.sums.shape[1] - 4
    masked = found.sums[:, :m] if bits else masked_sums(patterns, masks)
    return FrameReductions(found.total, found.maximum, found.count, masked, found.sums[:, m : m + 3])


def frame_sums(patterns, masks, mask=None, *, totals=False):
    """Sum every pattern under bool masks, and make its moments under `mask`; with `totals` also sum, maximum and number of all."""
    patterns = contiguous(patterns)
    n, nx, ny = patterns.shape
    kind = suffix(patterns)
    wide, adder = (np.float64, "add_floats") if kind == "f32" else (np.int64, "add_counts")
    vector = 16 // patterns.dtype.itemsize
    across = -(-ny // vector)
    tiles = -(-nx * across // (THREADS * VECTORS[kind]))
    group = max(4, min(256, -(-n // 64)), -(-n // 65535))
    groups = -(-n // group)
    if ny % vector or address(patterns) % 16:
        name = f"frame_sums_ragged_{kind}"
    else:
        name = f"frame_sums_{kind}" if nx * across % (THREADS * VECTORS[kind]) else f"frame_sums_full_{kind}"
    kernel, add = device.kernel(FILE, name), device.kernel(FILE, adder)
    bits = planes(masks, across * vector)
    counted = np.uint64(0) if mask is None else planes(mask, across * vector)
    parts = device.empty((groups, nx, across * vector) if totals else (0,), TOTALS[kind])
    tops = device.empty(parts.shape, patterns.dtype)
    # Masks of one launch, whole planes of eight: a frame's sums of eight warps must fit into shared memory.
    most = max(8, (device.shared_memory() // (8 * 8) - 4) // 8 * 8)
    found = []
    for first in range(0, max(1, masks.shape[0]), most):
        m = min(most, masks.shape[0] - first)
        values = m + 4
        chunk = max(1, min(16, min(PART_BYTES, device.shared_memory()) // (64 * values)))
        sums = device.empty((n, tiles, values), wide)
        where = (parts, tops) if totals and first == 0 else (np.uint64(0), np.uint64(0))
        numbers = (np.int32(v) for v in (n, nx, ny, m, group, chunk))
        given = (patterns, bits[first // 8 :] if m else np.uint64(0), counted, sums, *where, *numbers)
        device.launch(kernel, (tiles, groups), THREADS, given, shared=chunk * 64 * values)
        found.append(device.empty((n, values), wide))
        count = n * values
        device.launch(add, -(-count // 256), 256, (sums, found[-1], np.int64(count), np.int32(tiles), np.int32(values)))
    out = found[0]
    if len(found) > 1:
        out = arrays.namespace(patterns).concat([*(f[:, :-4] for f in found), found[0][:, -4:]], axis=1)
    return FrameSums(out, *_totals(patterns, found[0], parts, tops, tiles, group)) if totals else FrameSums(out)


def _totals(patterns, sums, parts, tops, tiles, group):
    """Return sum, maximum and number of the patterns that are finite, from the parts of groups of patterns."""
    n, nx, ny = patterns.shape
    kind, wide, groups, values = suffix(patterns), sums.dtype, parts.shape[0], sums.shape[1]
    if kind == "f32":
        repair = device.kernel(FILE, f"repair_{kind}")
        numbers = (np.int32(v) for v in (n, nx, ny, values, group))
        device.launch(repair, (tiles, groups), THREADS, (patterns, sums, parts, tops, *numbers))
    total, maximum, count = device.empty((nx, ny), wide), device.empty((nx, ny), wide), device.empty((1,), np.float64)
    add = device.kernel(FILE, f"add_groups_{kind}")
    numbers = (np.int32(v) for v in (groups, nx, ny, n, values))
    blocks = max(1, -(-nx * ny // 256))  # at least one: the first block counts the patterns, also if they have no pixels
    device.launch(add, blocks, 256, (parts, tops, sums, total, maximum, count, *numbers))
    return total, maximum, count.reshape(())


def address(array):
    """Return the address of a device array."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface["data"][0]
