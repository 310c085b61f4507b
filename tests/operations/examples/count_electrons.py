"""Example inputs of `count_electrons`."""

from typing import Any

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    """Ties, borders, bad pixels, a gain, more pixels than a block takes; the lists are equal to the last bit."""
    rng = np.random.default_rng(11)

    def one(label: str, f: np.ndarray, **options: Any) -> Example:
        dark = rng.uniform(0.0, 2.0, f.shape[-2:])
        return Example(label, (f, dark, 0.4, 6.0), {"electron": 5.0, **options}, shapes_depend_on_values=True, double=0.0, single=0.0)

    shape = (6, 97, 90)  # more than 8192 pixels
    raw = (rng.poisson(0.05, shape) * rng.integers(3, 40, shape)).astype("uint16")
    raw[0], raw[1, 10:13, 20:23] = 0, 12  # an empty frame, a plateau
    real = raw.astype("float32")
    real[2], real[3, 5, 6] = np.nan, np.nan
    mask, gain = np.ones(shape[1:], bool), rng.uniform(0.5, 2.0, shape[1:])
    mask[3:9, :40], gain[50, 60], gain[51, 62] = False, 0.0, np.nan
    return [
        one("uint16", raw),
        one("corrected", raw.astype("uint8"), gain=gain, mask=mask),
        one("gaps", real, mask=mask),
        one("uint32", raw[:, :5, :7].astype("uint32")),
        one("int16", raw[:, :9, :8].astype("int16")),
        one("ties", np.tile(np.asarray([[0, 9], [9, 9]], "uint8"), (2, 3, 4, 5))),
        one("one-pixel", np.asarray([[9]], "uint16")),
        one("none", raw[:0]),
    ]
