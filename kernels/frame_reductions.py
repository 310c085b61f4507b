"""Launches frame_reductions.cu: tiles of the detector × groups of frames, then the parts in fixed order."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import arrays, device
from gpu4d.virtual.frame_reductions import FrameReductions

FILE = "frame_reductions.cu"
THREADS = 256
VECTORS = {"u8": 2, "u16": 4, "u32": 2, "f32": 2}  # 16-byte vectors a thread, as in the kernel
TOTALS = {"u8": np.uint32, "u16": np.uint32, "u32": np.uint64, "f32": np.float64}
PART_BYTES = 12 * 1024  # of shared memory for sums of frames that wait to be written, where one frame needs no more


def frame_reductions(patterns, masks, /, *, mask=None):
    from gpu4d.kernels.masked_sums import masked_sums

    bits = masks.dtype.kind == "b"
    sums, total, maximum = frame_sums(patterns, masks if bits else masks[:0].astype(bool), mask, totals=True)
    n, m = patterns.shape[0], sums.shape[1] - 4
    masked = sums[:, :m] if bits else masked_sums(patterns, masks)
    xp = arrays.namespace(patterns)
    count = (sums[:, m + 3] == 0).sum().astype(np.float64) if n else xp.zeros((), dtype=np.float64, device=arrays.device(patterns))
    return FrameReductions(total, maximum, xp.asarray(count), masked, sums[:, m : m + 3])


def frame_sums(patterns, masks, mask=None, *, totals=False):
    """Sums (n, masks + 4) of every pattern: under bool masks, 1, x, y, and how many values are not finite; total and maximum."""
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
    kernel = device.kernel(FILE, name)
    counted = np.uint64(0) if mask is None else planes(mask[None].astype(bool), across * vector)
    parts = device.empty((groups, nx, across * vector) if totals else (0,), TOTALS[kind])
    tops = device.empty(parts.shape, patterns.dtype)
    most = device.shared_memory() // (8 * 8) - 4  # masks of one launch: a frame's sums of eight warps must fit
    found = []
    for first in range(0, max(1, masks.shape[0]), most):
        some = masks[first : first + most]
        m = some.shape[0]
        values = m + 4
        chunk = max(1, min(16, min(PART_BYTES, device.shared_memory()) // (64 * values)))
        sums = device.empty((n, tiles, values), wide)
        once = totals and first == 0
        where = (parts, tops) if once else (np.uint64(0), np.uint64(0))
        bits = planes(some, across * vector) if m else np.uint64(0)
        numbers = (np.int32(v) for v in (n, nx, ny, m, group, chunk))
        device.launch(kernel, (tiles, groups), THREADS, (patterns, bits, counted, sums, *where, *numbers), shared=chunk * 64 * values)
        out = device.empty((n, values), wide)
        count = n * values
        add = device.kernel(FILE, adder)
        device.launch(add, -(-count // 256), 256, (sums, out, np.int64(count), np.int32(tiles), np.int32(values)))
        found.append(out)
    if len(found) > 1:
        xp = arrays.namespace(patterns)
        out = xp.concat([*(f[:, :-4] for f in found), found[0][:, -4:]], axis=1)
    if not totals:
        return out, None, None
    if kind == "f32":
        repair = device.kernel(FILE, f"repair_{kind}")
        numbers = (np.int32(v) for v in (n, nx, ny, found[0].shape[1], group))
        device.launch(repair, (tiles, groups), THREADS, (patterns, found[0], parts, tops, *numbers))
    total, maximum = device.empty((nx, ny), wide), device.empty((nx, ny), wide)
    add = device.kernel(FILE, f"add_groups_{kind}")
    device.launch(add, -(-nx * ny // 256), 256, (parts, tops, total, maximum, np.int32(groups), np.int32(nx), np.int32(ny)))
    return out, total, maximum


def planes(masks, pitch):
    """Masks (m, nx, ny) as bytes (planes, nx, pitch): bit b of plane p is mask 8 p + b."""
    m, nx, ny = masks.shape
    xp = arrays.namespace(masks)
    where = arrays.device(masks)
    flags = xp.zeros((-(-m // 8), 8, nx, pitch), dtype=np.uint8, device=where)
    flags.reshape(-1, nx, pitch)[:m, :, :ny] = masks
    shifts = xp.arange(8, dtype=np.uint8, device=where).reshape(1, 8, 1, 1)
    return (flags << shifts).sum(axis=1, dtype=np.uint8)


def address(array):
    """Where a device array begins in memory."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface["data"][0]
