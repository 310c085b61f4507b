"""Example inputs of `masked_sums`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import disks, frames, some_masks, with_gaps


def examples() -> list[Example]:
    """Bool masks, weights, and none at all."""
    found = [Example(label, (f, some_masks(f.shape[1:]))) for label, f in frames().items()]
    counts, real = disks((3, 9, 12)), with_gaps(disks((3, 9, 12), "float32"))
    weights = np.linspace(-1, 2, 2 * 9 * 12).reshape(2, 9, 12)
    weights[:, 4:6, :] = 0
    real[2, 4, :] = np.nan  # under the weights that are zero: it must not be seen
    return [
        *found,
        Example("weights", (counts, weights)),
        Example("weights-gaps", (real, weights.astype("float32"))),
        Example("no-masks", (counts, np.zeros((0, 9, 12), bool))),
    ]
