"""Launch fit_electrons.cu: after count_electrons.cu has listed the maxima, a warp for each of them, three passes."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
from gpu4d.kernels.count_electrons import FILE as MAXIMA
from gpu4d.kernels.count_electrons import count_electrons, level_and_scale
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device
from gpu4d.preprocess.charge import ChargeModel
from gpu4d.preprocess.electrons import Electrons
from gpu4d.preprocess.fit_electrons import MOST, PASSES

FILE = "fit_electrons.cu"
WARPS = 4  # groups of a block, as in the source


def fit_electrons(frames, dark, lower, upper, model, /, *, electron=1.0, gain=None, mask=None, most=MOST):
    frames = contiguous(frames)
    *batch, nx, ny = frames.shape
    n, model = prod(batch), ChargeModel.of(model)
    maxima = count_electrons(frames, dark, lower, upper, electron=electron, gain=gain, mask=mask)
    groups = maxima.qx.shape[0]
    empty = [device.empty((0,), np.float32) for _ in range(3)]
    if not groups:
        return Electrons(maxima.offsets, *empty)
    level, scale = level_and_scale(dark, electron, gain, mask)
    index = device.empty((n, nx, ny), np.int32)
    shape = np.int32(nx), np.int32(ny)
    lists = maxima.offsets, maxima.qx, maxima.qy
    device.launch(device.kernel(FILE, "name_groups"), n, 256, (*lists, index, *shape))

    fit = device.kernel(FILE, f"fit_groups_{suffix(frames)}")
    numbers = (*(np.float64(v) for v in (*model, model.mean_log, model.least_cost)), np.int64(n), np.int32(groups), *shape)
    now, then = ((device.empty((groups, MOST, 3), np.float64), device.empty((groups,), np.uint32)) for _ in range(2))
    for turn in range(PASSES):
        often = np.int32(most if turn else 1), np.int32(turn)
        given = (frames, level, scale, *lists, index, *now, *then, np.float32(lower), *numbers, *often)
        device.launch(fit, ceil(groups / WARPS), 32 * WARPS, given)
        now, then = then, now
    return _listed(maxima, *now)


def _listed(maxima, fits, numbers):
    """Return the electrons of all groups as one list."""
    n, groups = maxima.offsets.shape[0] - 1, numbers.shape[0]
    starts, same = device.empty((groups + 1,), np.int64), device.empty((groups + 1,), np.int64)
    device.launch(device.kernel(MAXIMA, "add_strips"), 1, 1024, (numbers, starts, same, np.int64(groups), np.int32(1)))
    total = int(starts[-1])
    offsets = device.empty((n + 1,), np.int64)
    columns = [device.empty((total,), np.float32) for _ in range(3)]
    lists = maxima.offsets, maxima.qx, maxima.qy, fits, numbers, starts, offsets
    write = device.kernel(FILE, "write_fits")
    device.launch(write, ceil(max(groups, n + 1) / 256), 256, (*lists, *columns, np.int64(n), np.int32(groups)))
    return Electrons(offsets, *columns)
