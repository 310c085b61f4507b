"""Draw vector fields over scan positions: direction as hue, length as lightness, with a colour wheel as legend."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place
from gpu4d.plot.readings import Reading, remember

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARROWS = 20  # along the longer side of the scan
SHORTEST = 0.05  # of the length with the full colour: shorter arrows would only be dots


@canvas.styled
def vectors(
    vx: ArrayLike,
    vy: ArrayLike,
    title: str = "",
    *,
    units: str = "",
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    limit: float | None = None,
    arrows: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw a vector field in colours: hue is the direction, lightness is the length.

    Parameters
    ----------
    vx, vy : (Rx, Ry) RealSlice or array
        Components along x (down) and y (right). NaN is drawn grey.
    title : str
    units : str
        Units of the components.
    limit : float, optional
        Length that has the full colour. By default the 99th percentile.
    arrows : bool
        Draw arrows over the colours, each the mean over a square of positions.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    x, y = canvas.plane(vx, "vx"), canvas.plane(vy, "vy")
    if x.shape != y.shape:
        raise InputError(f"vx is {x.shape} and vy {y.shape}: need two components of one shape")
    length = np.hypot(x, y)
    limit = float(limit) if limit is not None else canvas.symmetric_range(length, 99.0)
    place = Place(x.shape, legend=True, ax=ax)
    ax = place.ax
    ax.imshow(direction_colors(x, y, limit), origin="upper")
    remember(ax, Reading("vector", (x, y), units))
    if arrows:
        _arrows(ax, x, y, limit)
    canvas.frame(ax, title)
    size, size_units = pixel(vx, pixel_size, pixel_units)
    canvas.scale_bar(ax, x.shape, size, size_units)
    canvas.axis_marks(ax)
    canvas.note_missing(ax, length)
    _wheel(place.key, limit, units)
    return place.result


def com(
    data: ArrayLike,
    title: str = "Centre of mass",
    *,
    remove_mean: bool = True,
    units: str | None = None,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    limit: float | None = None,
    arrows: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw a centre-of-mass field (2, Rx, Ry), or another field of two components, in colours.

    Parameters
    ----------
    data : (2, Rx, Ry) RealSlice or array
        x and y component.
    remove_mean : bool
        Subtract the mean over the scan, which only shows where the origin is on the detector.
    units, pixel_size, pixel_units : optional
        Those of the slice, unless given.
    limit, arrows : optional
        As in `vectors`.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    host = canvas.values_of(data, "the centre of mass")
    if host.ndim != 3 or host.shape[0] != 2:
        raise InputError(f"centre of mass has shape {host.shape}, need (2, Rx, Ry)")
    if remove_mean and np.isfinite(host).any():
        host = host - np.nanmean(host, axis=(1, 2), keepdims=True)
    size = pixel_size if pixel_size is not None else getattr(data, "pixel_size", None)
    names = pixel_units if pixel_units is not None else getattr(data, "pixel_units", None)
    units = units if units is not None else getattr(data, "units", "")
    return vectors(host[0], host[1], title, units=units, pixel_size=size, pixel_units=names, limit=limit, arrows=arrows, ax=ax)


def _arrows(ax: Any, x: np.ndarray, y: np.ndarray, limit: float) -> None:
    """Draw arrows of the mean vectors of squares of positions. The longest reaches over a square."""
    side = max(1, math.ceil(max(x.shape) / ARROWS))
    nx, ny = (n // side for n in x.shape)
    if not (nx and ny and limit > 0):
        return
    blocks = [v[: nx * side, : ny * side].reshape(nx, side, ny, side) for v in (x, y)]
    known = np.isfinite(blocks[0]) & np.isfinite(blocks[1])
    count = known.sum(axis=(1, 3))
    along = [np.where(known, b, 0.0).sum(axis=(1, 3)) / np.maximum(count, 1) for b in blocks]
    row, column = ((np.arange(n) + 0.5) * side - 0.5 for n in (nx, ny))
    drawn = np.argwhere((count > 0) & (np.hypot(*along) > SHORTEST * limit))
    at = drawn[:, 0], drawn[:, 1]
    style = {"angles": "xy", "scale_units": "xy", "pivot": "middle", "color": "white", "width": 0.004, "alpha": 0.9}
    ax.quiver(column[at[1]], row[at[0]], along[1][at], along[0][at], scale=limit / side, **style)  # the drawing's axes are (y, x)


def direction_colors(x: np.ndarray, y: np.ndarray, limit: float) -> np.ndarray:
    """Return sRGB colours (..., 3) of vectors. Equal lengths look equally light in every direction (Oklab, Ottosson 2020).

    A zero vector is nearly black. NaN has the grey of missing values.
    """
    from matplotlib.colors import to_rgb

    strength = np.clip(np.hypot(x, y) / limit, 0.0, 1.0)
    angle = np.arctan2(x, y)
    lightness, chroma = 0.10 + 0.68 * strength, 0.135 * strength
    a, b = chroma * np.cos(angle), chroma * np.sin(angle)
    l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
            -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
            -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s,
        ],
        axis=-1,
    ).clip(0.0, 1.0)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.where(np.isfinite(strength)[..., None], srgb, np.array(to_rgb(canvas.NO_VALUE)))


def _wheel(ax: Any, limit: float, units: str) -> None:
    """Draw the legend: directions as they lie in the picture, and the length that has the full colour."""
    n = 161
    x, y = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n), indexing="ij")
    inside = np.hypot(x, y) <= 1
    colors = np.concatenate([direction_colors(x, y, 1.0), inside[..., None].astype(float)], axis=-1)
    ax.imshow(colors, origin="upper", interpolation="bilinear")
    ax.axis("off")
    ax.set_anchor("N")
    middle = (n - 1) / 2
    digits = min(max(0, 1 - math.floor(math.log10(limit))), 6) if limit > 0 else 0
    ax.text(middle, n + 8, "x ↓", ha="center", va="top", fontsize=8, color=canvas.MUTED)
    ax.text(n + 6, middle, "y →", ha="left", va="center", fontsize=8, color=canvas.MUTED)
    ax.text(middle, n + 48, f"rim: {limit:.{digits}f}\n{units}".rstrip(), ha="center", va="top", fontsize=8.5)
