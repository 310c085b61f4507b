"""Example inputs of `integrate_gradient`."""

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    """Odd grids, holes, each boundary, one row."""
    rng = np.random.default_rng(9)
    field = rng.normal(size=(7, 10, 2))
    holes = field.copy()
    holes[2, 3] = np.nan
    return [
        Example("mirror", (field,), double=1e-10),
        Example("single", (field.astype("float32"), 2.0, 1e-3, 1e-6), double=1e-5),
        Example("periodic", (field,), {"boundary": "periodic"}, double=1e-10),
        Example("padded", (field,), {"boundary": "padded", "max_iterations": 5}, double=1e-9),
        Example("stack", (rng.normal(size=(2, 5, 4, 2)),), double=1e-10),
        Example("holes", (holes,), {"max_iterations": 5}, double=1e-9),
        Example("all-nan", (np.full((4, 5, 2), np.nan),)),
        Example("one-row", (rng.normal(size=(1, 6, 2)),), double=1e-10),
    ]
