"""Example inputs of `center_of_mass`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames


def examples() -> list[Example]:
    """Stacks, single patterns, whole scans, masks over broken pixels, sums that are negative."""
    found = [Example(label, (f,)) for label, f in frames().items()]
    broken = disks((2, 3, 9, 12), "float32")
    broken[:, :, 4, 5] = np.nan
    broken[1, 1, 0, 0] = np.inf
    mask = np.ones((9, 12), bool)
    mask[4, 5] = False
    return [
        *found,
        Example("pattern", (disks((9, 12)),)),
        Example("scan", (disks((2, 3, 9, 12)),)),
        Example("mask", (broken, mask)),
        Example("negative", (disks((3, 9, 12), "int16") - np.int16(40),)),
    ]
