"""Example inputs of `joint_fit`."""

import numpy as np
from operations.comparing import Example

import gpu4d

RADIUS, SHAPE = 3.2, (52, 47)
# A bright disk with a weak one on its rim, three in a row, one at the border, and one far from all others.
PLACES = np.asarray([(14.3, 12.7), (20.6, 13.4), (15.2, 30.1), (22.1, 31.0), (29.4, 30.3), (40.2, 1.7), (42.3, 21.4)])
HEIGHTS = np.asarray([400.0, 40.0, 150.0, 300.0, 90.0, 120.0, 200.0])


def crowded_frames(n: int, dose: float = 1.0) -> np.ndarray:
    """Poisson counts of these disks on a background with a slope."""
    x, y = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])[None, :]
    mean = 2 + 0.05 * x + 0.02 * y
    for place, height in zip(PLACES, HEIGHTS):
        r = np.hypot(x - place[0], y - place[1])
        mean = mean + height / (1 + np.exp(4 * (r - RADIUS)))
    return np.random.default_rng(4).poisson(dose * mean, (n, *SHAPE)).astype("uint16")


def examples() -> list[Example]:
    """Every number of parameters; masks; disks at the border; roles that fit a group or do not; a NaN; a disk that is not there."""
    from gpu4d.bragg.likelihood.joint_fit import ALONE, HIDDEN, NONE, OPEN
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile

    profile = disk_profile(gpu4d.probe.synthetic((33, 33), RADIUS))
    table, spacing = (profile.table, profile.pixels), 2 * profile.reach
    twin = (2e-5,) * 2 + (1e-4,) * 6 + (0.0,) * 2  # steps end within a part of the standard error
    frames = crowded_frames(2)
    start = PLACES + np.random.default_rng(1).uniform(-0.7, 0.7, (2, *PLACES.shape))
    x, y, height = start[..., 0], start[..., 1], np.broadcast_to(HEIGHTS, start.shape[:2]).copy()
    role = np.full(height.shape, OPEN)
    base = {"spacing": spacing, "shadow": 4.2 * RADIUS, "significance": 4.0}

    def example(label: str, roles: np.ndarray, some: np.ndarray = frames, at: tuple = (x, y), **options: object) -> Example:
        return Example(label, (some, *at, height, roles, *table), {**base, **options}, twin=twin)

    mask = np.ones(SHAPE, bool)
    mask[16:18, 8:20] = mask[30, :] = False
    mixed = role.copy()
    mixed[0, :2], mixed[0, 2:5], mixed[1, :2], mixed[1, 5:] = (ALONE, HIDDEN), ALONE, (HIDDEN, NONE), NONE
    broken = frames.astype("float32")
    broken[0, 14, 12] = np.nan
    wrong = (x.copy(), y.copy())
    wrong[0][:, 6], wrong[1][:, 6] = 42.0, 36.0  # no disk there
    return [
        *(example(f"{p}-parameters", role, parameters=p) for p in (4, 6, 8)),
        example("mask", role, mask=mask),
        example("roles", mixed),
        example("not-a-number", role, broken),
        example("no-disk-there", mixed * 0 + HIDDEN, at=wrong),
        example("few-counts", role, crowded_frames(2, 0.3), significance=2.0),
        example("nothing-to-do", role * 0 + ALONE, shadow=0.0),
        Example("none", (frames[:0], x[:0], y[:0], height[:0], role[:0], *table), base, twin=twin),
    ]
