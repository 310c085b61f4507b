"""Radial profiles of resident patterns, each about its own origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.oracle import BY_LOT, Part, drawn, judged, right_shape
from gpu4d.benchmarks.suite.workload import (
    BANDWIDTH,
    Check,
    Place,
    Prepared,
    Size,
    Workload,
    implementations,
    pattern_sizes,
    relative_error,
)

import gpu4d

RINGS = 64
SHIFT = 4.0  # px: origins lie within a square of this side in the middle
TOLERANCE = 1e-12  # of a mean: sums are whole numbers, and one division rounds
PIECE = 1 << 23  # pixels whose rings are computed at a time: a few arrays of 64 MB
DEFINED = 8  # patterns that are compared with the definition too


def radial_sums(place: Place, size: Size, seed: int) -> Prepared:
    """Average rings of 1 px of resident patterns about the origin of each.

    Least bytes: every pattern and its origin are read once, every mean is written once. There are no flops to count: rings of pixels
    follow from the origins, and sums are of whole numbers.
    """
    xp = place.xp
    n, side = size["patterns"], size["detector"]
    x, y = np.arange(side)[:, None] - (side - 1) / 2, np.arange(side)[None, :] - (side - 1) / 2
    expected = 0.2 + 400.0 / (4.0 + np.sqrt(x * x + y * y)) + 8.0 * (data.disk((side, side), 32.0, ((side - 1) / 2,) * 2, 4.0))
    patterns = data.counts(xp, expected[None], np.zeros(n, np.int64), seed)
    origins = (side - 1) / 2 + SHIFT * (data.uniform(seed + 1, 2 * n).reshape(n, 2) - 0.5)
    cube = gpu4d.DataCube(patterns.reshape(n // 64, 64, side, side))
    reduction = gpu4d.RadialProfile(origins.reshape(n // 64, 64, 2), n_r=RINGS)

    def call() -> Any:
        return gpu4d.sweep(cube, reduction, device=place.device, progress=False)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        return {"profiles": place.host(found)}

    def check(found: dict[str, np.ndarray]) -> Check:
        right_shape("profiles", found["profiles"], (n // 64, 64, RINGS))
        profiles = found["profiles"].reshape(n, RINGS)
        sums, pixels = _rings(place, patterns, origins)
        some = drawn(n, DEFINED)
        with gpu4d.using("definition"):
            defined = gpu4d.radial_profile(place.host(patterns[xp.asarray(some)]), origins[some], n_r=RINGS)
        parts = {
            "profiles": Part(np.abs(profiles - sums / pixels) / np.maximum(sums / pixels, 1.0), TOLERANCE),
            "profiles (definition)": Part(relative_error(profiles[some], defined), TOLERANCE),
            "all counts inside": Part(np.abs((profiles * pixels).sum(1) - sums.sum(1)) / sums.sum(1), TOLERANCE),
        }
        return judged(parts, profiles.size, f"whole sums over all patterns, and the definition for {DEFINED} patterns {BY_LOT}")

    return Prepared(
        call,
        arrays,
        check,
        n,
        data.digest(xp, patterns, xp.asarray(origins)),
        bytes=float(patterns.nbytes + 16 * n + 8 * RINGS * n),
        moved="read",
        implementation=implementations(patterns, "radial_sums"),
    )


def _rings(place: Place, patterns: Any, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and pixels of all rings (n, rings), as float64 that hold whole numbers, some patterns at a time."""
    xp, (n, side, _) = place.xp, patterns.shape
    centres, axis = xp.asarray(origins), xp.arange(side, dtype=np.float64)
    step = max(1, PIECE // (side * side))
    sums: list[np.ndarray] = []
    pixels: list[np.ndarray] = []
    for i in range(0, n, step):
        some, at = patterns[i : i + step], centres[i : i + step]
        x, y = axis[None, :, None] - at[:, 0, None, None], axis[None, None, :] - at[:, 1, None, None]
        ring = xp.minimum(xp.sqrt(x * x + y * y) * (RINGS / (side / 2)), RINGS).astype(np.int64)  # what lies outside is the last ring
        ring += (RINGS + 1) * xp.arange(len(some))[:, None, None]
        for kept, weights in ((sums, some.reshape(-1).astype(np.float64)), (pixels, None)):
            counted = xp.bincount(ring.reshape(-1), weights, minlength=(RINGS + 1) * len(some))
            kept.append(place.host(counted).reshape(len(some), RINGS + 1)[:, :RINGS].astype(float))
    return np.concatenate(sums), np.concatenate(pixels)


WORKLOADS = [
    Workload(
        "radial-sums",
        "radial profiles, each about its own origin",
        BANDWIDTH,
        "patterns",
        pattern_sizes(quick=128, S=1024, M=32768, L=262144),
        radial_sums,
        "Mean counts in 64 rings about the origin of each pattern: what glasses, ring strain and fluctuation microscopy begin with.",
    ),
]
