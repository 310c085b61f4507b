"""Example inputs of `fit_strained_ring`."""

import numpy as np
from operations.comparing import Example

SHAPE, RADIUS, WIDTH = (45, 42), 13.0, 2.5
UNDISTORT = (0.98, -0.01, 1.0)
RADII = (7.0, 19.0)
STEP = 0.25


def profile(r: np.ndarray) -> np.ndarray:
    return 2 + 20 * np.exp(-0.5 * ((r - RADIUS) / WIDTH) ** 2)


def knots() -> np.ndarray:
    """P and its slope at radii a quarter of a pixel apart."""
    r = np.arange(0, 30, STEP)
    return np.stack([profile(r), -(r - RADIUS) / WIDTH**2 * (profile(r) - 2)], axis=-1)


def strained_frames(n: int, dose: float = 1.0, seed: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poisson counts of strained rings, origins off by half a pixel, and the strain (n, 3)."""
    rng = np.random.default_rng(seed)
    strain, middle = rng.uniform(-0.03, 0.03, (n, 3)), np.array([21.7, 20.4]) + rng.uniform(-1, 1, (n, 2))
    x, y = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    dx, dy = x - middle[:, 0, None, None], y - middle[:, 1, None, None]
    u, v = UNDISTORT[0] * dx + UNDISTORT[1] * dy, UNDISTORT[1] * dx + UNDISTORT[2] * dy
    exx, eyy, exy = (strain[:, i, None, None] for i in range(3))
    expected = dose * profile(np.hypot((1 + exx) * u + exy * v, exy * u + (1 + eyy) * v))
    return rng.poisson(expected).astype("uint16"), middle + rng.uniform(-0.5, 0.5, (n, 2)), strain


def examples() -> list[Example]:
    """All terms and none, a known origin, masks, few counts; empty patterns, a NaN inside and outside, an origin that is NaN."""
    frames, origins, _strain = strained_frames(3)
    # A twin may end one step before the definition does: up to 0.01 standard errors of 0.006
    twin = (1e-4, 2e-3, 2e-3, 1e-3, 1e-2, 1e-3)

    def example(label: str, some: np.ndarray, at: np.ndarray, **options: object) -> Example:
        return Example(label, (some, at, knots()), {"step": STEP, "radii": RADII, "undistort": UNDISTORT, **options}, twin=twin)

    mask = np.ones(SHAPE, bool)
    mask[18:22, :24] = mask[30, :] = mask[:, 3] = False
    spoiled = frames.astype("float32")
    spoiled[:, ~mask] = np.nan
    broken = np.concatenate([frames, frames, 0 * frames[:1]]).astype("float32")
    broken[1, 21, 33] = np.nan  # on the ring
    broken[2, 21, 20] = np.nan  # in its middle, where nothing is looked at
    unknown = np.concatenate([origins, origins, origins[:1]])
    unknown[4, 0] = np.nan
    return [
        example("all", frames, origins),
        example("origin-given", frames, origins, fit_origin=False),
        example("no-background", frames, origins, terms=0),
        example("constant-background", frames, origins, terms=1, undistort=(1.0, 0.0, 1.0)),
        example("mask", spoiled, origins, mask=mask),
        example("few-counts", strained_frames(3, 0.3)[0], origins),
        example("empty-and-not-a-number", broken, unknown),
        example("nothing-seen", frames, origins, mask=np.zeros(SHAPE, bool)),
        example("beyond-the-border", frames, origins + 12.0, fit_origin=False, terms=0),
        example("uint8", np.minimum(frames, 255).astype("uint8"), origins),
        example("float64", frames.astype("float64"), origins),
        example("int32", frames.astype("int32"), origins),
        example("none", frames[:0], origins[:0]),
    ]
