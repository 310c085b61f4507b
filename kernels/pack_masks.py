"""Launch pack_masks.cu. The bits of a mask are kept as long as its array on the device."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import as_bytes

from gpu4d import device
from gpu4d.device import tables

FILE = "pack_masks.cu"
THREADS = 256


def planes(masks, pitch):
    """Return bool masks (m, nx, ny), or one (nx, ny), as bytes (planes, nx, pitch): bit b of plane p is mask 8 p + b."""
    return tables.made_of(masks, ("planes", pitch), lambda: packed(masks, pitch))


def packed(masks, pitch):
    m, nx, ny = (1, *masks.shape)[-3:]
    out = device.empty((-(-m // 8), nx, pitch), np.uint8)
    sizes = (np.int32(v) for v in (m, nx, ny, pitch))
    device.launch(device.kernel(FILE, "pack_masks"), -(-out.size // THREADS), THREADS, (as_bytes(masks), out, *sizes))
    return out
