"""Launch spot_likelihood.cu once for all expected disks of some patterns: one warp for each disk."""

from __future__ import annotations

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous, kind

from gpu4d import device
from gpu4d.device import tables
from gpu4d.orientation.spot_likelihood import BORDER, check, disk_offsets

FILE = "spot_likelihood.cu"
WARPS = 8


def spot_likelihood(patterns, usable, number, spots, origins, background, /, *, radius, relative):
    check(patterns, usable, number, spots, origins, background)
    disks, (nx, ny) = number.shape[0], patterns.shape[1:]
    patterns, usable, number = contiguous(patterns), as_bytes(usable), contiguous(number.astype(np.int64, copy=False))
    spots, origins, background = (contiguous(a.astype(np.float64, copy=False)) for a in (spots, origins, background))
    steps = tables.named(("steps of a disk", float(radius)), lambda: disk_offsets(radius + BORDER).astype(np.int32), patterns)
    out = device.empty((disks,), np.float64)
    sizes = map(np.int32, (kind(patterns), nx, ny, background.shape[0], steps.shape[0]))
    call = (patterns, usable, number, spots, origins, background, steps, out, np.int64(disks), *sizes)
    function = device.kernel(FILE, "spot_likelihood")
    device.launch(function, -(-disks // WARPS), 32 * WARPS, (*call, np.float64(radius), np.float64(relative)))
    return out
