"""Colour directions of a crystal, as in inverse pole figures, and compute Euler angles."""

from __future__ import annotations

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.orientation.orientations import Grain, Orientations
from gpu4d.orientation.symmetry import rotation_matrices, sector_corners, to_sector
from gpu4d.structures import Structure


@on_host("rotations")
def direction_colors(directions: ArrayLike, structure: Structure) -> np.ndarray:
    """Return a colour for each direction of a crystal: red, green and blue at the corners of the fundamental sector.

    The equivalent of the direction in the sector is v = r c₁ + g c₂ + b c₃ with the corners c. The colour is (r, g, b) over the largest of
    them, and its square root, which makes the middle of the sector light.

    Parameters
    ----------
    directions : (..., 3) float
        In cartesian crystal axes, of any length. v and −v have one colour.
    structure : Structure

    Returns
    -------
    (..., 3) float64
        0 … 1. NaN where a direction is NaN or zero.

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.structures import Structure
    >>> direction_colors(np.array([[0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, -1.0, 1.0]]), Structure.standard("Au")).round(3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    given = real_values(directions, "directions", "directions (..., 3)").astype(np.float64, copy=False)
    if given.ndim < 1 or given.shape[-1] != 3:
        raise InputError(f"directions has shape {given.shape}: need (..., 3)")
    length = np.linalg.norm(given, axis=-1, keepdims=True)
    good = np.isfinite(length) & (length > 0)
    unit = np.where(good, given / np.where(good, length, 1.0), 1.0)
    parts = to_sector(unit, structure, colours=True) @ np.linalg.inv(sector_corners(structure))
    parts = np.clip(parts, 0.0, None)
    parts = np.where(parts < 1e-9, 0.0, parts)
    return np.where(good, np.sqrt(parts / parts.max(axis=-1, keepdims=True)), np.nan)


def ipf_colors(
    orientations: Orientations, direction: tuple[float, float, float] = (0.0, 0.0, 1.0), *, grain: Grain | None = None
) -> np.ndarray:
    """Return the colours of an inverse pole figure map: which crystal direction lies along a direction of the lab.

    Parameters
    ----------
    orientations : Orientations
    direction : (float, float, float)
        In lab axes. (0, 0, 1) is the beam.
    grain : Grain, optional
        `orientations.grain` by default.

    Returns
    -------
    (Rx, Ry, 3) float64
        NaN where there is no orientation. Each phase is coloured in its own sector.
    """
    chosen = orientations.grain if grain is None else grain
    along, colors = chosen.direction(direction), np.full((*chosen.phase.shape, 3), np.nan)
    for number, structure in enumerate(orientations.structures):
        own = chosen.phase == number
        colors[own] = direction_colors(along[own], structure)
    return colors


@on_host("rotations")
def euler_angles(matrices: ArrayLike) -> np.ndarray:
    """Return Euler angles in Bunge's convention, (..., 3) rad: φ₁ and φ₂ from 0 to 2π, Φ from 0 to π.

    Bunge's matrix g turns sample axes into crystal axes, v_crystal = g v_lab, so g = Rᵀ. It is a turn of the axes by φ₁ about z, by Φ about
    the new x, and by φ₂ about the new z. If Φ is 0 or π, φ₂ is 0.

    Parameters
    ----------
    matrices : (..., 3, 3) float
        R with v_lab = R v_crystal.

    Examples
    --------
    >>> import numpy as np
    >>> turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # crystal x lies along lab y
    >>> np.degrees(euler_angles(turn)).round(6).tolist()
    [90.0, 0.0, 0.0]
    """
    g = np.swapaxes(rotation_matrices(matrices, "matrices"), -1, -2)
    middle = np.arccos(np.clip(g[..., 2, 2], -1.0, 1.0))
    flat = np.hypot(g[..., 2, 0], g[..., 2, 1]) < 1e-9
    first = np.where(flat, np.arctan2(g[..., 0, 1], g[..., 0, 0]), np.arctan2(g[..., 2, 0], -g[..., 2, 1]))
    last = np.where(flat, 0.0, np.arctan2(g[..., 0, 2], g[..., 1, 2]))
    middle = np.where(flat, np.where(g[..., 2, 2] > 0, 0.0, np.pi), middle) + 0 * g[..., 2, 2]
    return np.stack([first % (2 * np.pi), middle, last % (2 * np.pi)], axis=-1)


@on_host("rotations")
def matrices_of(angles: ArrayLike) -> np.ndarray:
    """Return R (..., 3, 3) of Euler angles in Bunge's convention (..., 3), rad: the inverse of `euler_angles`.

    Examples
    --------
    >>> import numpy as np
    >>> matrices_of(np.array([np.pi / 2, 0.0, 0.0])).round(6).tolist()
    [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    given = real_values(angles, "angles", "Euler angles (..., 3)").astype(np.float64, copy=False)
    if given.ndim < 1 or given.shape[-1] != 3:
        raise InputError(f"angles has shape {given.shape}: need Euler angles (..., 3)")
    first, middle, last = np.moveaxis(given, -1, 0)
    return _about(first, 2) @ _about(middle, 0) @ _about(last, 2)


def _about(angle: np.ndarray, axis: int) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    turn = np.zeros((*angle.shape, 3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    turn[..., axis, axis] = 1.0
    turn[..., i, i], turn[..., i, j], turn[..., j, i], turn[..., j, j] = c, -s, s, c
    return turn
