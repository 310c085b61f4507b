"""Example inputs of `event_sums`."""

import numpy as np
from operations.comparing import Example

PIXELS = 60  # of a detector of 6 × 10


def events() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Return offsets, pixels and counts: repeated pixels in any order, empty patterns, none at all, counts of every kind."""
    rng = np.random.default_rng(31)
    sizes = np.array([0, 5, 0, 40, 1, 300, 7])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    pixels = rng.integers(0, PIXELS, offsets[-1])
    none = np.zeros(0, np.int64)
    return {
        "once": (offsets, pixels.astype("uint16"), None),
        "counts": (offsets, pixels, rng.integers(0, 40_000, offsets[-1]).astype("uint16")),
        "large": (offsets, pixels.astype("int32"), rng.integers(0, 2**31, offsets[-1])),
        "empty": (np.zeros(4, np.int64), none, none.astype("uint8")),
        "no-patterns": (np.zeros(1, np.int64), none, None),
    }


def examples() -> list[Example]:
    """Masks, moments and large weights; one column and many."""
    rng = np.random.default_rng(32)
    x, y = np.divmod(np.arange(PIXELS), 10)
    weights = np.stack([x, y, np.ones_like(x), x > 2, -x], axis=-1).astype(np.int64)
    found = [Example(label, (*given, weights)) for label, given in events().items()]
    return [*found, Example("one-column", (*events()["once"], rng.integers(-(2**40), 2**40, (PIXELS, 1))))]
