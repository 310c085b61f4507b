"""Launch fused_disks.cu: one block for each pattern, from counts to disks in shared memory. `supports` tests the arguments."""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import numpy as np
from gpu4d.kernels.pixels import as_bytes, contiguous

from gpu4d import arrays, device
from gpu4d.bragg.find_disks import USUAL_LIMITS, USUAL_REFINEMENT, Disks, Refinement
from gpu4d.device import tables

FILE = "fused_disks.cu"
PIXEL_TYPES = {"uint8": 0, "uint16": 1, "uint32": 2, "float32": 3}
REFINEMENTS = {None: 0, "parabola": 1, "correlation": 2}


class Plan(NamedTuple):
    """Layout for one size of pattern, as `Plan<N>` of fft.cuh."""

    kernel: str
    a: int
    b: int
    lanes: int
    pitch: int
    threads: int
    candidates: int

    def shared(self) -> int:
        """Return sizeof(Workspace<N>): plane, candidates, scratch."""
        rows, warps = self.a * self.b // 2, self.threads // 32
        return 8 * rows * self.pitch + 8 * self.candidates + -(-(12 * warps + 4) // 8) * 8


PLANS = {
    64: Plan("find_disks_64", 8, 8, 4, 68, 128, 512),
    96: Plan("find_disks_96", 8, 12, 8, 98, 192, 768),
    128: Plan("find_disks_128", 8, 16, 8, 130, 256, 1152),
    192: Plan("find_disks_192", 16, 12, 8, 194, 384, 1920),
}


def supports(shape: tuple[int, int], shared_bytes: int, *, refinement: Refinement, masked: bool, dtype: Any) -> bool:
    """Return whether the fused kernel takes patterns of this shape on a device whose blocks may have `shared_bytes`.

    It takes any two powers. A pattern is transformed once for each change of map.
    """
    nx, ny = shape
    plan = PLANS.get(nx) if nx == ny else None
    name = np.dtype(dtype).name
    return plan is not None and plan.shared() <= shared_bytes and not masked and refinement.refine in REFINEMENTS and name in PIXEL_TYPES


def find_disks(
    patterns,
    spectrum,
    moments,
    allowed,
    /,
    *,
    mask=None,
    fill_width=0.0,
    refinement=USUAL_REFINEMENT,
    limits=USUAL_LIMITS,
):
    patterns = contiguous(patterns)
    n, size, _ = patterns.shape
    plan = PLANS[size]
    counts = device.empty((n,), np.int64)
    fields = device.empty((5, n, limits.max_peaks), np.float64)
    farthest = 2 * size * size  # squared distances are below it
    arguments = (
        patterns,
        np.int32(PIXEL_TYPES[np.dtype(patterns.dtype).name]),
        np.int32(patterns.dtype.itemsize),
        *tables.made_of(spectrum, ("lane order", plan), lambda: lane_order(spectrum, plan)),
        *tables.made_of(moments, "centred", lambda: centred(moments)),
        as_bytes(allowed),
        np.float32(refinement.power),
        np.float32(refinement.refine_power),
        np.int32(REFINEMENTS[refinement.refine]),
        np.float32(limits.min_significance),
        np.float32(limits.min_relative),
        np.float32(limits.min_absolute),
        np.int32(max(1, ceil(min(limits.min_spacing**2, farthest)))),
        np.int32(limits.max_peaks),
        counts,
        fields,
    )
    device.launch(device.kernel(FILE, plan.kernel, f"SIZE={size}"), n, plan.threads, arguments, plan.shared())
    return Disks(counts, *(fields[f] for f in range(5)))


def lane_order(spectrum: Any, plan: Plan) -> tuple[Any, Any]:
    """Return the template's spectrum in the order of the column pass, and its last column.

    A warp works on 32 / lanes columns q at once; lane (q, t) holds frequencies k = t + lanes b + a k1, two of them next to each other,
    so that a warp reads 512 bytes at once. Both are halved: unpacking two real rows from one complex row leaves out a factor ½.
    """
    size, per_lane, columns = plan.a * plan.b, plan.a // plan.lanes, 32 // plan.lanes
    half = (0.5 * spectrum).astype(np.complex64)
    # axes: k1, b, t, index of the warp's pass, column
    by_lane = half[:, : size // 2].reshape(plan.b, per_lane, plan.lanes, size // 2 // columns, columns)
    values = by_lane.transpose(3, 1, 0, 4, 2).reshape(-1, per_lane * plan.b // 2, 2, 32)  # pass, pair, element of the pair, lane
    return contiguous(values.transpose(0, 1, 3, 2)), contiguous(half[:, size // 2])


def centred(moments: Any) -> tuple[Any, Any]:
    """Return moments with their centre in the middle, (4, N, N) float32, and how far from it they are not zero, (2,) int32."""
    xp = arrays.namespace(moments)
    size = moments.shape[-1]
    middle = contiguous(xp.roll(moments, (size // 2, size // 2), axis=(-2, -1)).astype(np.float32))
    away = tables.named(("away", size), lambda: np.abs(np.arange(size) - size // 2).astype(np.int32), moments)
    some = (middle != 0).any(axis=0)
    reach = [xp.max(xp.where(some.any(axis=other), away, 0 * away)) for other in (1, 0)]
    return middle, xp.stack(reach).astype(np.int32)
