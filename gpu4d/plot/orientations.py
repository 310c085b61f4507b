"""Draw orientations: maps in the colours of inverse pole figures, with the coloured sector as legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.orientation import Grain, Orientations, direction_colors, euler_angles, ipf_colors
from gpu4d.orientation.symmetry import sector_corners, to_sector
from gpu4d.plot import canvas
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place
from gpu4d.plot.readings import Reading, remember
from gpu4d.structures import Structure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES: dict[tuple[float, float, float], str] = {(1, 0, 0): "x", (0, 1, 0): "y", (0, 0, 1): "beam (z)"}
LARGEST_INDEX = 6  # of a corner's direction; larger ones are written as decimals
FINE = 301  # pixels a side of a legend


@canvas.styled
def orientation_map(
    orientations: Orientations,
    direction: tuple[float, float, float] = (0.0, 0.0, 1.0),
    title: str | None = None,
    *,
    grain: Grain | None = None,
    phase: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which crystal direction lies along a direction of the lab, in colours, with the coloured sector as legend.

    Parameters
    ----------
    orientations : Orientations
    direction : (float, float, float)
        In lab axes: (0, 0, 1) is the beam, (1, 0, 0) points down in the picture.
    title : str, optional
    grain : Grain, optional
        `orientations.grain` by default.
    phase : int, optional
        Number of a structure: only its positions are drawn. None: all positions, with the legend of the first structure.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
        Positions without an orientation are grey. Ambiguous ones have a dot.

    Raises
    ------
    InputError
        There is no such structure.
    """
    from matplotlib.colors import to_rgb

    chosen = orientations.grain if grain is None else grain
    if phase is not None and not 0 <= phase < len(orientations.structures):
        raise InputError(f"phase={phase!r}: need a number from 0 to {len(orientations.structures) - 1}, or None")
    colors = ipf_colors(orientations, direction, grain=chosen)
    shape = chosen.phase.shape
    place = Place(shape, legend=True, ax=ax)
    ax, key = place.ax, place.key
    assert key is not None, "legend=True makes it"
    missing = ~np.isfinite(colors).all(axis=-1) | ((chosen.phase != phase) if phase is not None else False)
    ax.imshow(
        np.where(missing[..., None], np.array(to_rgb(canvas.NO_VALUE)), np.nan_to_num(colors)), origin="upper", interpolation="nearest"
    )
    remember(ax, _reading(orientations, chosen, direction, missing))
    x, y, z = (float(d) for d in direction)
    name = NAMES.get((x, y, z), f"({', '.join(f'{d:g}' for d in direction)})")
    canvas.frame(ax, title if title is not None else f"Crystal direction along {name}")
    canvas.scale_bar(ax, shape, *pixel(None, orientations.r_pixel, "Å" if orientations.r_pixel else None))
    canvas.axis_marks(ax)
    canvas.note_missing(ax, np.where(missing, np.nan, 1.0))
    unsure = np.argwhere(chosen.ambiguous & ~missing)
    if len(unsure):
        ax.plot(unsure[:, 1], unsure[:, 0], ".", color=canvas.INK, markersize=2.0)
        note = f"dots: {len(unsure)} ambiguous\nposition{'s' * (len(unsure) > 1)}"
        key.text(0.5, -0.35, note, ha="center", va="top", fontsize=8, color=canvas.MUTED, transform=key.transAxes)
    _legend(key, orientations.structures[phase or 0])
    return place.result


def _reading(orientations: Orientations, grain: Grain, direction: tuple[float, float, float], missing: np.ndarray) -> Reading:
    """Return Euler angles in degrees, and the crystal direction along a direction of the lab, as its colour shows it."""
    along, uvw = grain.direction(direction), np.full((*missing.shape, 3), np.nan)
    for number, structure in enumerate(orientations.structures):
        own = (grain.phase == number) & ~missing
        uvw[own] = to_sector(along[own], structure, colours=True) @ structure.basis.T
    angles = np.full((*missing.shape, 3), np.nan)
    angles[~missing] = np.degrees(euler_angles(grain.matrices[~missing]))
    uvw /= np.abs(uvw).max(axis=-1, keepdims=True)
    return Reading("orientation", tuple(np.moveaxis(np.concatenate([angles, uvw], axis=-1), -1, 0)))


@canvas.styled
def orientation_legend(structure: Structure, *, ax: Axes | None = None) -> Axes:
    """Draw the coloured fundamental sector of a crystal in stereographic projection, with the directions of its corners.

    Parameters
    ----------
    structure : Structure
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    if not isinstance(structure, Structure):
        raise InputError(f"structure is a {type(structure).__name__}: need a Structure")
    place = Place((10, 10), ax=ax)
    _legend(place.ax, structure)
    return place.result


def _legend(ax: Any, structure: Structure) -> None:
    """Draw the sector: the projection of v is v_x, v_y over 1 + v_z, x to the right and y up, as sectors are drawn everywhere."""
    corners = sector_corners(structure)
    edges = np.concatenate([_arc(corners[i], corners[(i + 1) % 3]) for i in range(3)])
    flat = edges[:, :2] / (1 + edges[:, 2:])
    low, high = flat.min(axis=0), flat.max(axis=0)
    x, y = np.meshgrid(np.linspace(low[0], high[0], FINE), np.linspace(low[1], high[1], FINE))
    square = x * x + y * y
    v = np.stack([2 * x, 2 * y, 1 - square], axis=-1) / (1 + square)[..., None]
    inside = np.linalg.norm(to_sector(v, structure, colours=True) - v, axis=-1) < 1e-3  # pixels of the border too
    colors = np.concatenate([direction_colors(v, structure), inside[..., None].astype(float)], axis=-1)
    ax.imshow(colors, origin="lower", extent=(low[0], high[0], low[1], high[1]), interpolation="bilinear")
    ax.plot(*flat.T, color=canvas.INK, linewidth=0.8)
    ax.axis("off")
    ax.set_anchor("N")
    ax.set_title(structure.name, fontsize=8.5, pad=14)
    middle = flat.mean(axis=0)
    for corner in corners:
        at = corner[:2] / (1 + corner[2])
        below = at[1] <= middle[1]
        ax.annotate(
            lattice_direction(corner, structure), at, xytext=(0, -3 if below else 3), textcoords="offset points", ha="center",
            va="top" if below else "bottom", fontsize=8,
        )  # fmt: skip
    ax.margins(0.12)


def _arc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return points (129, 3) of the great circle between two directions."""
    part = np.linspace(0.0, 1.0, 129)[:, None]
    points = (1 - part) * first + part * second
    return points / np.linalg.norm(points, axis=-1, keepdims=True)


def lattice_direction(direction: np.ndarray, structure: Structure) -> str:
    """Return a cartesian direction as [u v w] of the lattice, in the smallest whole numbers that fit to 1 %, else in decimals.

    Examples
    --------
    >>> from gpu4d.structures import Structure
    >>> lattice_direction(np.array([1.0, 0.0, 1.0]), Structure.standard("Au"))
    '[1 0 1]'
    """
    uvw = structure.basis @ np.asarray(direction, np.float64)
    uvw = uvw / np.abs(uvw).max()
    for largest in range(1, LARGEST_INDEX + 1):
        whole = np.rint(uvw * largest)
        if np.abs(uvw * largest - whole).max() < 0.01 * largest:
            return f"[{' '.join(f'{int(n)}' for n in whole)}]"
    return f"[{' '.join(f'{n:.2f}' for n in uvw)}]"
