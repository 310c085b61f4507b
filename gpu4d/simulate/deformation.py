"""Make deformation gradients F of a lattice over a scan, and compute their strain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu4d.errors import InputError

Deformation = str | Callable[[np.ndarray, np.ndarray], np.ndarray] | None


def deformation_gradient(kind: Deformation, scan_shape: tuple[int, int], size: float) -> tuple[np.ndarray, np.ndarray]:
    """Return F at every scan position, and the positions of the second phase.

    Parameters
    ----------
    kind : {"smooth", "inclusion", None} or callable
        A callable gets the scan coordinates x, y, each (Rx, Ry), and returns F (Rx, Ry, 2, 2).
    scan_shape : (Rx, Ry)
    size : float
        Approximate size of the largest strain.

    Returns
    -------
    F : (Rx, Ry, 2, 2) float64
    inclusion : (Rx, Ry) bool
    """
    x, y = np.meshgrid(*(np.arange(n, dtype=float) for n in scan_shape), indexing="ij")
    inside = np.zeros(scan_shape, bool)
    if kind is None:
        return np.broadcast_to(np.eye(2), (*scan_shape, 2, 2)).copy(), inside
    if callable(kind):
        F = np.asarray(kind(x, y), dtype=float)
        if F.shape != (*scan_shape, 2, 2):
            raise InputError(f"strain=callable gave an array {F.shape}, need F of shape {(*scan_shape, 2, 2)}")
        return F, inside
    if kind == "smooth":
        return _smooth(x, y, size), inside
    if kind == "inclusion":
        return _inclusion(x, y, size)
    raise InputError(f"strain={kind!r}: need 'smooth', 'inclusion', None, or a callable of (x, y) that gives F")


def _smooth(x: np.ndarray, y: np.ndarray, size: float) -> np.ndarray:
    """Make waves in every component, with one period over the scan, and a rotation that grows along the diagonal."""
    u, v = (c / max(c.max(), 1.0) for c in (x, y))
    exx = size * np.sin(2 * np.pi * u)
    eyy = -0.75 * size * np.cos(2 * np.pi * v)
    exy = 0.4 * size * np.sin(np.pi * u) * np.cos(np.pi * v)
    rotation = 0.5 * size * (u - v)
    return _matrix(1 + exx, exy - rotation, exy + rotation, 1 + eyy)


def _inclusion(x: np.ndarray, y: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Make a cylinder of larger lattice spacing, coherent with an elastic matrix that bends across the scan.

    With radius a and misfit e, u = e r inside and u = e a² r / |r|² outside (plane strain, no volume change outside). The
    displacement is continuous. The radial strain changes from +e to -e at the wall.
    """
    nx, ny = x.shape
    centre, radius = (0.55 * (nx - 1), 0.52 * (ny - 1)), 0.2 * min(nx, ny)
    dx, dy = x - centre[0], y - centre[1]
    r2 = dx * dx + dy * dy
    inside = r2 <= radius**2
    safe = np.where(inside, 1.0, r2)
    outer = size * radius**2 / safe
    exx = np.where(inside, size, outer * (1 - 2 * dx * dx / safe))
    eyy = np.where(inside, size, outer * (1 - 2 * dy * dy / safe))
    exy = np.where(inside, 0.0, -2 * outer * dx * dy / safe)
    bend = 0.4 * size * (y / max(ny - 1, 1) - 0.5)
    stretched = _matrix(1 + exx, exy, exy, 1 + eyy)
    return rotation_matrix(bend) @ stretched, inside


def _matrix(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.stack([np.stack([a, b], -1), np.stack([c, d], -1)], -2)


def rotation_matrix(angle: np.ndarray | float) -> np.ndarray:
    """Return R = [[cos, -sin], [sin, cos]], (..., 2, 2). Angles are positive from x to y."""
    c, s = np.cos(np.asarray(angle, float)), np.sin(np.asarray(angle, float))
    return _matrix(c, -s, s, c)


def finite_strain(F: np.ndarray) -> dict[str, np.ndarray]:
    """Return strain U - 1 and rotation of F = R U (polar decomposition), with the signs of the library.

    Returns
    -------
    dict
        exx, eyy, exy (tension positive), rotation (radians, positive from x to y) and theta = -rotation.
    """
    rotation = np.arctan2(F[..., 1, 0] - F[..., 0, 1], F[..., 0, 0] + F[..., 1, 1])
    U = np.swapaxes(rotation_matrix(rotation), -1, -2) @ F
    return {"exx": U[..., 0, 0] - 1, "eyy": U[..., 1, 1] - 1, "exy": U[..., 0, 1], "rotation": rotation, "theta": -rotation}
