"""Example inputs of `shifted_patterns`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import frames


def examples() -> list[Example]:
    """Whole, part and large moves either way; an unknown one."""
    rng = np.random.default_rng(8)
    found = []
    for label, f in frames().items():
        shifts = rng.uniform(-20, 20, (f.shape[0], 2))
        shifts[:1], shifts[1:2, 1] = (1.0, -2.0), np.nan
        found.append(Example(label, (f, shifts)))
    return found
