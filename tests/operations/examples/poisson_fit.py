"""Example inputs of `poisson_fit`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import bragg_frames, bragg_stacks

import gpu4d


def examples() -> list[Example]:
    """Every number of parameters and pixel type; disks over the border, lost, empty, NaN; a mask; more slots than disks; none."""
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile

    profile = disk_profile(gpu4d.probe.synthetic((33, 33), 3.2))
    table = (profile.table, profile.pixels)
    twin = (1e-6, 1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5, 0.0)
    places = np.asarray([(0.5, 0.5), (0.28, 0.3), (0.72, 0.25), (0.3, 0.75), (0.75, 0.7), (0.02, 0.4), (0.9, 0.99)])

    def starts(frames: np.ndarray) -> tuple[np.ndarray, ...]:
        n, nx, ny = frames.shape
        at = places * (nx, ny) + np.random.default_rng(n).uniform(-0.3, 0.3, (n, len(places), 2))
        count = np.full(n, len(places))
        count[1:2] = 3
        return at[..., 0], at[..., 1], count

    found = []
    for (label, frames), parameters in zip(bragg_stacks().items(), (6, 8, 4, 6, 6, 8)):
        found.append(Example(label, (frames, *starts(frames), *table), {"parameters": parameters}, twin=twin))
    frames = bragg_frames((41, 48), 2)
    x, y, count = starts(frames)
    mask = np.ones((41, 48), bool)
    mask[18:21, 20:26] = mask[30:, 12] = False
    unknown = x.copy()
    unknown[0, :2] = np.nan, 1e9
    return [
        *found,
        # four steps: one of these disks is still on its way after three, where rounding counts for as much as what is left to go
        Example("mask", (frames, x, y, count, *table), {"mask": mask, "iterations": 4}, twin=twin),
        Example("far-starts", (frames, x + 1.4, y - 1.2, count, *table), {"iterations": 5}, twin=twin),
        Example("unknown-starts", (frames, unknown, y, count, *table), {"spacing": 5.0, "iterations": 4}, twin=twin),
        Example("crowded", (frames, x, y, count, *table), {"spacing": 14.0}, twin=twin),
        Example("no-disks", (frames, x, y, 0 * count, *table), twin=twin),
        Example("none", (frames[:0], x[:0], y[:0], count[:0], *table), twin=twin),
    ]
