"""Example inputs of `add_patches`."""

from typing import Any

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    """Real and complex, both precisions, several planes, patches that lie on each other and at the borders, none at all."""
    rng = np.random.default_rng(31)

    def one(label: str, planes: int, n: int, patch: tuple[int, int], shape: tuple[int, int], dtype: Any) -> Example:
        values = rng.normal(size=(planes, n, *patch))
        if np.dtype(dtype).kind == "c":
            values = values + 1j * rng.normal(size=values.shape)
        corners = np.stack([rng.integers(0, s - p + 1, n) for s, p in zip(shape, patch)], -1)
        if n > 2:
            corners[0], corners[1] = (0, 0), np.array(shape) - patch
        single = np.dtype(dtype).name in ("float32", "complex64")
        tolerance = (1e-5,) if single else (1e-12,)
        return Example(label, (values.astype(dtype), corners), {"shape": shape}, twin=tolerance, cuda=(1e-5,))

    kinds = ("float32", "float64", "complex64", "complex128")
    found = [one(kind, 2, 37, (9, 12), (40, 35), kind) for kind in kinds]
    return [*found, one("one-patch-is-the-plane", 1, 3, (8, 8), (8, 8), "complex64"), one("none", 1, 0, (4, 4), (9, 70), "float32")]
