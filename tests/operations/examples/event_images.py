"""Example inputs of `event_images`."""

import numpy as np
from operations.comparing import Example
from operations.examples.event_sums import PIXELS, events


def examples() -> list[Example]:
    """Some pixels, all, none."""
    some = np.full(PIXELS, -1)
    some[[3, 40, 41, 7]] = [2, 0, 1, 3]
    kinds = {"once": "uint8", "counts": "int64", "large": "float64", "empty": "uint16"}
    found = [Example(label, (*given, some, 4, kinds.get(label, "int32"))) for label, given in events().items()]
    every = Example("all", (*events()["once"], np.arange(PIXELS), PIXELS, "uint8"))
    return [*found, every, Example("none", (*events()["once"], np.full(PIXELS, -1), 0, "float32"))]
