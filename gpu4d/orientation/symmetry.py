"""Reduce directions and orientations by the symmetry of a crystal: fundamental sector, sampling of zone axes, angles between orientations.

An orientation is a matrix R with v_lab = R v_crystal. R and R P are the same crystal for every proper rotation P of its Laue group.
"""

from __future__ import annotations

import math

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.structures import Structure

INSIDE = (0.45, 0.15, 0.88)  # a direction on no mirror plane: its sector has the corners [001], [101], [111] of a cubic crystal
SAME = 1e-6  # of a unit vector
COLOURED_AS = {"m-3": "m-3m", "2/m": "mmm", "-1": "mmm", "-3": "6/m"}  # groups whose sector is no triangle, and a larger group


def sector_planes(structure: Structure) -> np.ndarray:
    """Return normals (k, 3) of the fundamental sector of zone axes: v lies in it where `v @ normals.T >= 0`.

    The sector is the set of directions nearer to one chosen direction than to all directions that the Laue group makes of it. It has
    1/48 of the sphere for m-3m, 1/24 for 6/mmm, 1/2 for -1.
    """
    return _planes(structure.rotations, _inside(structure))


def _planes(rotations: np.ndarray, inside: np.ndarray) -> np.ndarray:
    turned = rotations @ inside
    away = inside - np.concatenate([turned, -turned])
    away = away[np.linalg.norm(away, axis=-1) > SAME]
    return away / np.linalg.norm(away, axis=-1, keepdims=True)


def _inside(structure: Structure) -> np.ndarray:
    """Return the direction in the middle of the sector. That of -3m lies above a twofold axis, so that the equator is a border."""
    inside = np.array(INSIDE)
    if structure.laue_group == "-3m":
        twofold = [np.array([1.0, 0.0, 0.0]), np.array([math.sqrt(0.75), 0.5, 0.0])]
        about = lambda axis: 2 * np.outer(axis, axis) - np.eye(3)  # noqa: E731
        flat = next(a for a in twofold if np.abs(structure.rotations - about(a)).max(axis=(1, 2)).min() < 1e-6)
        inside = 0.45 * flat + np.array([0.0, 0.0, 0.9])
    return inside / np.linalg.norm(inside)


def colour_rotations(structure: Structure) -> np.ndarray:
    """Return the rotations of the group whose sector has the colours: the crystal's own, or of a larger group with a triangle."""
    rotations = structure.rotations
    if structure.laue_group in ("2/m", "-1"):
        return np.array([np.diag(signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))], np.float64)
    if structure.laue_group == "m-3":
        return np.concatenate([rotations, np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]) @ rotations])
    if structure.laue_group == "-3":
        return np.concatenate([rotations, np.diag([-1.0, -1.0, 1.0]) @ rotations])
    return rotations


def to_sector(directions: np.ndarray, structure: Structure, *, colours: bool = False) -> np.ndarray:
    """Return the equivalent of each direction (..., 3) in the fundamental sector. Directions v and −v count as one.

    With `colours`, in the triangle that has the colours of a picture.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.structures import Structure
    >>> to_sector(np.array([-1.0, 0.0, 0.0]), Structure.standard("Au")).tolist()
    [0.0, 0.0, 1.0]
    """
    turns = colour_rotations(structure) if colours else structure.rotations
    images = np.einsum("mij,...j->...mi", np.concatenate([turns, -turns]), np.asarray(directions, np.float64))
    best = np.argmax((images @ _inside(structure)).round(12), axis=-1)
    return np.take_along_axis(images, best[..., None, None], axis=-2)[..., 0, :] + 0.0


def sector_corners(structure: Structure) -> np.ndarray:
    """Return the corners of the fundamental sector, (3, 3) unit vectors: the directions that are red, green and blue in a picture.

    Sectors that are no triangle (of the Laue groups m-3, -3, 2/m and -1) are replaced by those of m-3m, 6/m and mmm. Directions that only
    the larger group makes equivalent have one colour then.

    Examples
    --------
    >>> from gpu4d.structures import Structure
    >>> (sector_corners(Structure.standard("Au")) ** 2).round(3).tolist()
    [[0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.333, 0.333, 0.333]]
    """
    normals = _planes(colour_rotations(structure), _inside(structure))
    crossed = np.cross(normals[:, None], normals[None]).reshape(-1, 3)
    crossed = crossed[np.linalg.norm(crossed, axis=-1) > SAME]
    crossed /= np.linalg.norm(crossed, axis=-1, keepdims=True)
    corners = np.unique(crossed[(crossed @ normals.T >= -SAME).all(-1)].round(9) + 0.0, axis=0)
    corners = corners[np.append(True, np.linalg.norm(np.diff(corners, axis=0), axis=-1) > SAME)]
    corners = corners[np.argsort(-corners[:, 2], kind="stable")]  # the corner nearest to z is red; the others follow from x to y
    rest = corners[1:]
    return np.concatenate([corners[:1], rest[np.argsort(np.arctan2(rest[:, 1], rest[:, 0]), kind="stable")]])[:3]


def zone_axes(structure: Structure, step: float) -> np.ndarray:
    """Return zone axes in the fundamental sector, evenly spread, (n, 3) unit vectors. The corners of the sector are among them.

    Points of a spiral of equal areas (Fibonacci's lattice) on the sphere are taken where they lie in the sector or next to it, so that
    every direction of the sector has one within about 0.8 steps.

    Parameters
    ----------
    structure : Structure
    step : float
        Mean distance of neighbours, rad.
    """
    normals = sector_planes(structure)
    total = max(8, round(4 * math.pi / step**2))
    index = np.arange(total)
    z = 1 - (2 * index + 1) / total
    angle = index * math.pi * (3 - math.sqrt(5))
    flat = np.sqrt(1 - z * z)
    points = np.stack([flat * np.cos(angle), flat * np.sin(angle), z], axis=-1)
    near = points[(points @ normals.T > -0.5 * step).all(-1)]
    corners = sector_corners(structure)
    apart = (near @ corners.T).max(axis=-1) < math.cos(0.4 * step)
    return np.concatenate([corners, near[apart]])


@on_host("rotations")
def misorientation(first: ArrayLike, second: ArrayLike, structure: Structure) -> np.ndarray:
    """Return the smallest angle between orientations of one crystal, rad, on the host.

    Parameters
    ----------
    first, second : (..., 3, 3) float
        Orientations R with v_lab = R v_crystal. Their leading axes broadcast.
    structure : Structure
        Its proper rotations P make R and R P the same.

    Returns
    -------
    (...) float64
        NaN where an orientation is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.structures import Structure
    >>> quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> float(misorientation(np.eye(3), quarter, Structure.standard("Au")))
    0.0
    """
    one, other = rotation_matrices(first, "first"), rotation_matrices(second, "second")
    try:
        np.broadcast_shapes(one.shape, other.shape)
    except ValueError:
        raise InputError(f"first is {one.shape}, second {other.shape}: need leading axes that broadcast") from None
    between = np.swapaxes(one, -1, -2) @ other
    trace = np.einsum("...ij,mji->...m", between, structure.rotations).max(axis=-1)
    return np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))


def rotation_matrices(given: ArrayLike, name: str) -> np.ndarray:
    """Return matrices (..., 3, 3) as float64 on the host, from an array of any library."""
    host = real_values(given, name, "rotation matrices (..., 3, 3)").astype(np.float64, copy=False)
    if host.ndim < 2 or host.shape[-2:] != (3, 3):
        raise InputError(f"{name} has shape {host.shape}: need rotation matrices (..., 3, 3)")
    return host


def smallest_turn(turns: np.ndarray, structure: Structure) -> np.ndarray:
    """Return the equivalent R P of each orientation (..., 3, 3) that turns by the smallest angle. NaN stays NaN."""
    images = np.einsum("...ij,mjk->...mik", turns, structure.rotations)
    trace = np.nan_to_num(np.trace(images, axis1=-2, axis2=-1)).round(9)
    best = trace.argmax(axis=-1)[..., None, None, None]
    return np.take_along_axis(images, best, axis=-3)[..., 0, :, :]


def axis_to_z(axes: np.ndarray) -> np.ndarray:
    """Return the smallest rotation that brings each unit vector (n, 3) to z, (n, 3, 3)."""
    x, y, z = axes.T
    turn = np.empty((len(axes), 3, 3))
    flipped = z < -1 + 1e-12
    k = 1 / np.where(flipped, 1.0, 1 + z)
    turn[:, 0] = np.stack([1 - k * x * x, -k * x * y, -x], axis=-1)
    turn[:, 1] = np.stack([-k * x * y, 1 - k * y * y, -y], axis=-1)
    turn[:, 2] = axes
    turn[flipped] = np.diag([1.0, -1.0, -1.0])
    return turn
