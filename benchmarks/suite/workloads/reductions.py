"""Reductions of resident patterns in one pass: sums under masks, centre of mass, mean and maximum."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
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
from gpu4d.device.choose import cpu_threads

BLOCK = 256  # patterns that a thread checks at a time: 34 MB in float64
TOLERANCE = 1e-9  # of the largest value: sums of counts are whole numbers below 2⁵³, only a quotient is rounded
RINGS = ((0.0, 12.0), (12.0, 24.0), (24.0, 40.0), (40.0, 60.0))  # px: bright field, two annular fields, dark field


def disk_patterns(place: Place, n: int, side: int, seed: int) -> Any:
    """Return n patterns of a bright-field disk that moves by up to 2 px, with counting noise, as uint16."""
    shifts = 4.0 * data.uniform(seed, 32).reshape(16, 2) - 2.0
    middle = (side - 1) / 2
    expected = np.stack([0.5 + 20.0 * data.disk((side, side), side / 10, (middle + x, middle + y)) for x, y in shifts])
    return data.counts(place.xp, expected, np.arange(n) % 16, seed)


def one_pass(place: Place, size: Size, seed: int) -> Prepared:
    """Mean, maximum, four annular images and the centre of mass of all patterns, by one sweep over resident data."""
    n, side = size["patterns"], size["detector"]
    patterns = disk_patterns(place, n, side, seed)
    cube = gpu4d.DataCube(patterns.reshape(n // 64, 64, side, side))
    middle = ((side - 1) / 2,) * 2
    masks = np.stack([gpu4d.detectors.annulus(a, b, center=middle).mask((side, side)) for a, b in RINGS])
    wanted: dict[str, Any] = {
        "mean": gpu4d.MeanPattern(),
        "max": gpu4d.MaxPattern(),
        "images": gpu4d.VirtualImage({str(i): mask for i, mask in enumerate(masks)}),
        "com": gpu4d.CenterOfMass(),
    }

    def call() -> Any:
        return gpu4d.sweep(cube, wanted, device=place.device, progress=False)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        return {name: place.host(found[name]) for name in wanted}

    def check(found: dict[str, np.ndarray]) -> Check:
        want = exact_reductions(place.host(patterns), masks)
        error = max(relative_error(found[name].reshape(value.shape), value) for name, value in want.items())
        return Check(error, TOLERANCE, sum(v.size for v in found.values()), "sums of NumPy in whole numbers over all patterns")

    return Prepared(
        call,
        arrays,
        check,
        n,
        data.digest(place.xp, patterns),
        bytes=float(patterns.nbytes + 48 * n),
        moved="read",
        implementation=implementations(patterns, "frame_reductions", "pattern_sums", "pattern_maximum"),
        inputs=lambda: {"patterns": place.host(patterns).reshape(cube.shape), "masks": masks},
    )


def exact_reductions(patterns: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Return mean and maximum (Qx, Qy), images (M, N) and centre of mass (2, N) of counts.

    Sums are whole numbers below 2⁵³, which are exact in float64.
    """
    n, side = len(patterns), patterns.shape[1]
    weights = masks.reshape(len(masks), -1).T.astype(float)
    images, moments = np.empty((len(masks), n)), np.empty((2, n))

    def reduced(first: int) -> tuple[np.ndarray, np.ndarray]:
        """Fill in the images and moments of a block of patterns, and return its sum and maximum."""
        values = patterns[first : first + BLOCK].astype(float)
        part = slice(first, first + len(values))
        images[:, part] = (values.reshape(len(values), -1) @ weights).T
        counts = values.sum((1, 2))
        moments[:, part] = np.stack([values.sum(2) @ np.arange(side), values.sum(1) @ np.arange(side)]) / counts
        return values.sum(0), values.max(0)

    with ThreadPoolExecutor(cpu_threads()) as threads:  # tier L has 4 · 10⁹ counts
        total, most = zip(*threads.map(reduced, range(0, n, BLOCK)), strict=True)
    return {"mean": np.sum(total, 0) / n, "max": np.max(most, 0), "images": images, "com": moments}


WORKLOADS = [
    Workload(
        "one-pass",
        "all reductions in one pass",
        BANDWIDTH,
        "patterns",
        pattern_sizes(quick=256, S=2048, M=32768, L=262144),
        one_pass,
        "Mean, maximum, four annular images and the centre of mass of resident patterns: what every analysis begins with.",
    ),
]
