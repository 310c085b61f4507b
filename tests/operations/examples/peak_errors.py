"""Example inputs of `peak_errors`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import smooth_maxima


def examples() -> list[Example]:
    """A template's window inside and over the border, whole pixels, a map without a maximum, negative and NaN counts."""
    twin = (2e-2, 2e-2)  # the Hessian is taken at the nearest 1/64 px
    maps, px, py, count = smooth_maxima((3, 33, 40), 9, 3)
    counts = np.random.default_rng(3).poisson(5 + 20 * maps.clip(0)).astype(np.float32)
    counts[1, 4:7, 9] = -3, np.nan, -1
    slopes = np.random.default_rng(4).normal(size=(2, 7, 5))
    box = np.stack([slopes[0] ** 2, slopes[0] ** 2, slopes[0] * slopes[1] / 2, slopes[1] ** 2]).astype(np.float32)
    x, y = px + 0.3, py - 0.2
    x[0, 0], y[0, 0] = 0.2, 39.4
    return [
        Example("positions", (counts, maps, box, x, y, count), twin=twin),
        Example("whole-pixels", (counts, maps, box, px.astype(float), py.astype(float), count), {"grid": True}, twin=twin),
        Example("zero-peaks", (counts, maps, box, x, y, 0 * count), twin=twin),
        Example("none", (counts[:0], maps[:0], box, x[:0], y[:0], count[:0]), twin=twin),
    ]
