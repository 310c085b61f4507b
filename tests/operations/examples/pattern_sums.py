"""Example inputs of `pattern_sums`."""

import numpy as np
from operations.comparing import Example
from operations.patterns import frames


def examples() -> list[Example]:
    """With and without weights; weights of zero."""
    found = [Example(label, (f,)) for label, f in frames().items()]
    return found + [Example(f"{label}-weights", (f,), {"weights": np.linspace(0, 1.5, f.shape[0])}) for label, f in frames().items()]
