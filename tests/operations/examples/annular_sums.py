"""Example inputs of `annular_sums`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames, some_masks


def examples() -> list[Example]:
    """Centres on and off the detector, full disks, a mask, an unknown centre."""
    rng = np.random.default_rng(7)
    radii = np.asarray([[-1.0, 2.5], [2.5, 4.1], [0.0, 30.0], [3.0, 3.0]])
    found = []
    for label, f in frames().items():
        centers = rng.uniform(-1, 12, (f.shape[0], 2))
        centers[1:2] = np.nan
        found.append(Example(label, (f, centers, radii)))
    counts = disks((2, 9, 12))
    centers = np.asarray([[4.0, 6.0], [3.5, 5.5]])
    return [
        *found,
        Example("mask", (counts, centers, radii), {"mask": some_masks((9, 12))[0]}),
        Example("exact-radius", (counts, centers, np.asarray([[0.0, 2.0], [2.0, 5.0]]))),
        Example("no-radii", (counts, centers, np.zeros((0, 2)))),
    ]
