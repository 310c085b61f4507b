"""Draw a shadow image of the defocused probe beside the STEM image it was compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.calibrate import ShadowRotation, scan_matrix
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place
from gpu4d.real_arrays import floats, real_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOR = "#35d0ff"  # seen on all greys
MARK = "#ffb000"
EDGE = 0.97  # of the disk's radius: its rim has fringes of the aperture
AROUND = 0.1  # of the seen part: margin that is drawn around it
POINTS = 181  # of the outline


@canvas.styled
def shadow(
    image: ArrayLike,
    found: ShadowRotation,
    shadow: ArrayLike,
    title: str = "Shadow image and STEM image",
    *,
    position: ArrayLike,
    center: ArrayLike,
    radius: float,
    pixel_size: float | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw the part of a STEM image that a shadow image shows, and beside it the shadow image turned into the axes of the scan.

    If the rotation is right, the same things are at the same places of both. One may be bright where the other is dark.

    Parameters
    ----------
    image : (Rx, Ry) RealSlice or array
        STEM image.
    found : ShadowRotation
        From `gpu4d.calibrate.shadow_rotation`.
    shadow : (Qx, Qy) array
        One of the shadow images.
    title : str
        Begins the titles of both panels.
    position : (2,) array
        Probe position of the shadow image, scan px.
    center : (2,) array
        Centre of the bright-field disk, detector px.
    radius : float
        Its radius, detector px.
    pixel_size : float, optional
        Step of the scan, Å. By default that of the slice.
    ax : sequence of matplotlib Axes, optional
        Axes to draw into, two. By default a new figure is made, which is `figure` of the returned array.

    Returns
    -------
    (n,) array of matplotlib.axes.Axes

    Raises
    ------
    InputError
        `found` is no ShadowRotation, or the shadow image shows nothing of the STEM image.

    Examples
    --------
    >>> from gpu4d.calibrate import rotation_from_points
    >>> found = rotation_from_points([[8, 8], [8, 18], [20, 8]], [[0, 0], [10, 0], [0, 12]], defocus=-1e4)
    >>> axes = shadow(np.eye(32), found, np.eye(32), position=(8, 8), center=(16, 16), radius=8.0)
    """
    from scipy import ndimage

    _check(found)
    stem, pattern = canvas.plane(image, "image"), canvas.plane(shadow, "shadow")
    middle, size = np.array(floats(center, 2, "center")), real_number(radius, "radius")
    around = found.seen_at([[0.0, 0.0]], position)[0]
    half = found.scale * size * (1 + AROUND)
    low = np.maximum(np.floor(around - half), 0).astype(int)
    high = np.minimum(np.ceil(around + half) + 1, stem.shape).astype(int)
    if not (high - low > 1).all():
        raise InputError(
            f"the shadow image shows a place at {around.round(1).tolist()} px, outside the STEM image {stem.shape}: give the STEM image "
            "and the position that the rotation was found with"
        )
    places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high)), indexing="ij"), axis=-1)
    way = -found.scale if found.underfocused else found.scale
    q = (places - around) / way @ scan_matrix(found.angle, found.transpose)  # the inverse of an orthogonal matrix is its transpose
    smooth = ndimage.gaussian_filter(np.nan_to_num(pattern), max(0.5, 0.4 / found.scale))
    turned = ndimage.map_coordinates(smooth, np.moveaxis(q + middle, -1, 0), order=1, mode="nearest")
    turned = np.where(np.hypot(q[..., 0], q[..., 1]) < EDGE * size, turned, np.nan)
    part = stem[low[0] : high[0], low[1] : high[1]]
    place = Place(part.shape, 1, 2, below=0.75, ax=ax)
    step, units = pixel(image, pixel_size, None if pixel_size is None else "Å")
    angle = np.linspace(0, 2 * np.pi, POINTS)
    rim = found.seen_at(EDGE * size * np.stack([np.cos(angle), np.sin(angle)], axis=-1), position) - low
    for panel, values, name in zip(place.panels, (part, turned), ("STEM", "shadow, turned")):
        canvas.show(panel, values, f"{title}: {name}" if name == "STEM" else name, "counts", "gray", canvas.robust_range(values))
        panel.plot(rim[:, 1], rim[:, 0], color=COLOR, lw=1.0, gid="outline")
        panel.set_xlim(-0.5, part.shape[1] - 0.5)
        panel.set_ylim(part.shape[0] - 0.5, -0.5)
        canvas.scale_bar(panel, part.shape, step, units)
        canvas.axis_marks(panel)
    _tell(place, found)
    return place.result


@canvas.styled
def shadow_points(
    image: ArrayLike,
    found: ShadowRotation,
    points: ArrayLike,
    title: str = "Points of the shadow image",
    *,
    pixel_size: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw points of a STEM image, and where the fitted rotation puts the same points of the shadow image.

    Parameters
    ----------
    image : (Rx, Ry) RealSlice or array
        STEM image.
    found : ShadowRotation
        From `gpu4d.calibrate.rotation_from_points`.
    points : (n, 4) array
        Each with its place in the STEM image, scan px, and in the shadow image, detector px.
    title : str
    pixel_size : float, optional
        Step of the scan, Å. By default that of the slice.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        `found` is no ShadowRotation, or the points are not (n, 4).

    Examples
    --------
    >>> from gpu4d.calibrate import rotation_from_points
    >>> points = np.array([[8, 8, 0, 0], [8, 18, 10, 0], [20, 8, 0, 12]])
    >>> ax = shadow_points(np.eye(32), rotation_from_points(points[:, :2], points[:, 2:], defocus=-1e4), points)
    """
    _check(found)
    stem = canvas.plane(image, "image")
    given = real_values(points, "points", "(n, 4): scan and detector pixels").astype(np.float64)
    if given.ndim != 2 or given.shape[1] != 4:
        raise InputError(f"points is {given.shape}: need (n, 4), the scan pixels and the detector pixels of each point")
    place = Place(stem.shape, below=0.45, ax=ax)
    ax = place.ax
    canvas.show(ax, stem, title, getattr(image, "units", "") or "counts", "gray", canvas.robust_range(stem))
    fitted = found.seen_at(given[:, 2:])
    ax.plot(given[:, 1], given[:, 0], "o", mfc="none", mec=COLOR, markersize=9, mew=1.4, label="in the STEM image", gid="points")
    ax.plot(fitted[:, 1], fitted[:, 0], "x", color=MARK, markersize=7, mew=1.6, label="from the shadow image", gid="fitted points")
    step, units = pixel(image, pixel_size, None if pixel_size is None else "Å")
    canvas.scale_bar(ax, stem.shape, step, units)
    canvas.axis_marks(ax)
    _tell(place, found, 2)
    return place.result


def _check(found: object) -> None:
    if not isinstance(found, ShadowRotation):
        raise InputError(f"found is a {type(found).__name__}: need a ShadowRotation, as gpu4d.calibrate.shadow_rotation gives")


def _tell(place: Place, found: ShadowRotation, columns: int = 1) -> None:
    """Write the rotation under the picture."""
    turn = f"rotation {np.degrees(found.angle):.2f} ± {np.degrees(found.error):.2f}°"
    if found.half_turn == "undecided":
        turn += ", or 180° more"
    turn += ", detector axes exchanged" if found.transpose else ""
    place.ax.plot([], [], color=COLOR, lw=1.0, label=turn)
    place.legend(frameon=False, fontsize=7.6, handlelength=1.4, ncols=columns)
