"""Add patches of a plane to it, each at its place: the adjoint of cutting them out."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import Twin, operation


def check(values: Any, corners: Any, shape: tuple[int, int]) -> None:
    """Raise an error if the shapes do not fit together."""
    if len(values.shape) != 4 or tuple(corners.shape) != (values.shape[1], 2):
        raise InputError(f"values are {tuple(values.shape)} and corners {tuple(corners.shape)}: need (S, n, Nx, Ny) and (n, 2)")
    if len(shape) != 2 or shape[0] < values.shape[2] or shape[1] < values.shape[3]:
        raise InputError(f"a plane {tuple(shape)} is smaller than its patches {tuple(values.shape[2:])}")


@operation(
    cpu=Twin("gpu4d.cpu_fallback.add_patches", ("float32", "float64", "complex64", "complex128")),
    cuda=Twin("gpu4d.kernels.add_patches", ("float32", "complex64")),
)
def add_patches(values: Any, corners: Any, /, *, shape: Any) -> Any:
    """Add patches of planes to them, each at its place.

    Parameters
    ----------
    values : (S, n, Nx, Ny) real or complex
        n patches of each of S planes.
    corners : (n, 2) int
        Where pixel [0, 0] of a patch lies. A patch must lie inside the plane.
    shape : (int, int)
        Of a plane.

    Returns
    -------
    (S, X, Y), in the dtype of `values`
        Sums in the order of the patches, so that they do not depend on threads.

    Examples
    --------
    >>> import numpy as np
    >>> add_patches(np.ones((1, 2, 1, 2)), np.array([[0, 0], [0, 1]]), shape=(2, 3))[0].tolist()
    [[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]]
    """
    xp = arrays.namespace(values, corners)
    check(values, corners, shape)
    planes, n, nx, ny = values.shape
    shape = tuple(int(size) for size in shape)
    at = xp.reshape(places(corners, (nx, ny), shape[1]), (n * nx * ny,))
    parts = [values] if arrays.is_real(values) else [xp.real(values), xp.imag(values)]
    sums = [
        xp.stack([arrays.scatter_add(xp.reshape(part[i, ...], (n * nx * ny,)), at, shape[0] * shape[1]) for i in range(planes)])
        for part in parts
    ]
    total = sums[0] if len(sums) == 1 else sums[0] + 1j * sums[1]
    return xp.reshape(xp.astype(total, values.dtype), (planes, *shape))


def places(corners: Any, patch: tuple[int, int], columns: int) -> Any:
    """Return the numbers of the pixels of every patch in a plane with so many columns, (n, Nx, Ny) int64."""
    xp = arrays.namespace(corners)
    rows, across = (xp.arange(size, dtype=xp.int64, device=arrays.device(corners)) for size in patch)
    corners = xp.astype(corners, xp.int64)
    x = corners[:, 0, None, None] + rows[None, :, None]
    return x * columns + corners[:, 1, None, None] + across[None, None, :]


def take_patches(planes: Any, corners: Any, patch: tuple[int, int]) -> Any:
    """Cut patches out of planes (S, X, Y), at `corners` (n, 2): (S, n, Nx, Ny).

    Examples
    --------
    >>> import numpy as np
    >>> take_patches(np.arange(6).reshape(1, 2, 3), np.array([[0, 1], [1, 0]]), (1, 2)).tolist()
    [[[[1, 2]], [[3, 4]]]]
    """
    xp = arrays.namespace(planes, corners)
    if isinstance(planes, np.ndarray):  # rows are copied whole
        windows = np.lib.stride_tricks.sliding_window_view(planes, patch, axis=(1, 2))
        return windows[:, corners[:, 0], corners[:, 1]]
    s, columns = planes.shape[0], planes.shape[2]
    at = places(corners, patch, columns)
    found = xp.take(xp.reshape(planes, (s, planes.shape[1] * columns)), xp.reshape(at, (-1,)), axis=1)
    return xp.reshape(found, (s, corners.shape[0], *patch))
