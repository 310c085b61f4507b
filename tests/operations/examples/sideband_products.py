"""Example inputs of `sideband_products`."""

from typing import Any

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    """Without aberrations, with some, with parts; a margin; pixels beyond the disk; more pixels than a chunk; none; no frequency."""
    rng = np.random.default_rng(5)

    def one(label: str, n: int, m: int, dtype: Any = "complex64", radius: float = 5.3, **options: Any) -> Example:
        spectra = (rng.normal(size=(n, m)) + 1j * rng.normal(size=(n, m))).astype(dtype)
        at, frequencies = rng.uniform(-radius, radius, (n, 2)), rng.uniform(-1.2 * radius, 1.2 * radius, (m, 2))
        # float32 in the CUDA twin: phases of some radians to 1e-7, products of columns to 1e-6
        return Example(
            label, (spectra, at, frequencies, rng.uniform(0.5, 2, n)), {"radius": radius, **options}, twin=(1e-11,), cuda=(1e-5,)
        )

    defocus = ((2, 0, 0.03), (0, 2, 0.035), (1, 1, -0.004))
    parts = (((2, 0, 0.03), (0, 2, 0.03)), ((2, 0, 0.02), (0, 2, -0.02)), ((3, 0, 0.004), (1, 2, 0.004)), ((4, 0, 1e-3), (2, 2, 2e-3)))
    sixth = tuple((i, 6 - i, 1e-5 * (i + 1)) for i in range(7))
    many = tuple(((1, 1, 0.01 * q), (2, 0, 0.002)) for q in range(14))
    return [
        one("disk", 40, 7),
        one("defocus", 33, 5, chi=defocus),
        one("parts", 45, 6, chi=defocus, parts=parts),
        one("margin", 70, 6, chi=defocus, parts=parts[:1], margin=0.75),
        one("sixth-order", 20, 3, chi=sixth, parts=(sixth,)),
        one("most-parts", 35, 2, parts=many),
        one("double", 31, 4, "complex128", chi=defocus, parts=parts[:2]),
        one("no-pixel", 0, 3, parts=parts[:1]),
        one("no-frequency", 4, 0, parts=parts[:1]),
    ]
