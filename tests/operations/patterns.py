"""Patterns that the example inputs of several operations are made of."""

from typing import Any

import numpy as np


def disks(shape: tuple[int, ...], dtype: Any = "uint16", seed: int = 0) -> np.ndarray:
    """Patterns (..., Qx, Qy) of a few soft disks with counting noise."""
    rng = np.random.default_rng(seed)
    *scan, nx, ny = shape
    x, y = np.arange(nx)[:, None], np.arange(ny)[None, :]
    out = np.zeros((int(np.prod(scan)), nx, ny))
    for pattern in out:
        for cx, cy in ((0.5, 0.5), (0.25, 0.7), (0.75, 0.3)):
            centre = np.array([cx * nx, cy * ny]) + rng.uniform(-0.5, 0.5, 2)
            pattern += 60 / (1 + np.exp(2 * (np.hypot(x - centre[0], y - centre[1]) - 2.5)))
    return rng.poisson(out + 0.5).reshape(shape).astype(dtype)


def with_gaps(patterns: np.ndarray) -> np.ndarray:
    """A copy whose first pattern is empty and, where the dtype has it, whose second is all NaN."""
    out = patterns.copy()
    out[0] = 0
    if out.dtype.kind == "f":
        out[1] = np.nan
    return out


def frames() -> dict[str, np.ndarray]:
    """What every operation on a stack (n, Qx, Qy) must take, by label."""
    counts = disks((5, 11, 14))
    return {
        "uint16": counts,
        "uint8-empty-first": with_gaps(disks((3, 9, 16), "uint8", 1)),
        "int32": disks((2, 8, 8), "int32", 2),
        "float32": disks((4, 13, 10), "float32", 3),
        "float64-gaps": with_gaps(disks((4, 10, 13), "float64", 4)),
        "one": disks((1, 7, 12), "uint16", 5),
        "none": np.zeros((0, 6, 9), "uint16"),
        "view": disks((6, 22, 14))[::2, ::2, :],
    }


def some_masks(shape: tuple[int, int], dtype: Any = bool) -> np.ndarray:
    """Masks (3, Qx, Qy): a checkerboard, a corner, nothing."""
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return np.stack([(x + y) % 2 == 0, (x < 4) & (y < 3), (x < 0) & (y < 0)]).astype(dtype)


def bragg_frames(shape: tuple[int, int], n: int, dtype: Any = "uint16", seed: int = 0) -> np.ndarray:
    """Patterns (n, Qx, Qy) of disks that are clearly unequal, so that their order is the same in single precision."""
    rng = np.random.default_rng(seed)
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    out = np.full((n, *shape), 2.0)
    for pattern in out:
        shift = rng.uniform(-0.7, 0.7, 2)
        for (fx, fy), height in zip(((0.5, 0.5), (0.28, 0.3), (0.72, 0.25), (0.3, 0.75), (0.75, 0.7)), (400, 250, 150, 90, 50)):
            r = np.hypot(x - fx * shape[0] - shift[0], y - fy * shape[1] - shift[1])
            pattern += height / (1 + np.exp(np.minimum(4 * (r - 3.2), 99)))
    return rng.poisson(out).astype(dtype)


def bragg_stacks() -> dict[str, np.ndarray]:
    """Stacks of such patterns by label: pixel types, odd and long detectors, empty and NaN patterns."""
    return {
        "uint16": bragg_frames((41, 48), 3),
        "uint8": (bragg_frames((35, 33), 2, "uint16", 1) // 4).astype("uint8"),
        "uint32": bragg_frames((33, 52), 2, "uint32", 2),
        "float32-gaps": with_gaps(bragg_frames((40, 37), 3, "float32", 3)),
        "uint16-gaps": with_gaps(bragg_frames((36, 40), 2, "uint16", 4)),
        "float64": bragg_frames((36, 36), 1, "float64", 5),
    }


def smooth_maxima(shape: tuple[int, int, int], most: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Maps of unequal smooth hills (n, Qx, Qy) float32 with the pixels of their maxima, and how many each has."""
    rng = np.random.default_rng(seed)
    n, nx, ny = shape
    x, y = np.arange(nx)[:, None], np.arange(ny)[None, :]
    maps = np.zeros(shape)
    at = np.zeros((2, n, most), np.int32)
    for i in range(n):
        for k in range(most):  # on a loose grid, so that none hides another
            cx, cy = (k // 3 + 0.5) * nx / -(-most // 3) + rng.uniform(-1, 1), (k % 3 + 0.5) * ny / 3 + rng.uniform(-1, 1)
            maps[i] += (1 + k % 7) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 6)
            at[:, i, k] = round(cx), round(cy)
    return maps.astype(np.float32), at[0], at[1], rng.integers(1, most + 1, n)
