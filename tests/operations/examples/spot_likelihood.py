"""Example inputs of `spot_likelihood`: counts and floats with a NaN, a masked disk, disks at and beyond the border, NaN."""

import numpy as np
from operations.comparing import Example

LOGARITHMS = (1e-6,)  # the kernel takes them in single precision


def examples() -> list[Example]:
    rng = np.random.default_rng(8)
    made = []
    for kind in ("uint16", "float32"):
        patterns = rng.poisson(0.7, (3, 17, 22)).astype(kind)
        if np.dtype(kind).kind == "f":
            patterns[1, 4, 5] = np.nan
        usable = rng.random(patterns.shape) > 0.1
        usable[2, :8] = False
        number = rng.integers(0, 3, 30)
        spots = np.stack([rng.uniform(-3, 20, 30), rng.uniform(-3, 25, 30), rng.uniform(0, 4, 30)], -1)
        spots[:, :2] += 0.01  # no position halfway between two pixels
        origins, background = np.tile([8.0, 11.0], (3, 1)) + rng.normal(size=(3, 2)), np.exp(-0.2 * np.arange(14.0))
        arrays = patterns, usable, number, spots, origins, background
        made.append(Example(kind, arrays, {"radius": 2.2, "relative": 0.3}, twin=(1e-11,), cuda=LOGARITHMS))
    none = patterns[:0], usable[:0], number[:0], spots[:0], origins[:0], background[:1]
    return [*made, Example("no disks", none, {"radius": 2.0, "relative": 0.1})]
