"""Example inputs of `ring_moments`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames, some_masks, with_gaps


def examples() -> list[Example]:
    """Origins on and off the detector and unknown; one ellipse for all, one for each pattern, matrices; masks, medians, corners."""
    rng = np.random.default_rng(13)
    found = []
    for label, f in frames().items():
        origins = rng.uniform(-1, 12, (f.shape[0], 2))
        origins[:1], origins[1:2] = (5.0, 4.0), (np.nan, 3.0)
        found.append(Example(label, (f, origins), {"median": True}))
    counts, real = disks((2, 3, 19, 70)), with_gaps(disks((3, 9, 12), "float32"))
    mask = some_masks((9, 12))[0] | (np.arange(12) > 6)
    real[2, 4, 5:] = np.nan
    stretched = np.stack([rng.uniform(1.0, 1.3, (2, 3)), np.ones((2, 3)), rng.uniform(0, 3, (2, 3))], axis=-1)
    stretched[0, 1, 0] = np.nan
    skewed = np.eye(2) + rng.uniform(-0.2, 0.2, (2, 3, 2, 2))
    everywhere = rng.uniform(8, 11, (2, 3, 2))
    return [
        *found,
        Example("ellipses", (counts, everywhere), {"n_r": 50, "ellipse": stretched}),
        Example("matrices", (counts.astype("uint8"), everywhere), {"n_r": 50, "r_max": 60.0, "ellipse": skewed, "median": True}),
        Example("one-origin", (np.tile(counts[0], (7, 1, 1)), np.asarray([9.0, 35.0])), {"r_max": 40.0, "n_r": 23}),
        Example("corners", (counts[0], np.asarray([9.5, 30.25])), {"r_max": 43.0, "median": True, "ellipse": np.asarray([1.2, 1.0, 0.7])}),
        Example("mask", (real, np.asarray([4.0, 6.0])), {"mask": mask, "r_max": 9.0, "median": True}),
        Example("negative", (-real, np.asarray([4.0, 6.0])), {"n_r": 2, "median": True}),
        Example("int16", (counts[0].astype("int16") - np.int16(40), np.asarray([9.0, 35.0])), {"median": True}),
        Example("uint32", (counts[0].astype("uint32") * 1_000_003, np.asarray([9.0, 35.0])), {"median": True}),
    ]
