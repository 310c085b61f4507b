"""Convert vectors from detector axes to scan axes: v_scan = R(θ) v_det, after exchanging (qx, qy) if `transpose` is set."""

from __future__ import annotations

import math

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayT
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array


def to_scan_axes(vectors: ArrayT, rotation: float, transpose: bool = False) -> ArrayT:
    """Convert vectors from detector axes to scan axes.

    Parameters
    ----------
    vectors : (..., 2) real
        Components along (qx, qy).
    rotation : float
        θ in radians, R = [[cos θ, -sin θ], [sin θ, cos θ]].
    transpose : bool
        Exchange (qx, qy) before the rotation.

    Returns
    -------
    (..., 2) array

    Examples
    --------
    >>> import numpy as np
    >>> to_scan_axes(np.array([1.0, 0.0]), np.pi / 2).round(6).tolist()
    [0.0, 1.0]
    """
    vectors = real_array(vectors, "vectors", "(..., 2)")
    if not vectors.shape or vectors.shape[-1] != 2:
        raise InputError(f"vectors has shape {tuple(vectors.shape)}: need (..., 2)")
    xp = arrays.namespace(vectors)
    x, y = (vectors[..., 1], vectors[..., 0]) if transpose else (vectors[..., 0], vectors[..., 1])
    c, s = math.cos(rotation), math.sin(rotation)
    return xp.stack([c * x - s * y, s * x + c * y], axis=-1)


def scan_matrix(rotation: float, transpose: bool = False) -> np.ndarray:
    """Return the orthogonal matrix M of `to_scan_axes`: v_scan = M v_det, and v_det = v_scan @ M.

    Examples
    --------
    >>> scan_matrix(0.0, transpose=True).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    return np.ascontiguousarray(to_scan_axes(np.eye(2), rotation, transpose).T)
