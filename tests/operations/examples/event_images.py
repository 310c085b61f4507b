"""Example inputs of `event_images`."""

import numpy as np
from operations.comparing import Example
from operations.examples.event_sums import PIXELS, events


def examples() -> list[Example]:
    """Some pixels, all, none."""
    some = np.full(PIXELS, -1)
    some[[3, 40, 41, 7]] = [2, 0, 1, 3]
    found = [Example(label, (*given, some, 4)) for label, given in events().items()]
    every = Example("all", (*events()["once"], np.arange(PIXELS), PIXELS))
    return [*found, every, Example("none", (*events()["once"], np.full(PIXELS, -1), 0))]
