"""Example inputs of `tied_fit`."""

import numpy as np
from operations.comparing import Example

import gpu4d

RADIUS, SHAPE = 4.3, (45, 42)
ORDERS = np.mgrid[-1:2, -1:2].reshape(2, -1).T.astype(float)
TRUE = np.array([22.4, 20.7, 10.2, 0.4, -0.3, 9.6])


def tied_frames(n: int, dose: float = 300.0, coherence: float = 0.0) -> np.ndarray:
    """Poisson counts of nine disks, those of the last column weak, on a background with a slope."""
    x, y = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    shapes, places = [], TRUE[:2] + ORDERS @ TRUE[2:].reshape(2, 2)
    for place in places:
        shapes.append(1 / (1 + np.exp(4 * (np.hypot(x - place[0], y - place[1]) - RADIUS))))
    heights = dose * np.array([0.5, 0.3, 0.02, 0.6, 1.0, 0.05, 0.4, 0.2, 0.03])
    mean = 2 + 0.05 * x + 0.02 * y + sum(a * d for a, d in zip(heights, shapes))
    for sign, (i, j) in zip((1, -1, 1, 1), ((0, 1), (1, 4), (3, 4), (4, 7))):
        mean = mean + sign * coherence * np.sqrt(heights[i] * heights[j]) * shapes[i] * shapes[j]
    return np.random.default_rng(4).poisson(mean, (n, *SHAPE)).astype("uint16")


def examples() -> list[Example]:
    """Disks alone and with interference; masks; few counts; disks beyond the border; empty patterns, a NaN, a start that is NaN."""
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile
    from gpu4d.bragg.likelihood.tied_fit import overlapping

    profile = disk_profile(gpu4d.probe.synthetic((33, 33), RADIUS))
    table = (profile.table, profile.pixels)
    pairs, none = overlapping(ORDERS, TRUE[2:].reshape(2, 2), profile.radius + 1), np.zeros((2, 0), np.int64)
    frames = tied_frames(2)
    start = TRUE + np.random.default_rng(1).uniform(-0.3, 0.3, (2, 6))
    twin = (1e-4, 1e-3, 1e-4, 1e-4, 0.0)

    def example(
        label: str, some: np.ndarray, at: np.ndarray, hk: np.ndarray = ORDERS, two: np.ndarray = none, **options: object
    ) -> Example:
        return Example(label, (some, at, hk, two, *table), options, twin=twin)

    mask = np.ones(SHAPE, bool)
    mask[16:18, 8:20] = mask[30, :] = mask[:, 3] = False
    spoiled = frames.copy()
    spoiled[:, ~mask] = 60000
    broken = np.concatenate([frames, frames, 0 * frames[:1]]).astype("float32")
    broken[1, 14, 12] = np.nan
    unknown = np.concatenate([start, start, start[:1]])
    unknown[2, 3] = np.nan
    wide = np.mgrid[-1:4, -1:2].reshape(2, -1).T.astype(float)
    return [
        example("alone", frames, start),
        example("interfering", tied_frames(2, coherence=1.0), start, two=pairs),
        example("mask", spoiled, start, two=pairs[:, :4], mask=mask),
        example("few-counts", tied_frames(2, 4.0), start),
        example("beyond-the-border", frames, start, wide),
        example("empty-and-not-a-number", broken, unknown),
        example("on-one-axis", frames, start, ORDERS[3:6]),
        example("uint8", np.minimum(frames, 255).astype("uint8"), start),
        example("float32", frames.astype("float32"), start),
        example("none", frames[:0], start[:0]),
    ]
