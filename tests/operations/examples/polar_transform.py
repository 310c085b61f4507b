"""Example inputs of `polar_transform`."""

import itertools

import numpy as np
from operations.comparing import Example
from operations.examples import radial_sums


def examples() -> list[Example]:
    """The same, with some angles; what comes out is in single precision."""
    return [
        Example(e.label, e.args, {"n_theta": n, **e.options}, double=1e-12, twin=() if e.args[0].dtype == np.float64 else (2e-7,))
        for e, n in zip(radial_sums.examples(), itertools.cycle((12, 7, 1)))
    ]
