"""Example inputs of `hidden_disks`."""

import numpy as np
from operations.comparing import Example
from operations.examples.joint_fit import HEIGHTS, PLACES, RADIUS, SHAPE, crowded_frames

import gpu4d


def examples() -> list[Example]:
    """Hidden disks beside one or all disks; masks; places at the border; disks of which only the place is known; a NaN; nothing."""
    from gpu4d.bragg.likelihood.hidden_disks import FITTED, PLACED
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile

    profile = disk_profile(gpu4d.probe.synthetic((33, 33), RADIUS))
    table = (profile.table, profile.pixels)
    frames = crowded_frames(3)
    x, y = (np.broadcast_to(PLACES[:, i], (3, len(PLACES))).copy() for i in (0, 1))
    height = np.broadcast_to(HEIGHTS, x.shape).copy()
    allowed = np.zeros(SHAPE, bool)
    allowed[2:-2, 2:-2] = True
    known = np.full(x.shape, FITTED)
    known[0, 1] = known[1, [2, 4]] = 0
    known[2, :] = 0
    known[2, 0], known[2, 3] = FITTED, PLACED
    mask = np.ones(SHAPE, bool)
    mask[20:22, 10:17] = False
    broken = frames.astype("float32")
    broken[0, 16, 14] = np.nan
    base = {"radius": RADIUS, "least": 4.0}

    def example(label: str, some: np.ndarray = frames, around: int = 2, **options: object) -> Example:
        return Example(
            label, (some, x, y, height, known, np.full(len(some), around), *table, allowed), {**base, **options}, twin=(0.0,) * 3
        )

    return [
        example("brightest"),
        example("all", around=9),
        example("none-examined", around=0),
        example("mask", around=9, mask=mask),
        example("not-a-number", broken, around=9),
        example("small-disks", around=9, radius=1.5),
        example("high-limit", around=9, least=1000.0),
        Example("none", (frames[:0], x[:0], y[:0], height[:0], known[:0], np.zeros(0, int), *table, allowed), base),
    ]
