"""Example inputs of `wave_gradients`."""

from typing import Any

import numpy as np
from operations.comparing import Example


def examples() -> list[Example]:
    """One slice and several, one mode and several, both likelihoods and precisions, a mask, odd sizes, no positions, more than a block."""
    rng = np.random.default_rng(32)

    def noise(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    def one(
        label: str, n: int, slices: int, modes: int, patch: tuple[int, int], dtype: str = "complex64", masked: bool = False, **options: Any
    ) -> Example:
        shape = patch[0] + 9, patch[1] + 6
        real = "float32" if dtype == "complex64" else "float64"
        corners = np.stack([rng.integers(0, s - p + 1, n) for s, p in zip(shape, patch)], -1)
        rows, columns = (np.exp(2j * np.pi * rng.uniform(size=(n, size))).astype(dtype) for size in patch)
        inputs = [(1 + 0.3 * noise(slices, *shape)).astype(dtype), corners, noise(modes, *patch).astype(dtype), rows, columns]
        inputs.append(rng.poisson(2.0, (n, *patch)).astype(real))
        inputs.append((rng.uniform(size=patch) < 0.8).astype(real) if masked else None)
        inputs.append(np.exp(1j * rng.uniform(size=patch)).astype(dtype) if slices > 1 else None)
        return Example(label, tuple(inputs), options, double=1e-5 if dtype == "complex64" else 1e-11)  # misfits are always double

    return [
        one("single-slice", 7, 1, 1, (8, 9), masked=True),
        one("modes-and-slices", 5, 3, 2, (10, 8), masked=True),
        one("amplitude", 4, 2, 1, (8, 8), likelihood="amplitude", background=0.0),
        one("double", 6, 2, 2, (9, 7), "complex128", masked=True),
        one("double-amplitude", 6, 1, 3, (6, 6), "complex128", likelihood="amplitude", background=0.2),
        one("object-only", 3, 2, 1, (8, 8), of_probes=False),
        one("none", 0, 1, 1, (8, 8)),
        one("beyond-a-block", 37, 2, 1, (40, 50)),
    ]
