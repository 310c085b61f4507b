"""Example inputs of `hot_pixel_median`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import frames


def examples() -> list[Example]:
    """Hot pixels in the field, at the border, beside each other, under a mask; empty and broken frames."""
    rng = np.random.default_rng(12)
    mask = np.ones((11, 14), bool)
    mask[4:6, 3], mask[0, 0] = False, False
    found = []
    for label, f in frames().items():
        f = f.copy()
        for i in range(0, f.shape[0], 2):
            f[i, rng.integers(0, f.shape[1], 4), rng.integers(0, f.shape[2], 4)] = 120
        found.append(Example(label, (f,)))
    counts = found[0].args[0]
    real = counts.astype("float32")
    real[1, 3, 4], real[2] = np.nan, np.nan
    return [
        *found,
        Example("mask", (counts,), {"mask": mask, "threshold": 3.0}),
        Example("mask-gaps", (real / np.float32(7.0),), {"mask": mask, "unit": 0.2, "noise": 0.1}),
        Example("all-masked", (counts,), {"mask": ~(mask | True)}),
        Example("uint32", (counts.astype("uint32") * 70_000_001,), {"unit": 70_000_001.0}),
        Example("row", (counts[0, :1],)),
        Example("wide", (rng.poisson(2, (2, 19, 40)).astype("uint8"),), {"threshold": 1.5}),
    ]
