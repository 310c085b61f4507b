"""Example inputs of `separate_disks`."""

import numpy as np
from operations.comparing import Example
from operations.examples.joint_fit import HEIGHTS, PLACES, RADIUS, SHAPE, crowded_frames

import gpu4d

KNOWN = (0, 2, 3, 4, 5, 6)  # of the places: what a correlation would find. The others are hidden


def examples() -> list[Example]:
    """Every number of parameters and pixel type; masks; a NaN; no room for hidden disks; disks that are not there; nothing."""
    from gpu4d.bragg.likelihood.poisson_fit import disk_profile, poisson_fit

    profile = disk_profile(gpu4d.probe.synthetic((33, 33), RADIUS))
    table = (profile.table, profile.pixels)
    twin = (0.0,) + (2e-5,) * 2 + (1e-4,) * 3 + (0.0,) * 2
    allowed = np.zeros(SHAPE, bool)
    allowed[2:-2, 2:-2] = True
    base = {"radius": profile.radius, "spacing": profile.spacing, "significance": 4.0}
    frames = crowded_frames(2)
    mask = np.ones(SHAPE, bool)
    mask[16:18, 8:20] = mask[30, :] = False

    def example(label: str, some: np.ndarray = frames, places: int = 10, wrong: int = 0, **options: object) -> Example:
        n = len(some)
        given = np.random.default_rng(2).uniform(-0.4, 0.4, (n, places, 2))
        given[:, : len(KNOWN)] += PLACES[list(KNOWN)]
        height = np.zeros((n, places))
        height[:, : len(KNOWN)] = HEIGHTS[list(KNOWN)]
        count = np.full(n, len(KNOWN))
        count[1:] -= 2
        if wrong:
            given[:, 1] = 44.0, 36.0  # no disk there
        x, y = given[..., 0].copy(), given[..., 1].copy()
        with gpu4d.using("definition"):
            single = {"mask": options.get("mask"), "spacing": profile.spacing, "parameters": options.get("parameters", 6)}
            fit = poisson_fit(some, x, y, count, *table, **single)
        fits = (fit.x, fit.y, fit.amplitude, fit.xx, fit.yy, fit.ok)
        found = (some, count, height, *fits, *table, allowed)
        return Example(label, found, {**base, **options}, twin=twin)

    broken = frames.astype("float32")
    broken[0, 14, 12] = np.nan
    return [
        *(example(f"{p}-parameters", parameters=p) for p in (4, 6, 8)),
        *(example(str(np.dtype(t)), np.minimum(frames[1:], 255).astype(t)) for t in ("uint8", "uint32", "float32")),
        example("mask", mask=mask),
        example("not-a-number", broken),
        example("no-room", places=len(KNOWN)),
        example("no-disk-there", frames[:1], wrong=1),
        example("few-counts", crowded_frames(1, 0.3), significance=2.5),
        example("none", frames[:0]),
    ]
