"""Example inputs of `gather_pixels`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames


def examples() -> list[Example]:
    """Scattered and neighbouring pixels, none, more than a tile; both dtypes of the answer."""
    rng = np.random.default_rng(22)
    found = []
    for label, f in frames().items():
        index = np.sort(rng.choice(f.shape[1] * f.shape[2], 37, replace=False))
        found += [Example(label, (f, index)), Example(f"{label}-real", (f, index), {"real": True})]
    many = disks((70, 9, 12))
    return [*found, Example("tiles", (many, np.arange(5, 100))), Example("no-pixels", (many, np.arange(0)))]
