"""Example inputs of `correlate_orientations`: the twin computes in single precision."""

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    rng = np.random.default_rng(4)
    made = []
    for label, n, p, s, a, m in (("few", 3, 7, 4, 5, 9), ("more", 35, 12, 3, 33, 13), ("one", 1, 3, 1, 16, 9), ("none", 0, 4, 2, 3, 9)):
        peaks = np.stack([rng.normal(size=(n, p)), rng.normal(size=(n, p)), rng.uniform(0.5, 1.5, (n, p))], -1)
        peaks[:, p // 2 + 1 :, 2] = 0.0
        if label == "few":
            peaks[1] = 0.0  # no peaks at all
        fall = np.exp(-0.05 * np.arange(m))[:, None, None]
        real, imaginary = (fall * rng.normal(size=(m, s, a)) for _ in range(2))
        shells = np.linspace(0.4, 1.4, s)
        made.append(Example(label, (peaks, shells, real, imaginary), {"width": 0.5}, double=1e-11, twin=(3e-6, 2e-5)))
    return made
