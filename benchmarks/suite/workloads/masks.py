"""Sums of resident patterns under 64 masks of weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.oracle import BY_LOT, Part, drawn, judged, right_shape
from gpu4d.benchmarks.suite.workload import BANDWIDTH, Check, Place, Prepared, Size, Workload, implementations, pattern_sizes
from gpu4d.benchmarks.suite.workloads.reductions import disk_patterns

import gpu4d

MASKS = 64
TOLERANCE = 1e-6  # of a sum: products of counts with 24-bit weights in single precision keep it if their sums are compensated
PIECE = 1 << 25  # pixels that are converted to float64 at a time: 256 MB
ON_HOST = 1024  # patterns whose sums NumPy computes as well, where the array library is another one


def masks_64(place: Place, size: Size, seed: int) -> Prepared:
    """Sum resident patterns under 64 masks of weights.

    Least bytes: every pattern and every mask is read once, every sum is written once. Least flops: a product and a sum for each pixel and
    mask, because weights without zeros and without structure leave no shortcut.
    """
    n, side = size["patterns"], size["detector"]
    patterns = disk_patterns(place, n, side, seed)
    masks = data.uniform(seed + 1, MASKS * side * side).reshape(MASKS, side, side)
    masks = np.round(masks * 2.0**24) / 2.0**24  # exact in single precision too
    cube = gpu4d.DataCube(patterns.reshape(n // 64, 64, side, side))
    detector = {str(i): mask for i, mask in enumerate(masks)}

    def call() -> Any:
        return gpu4d.virtual_image(cube, detector, device=place.device, progress=False)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        return {"images": place.host(found.data)}

    def check(found: dict[str, np.ndarray]) -> Check:
        right_shape("images", found["images"], (MASKS, n // 64, 64))
        images = found["images"].reshape(MASKS, n)
        want = _products(place, patterns, masks)
        parts = {"images": Part(np.abs(images - want) / want, TOLERANCE)}
        if place.on_gpu:
            some = drawn(n, ON_HOST)
            own = place.host(patterns[place.xp.asarray(some)]).reshape(len(some), -1).astype(float) @ masks.reshape(MASKS, -1).T
            parts["images (NumPy)"] = Part(np.abs(images[:, some] - own.T) / own.T, TOLERANCE)
        library = f"CuPy, and of NumPy for {ON_HOST} patterns {BY_LOT}" if place.on_gpu else "NumPy"
        return judged(parts, images.size, f"float64 matrix products of {library}, over all patterns")

    return Prepared(
        call,
        arrays,
        check,
        n,
        data.digest(place.xp, patterns, place.xp.asarray(masks)),
        bytes=float(patterns.nbytes + 8 * masks.size + 8 * MASKS * n),
        flops=2.0 * masks.size * n,
        rate="gemm",
        moved="read",
        implementation=implementations(patterns, "masked_sums"),
        inputs=lambda: {"patterns": place.host(patterns).reshape(cube.shape), "masks": masks},
    )


def _products(place: Place, patterns: Any, masks: np.ndarray) -> np.ndarray:
    """Return the sums (masks, n) as matrix products in float64 of the array library, some patterns at a time."""
    xp = place.xp
    n, pixels = len(patterns), masks[0].size
    weights = xp.asarray(masks.reshape(len(masks), pixels).T.copy())
    step = max(1, PIECE // pixels)
    parts = [place.host(patterns[i : i + step].reshape(-1, pixels).astype(np.float64) @ weights) for i in range(0, n, step)]
    return np.concatenate(parts).T


WORKLOADS = [
    Workload(
        "masks-64",
        "64 masks of weights",
        BANDWIDTH,
        "patterns",
        pattern_sizes(quick=64, S=1024, M=32768, L=262144),
        masks_64,
        "Sums of resident patterns under 64 masks of float64 weights, as components of a factorisation or segments with soft edges have.",
    ),
]
