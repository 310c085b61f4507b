"""Example inputs of `radial_sums`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames, some_masks, with_gaps


def examples() -> list[Example]:
    """Origins on and off the detector, on pixels and between, unknown; ellipses, masks, rings of less than a pixel."""
    rng = np.random.default_rng(13)
    found = []
    for label, f in frames().items():
        origins = rng.uniform(-1, 12, (f.shape[0], 2))
        origins[:1], origins[1:2] = (5.0, 4.0), (np.nan, 3.0)
        found.append(Example(label, (f, origins)))
    counts, real = disks((2, 3, 19, 70)), with_gaps(disks((3, 9, 12), "float32"))
    mask = some_masks((9, 12))[0] | (np.arange(12) > 6)
    real[2, 4, 5:] = np.nan
    tilted = {"ellipse": (1.2, 1.0, 0.7)}
    return [
        *found,
        Example("scan", (counts, rng.uniform(8, 11, (2, 3, 2))), {"n_r": 50, **tilted}),
        Example("one-origin", (counts[0], np.asarray([9.0, 35.0])), {"r_max": 40.0, "n_r": 23}),
        Example("pattern", (counts[0, 0], np.asarray([9.5, 30.25])), {"r_max": 36.4}),
        Example("mask", (real, np.asarray([4.0, 6.0])), {"mask": mask, "r_max": 9.0, **tilted}),
        Example("uint32", (counts[0].astype("uint32") * 1_000_003, np.asarray([9.0, 35.0]))),
    ]
