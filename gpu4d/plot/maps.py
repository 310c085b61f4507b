"""Draw results over scan positions: an image, the components of strain, a histogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpu4d.arrays import Array, ArrayLike
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WARNING = "#b3500b"


@canvas.styled
def image(
    data: ArrayLike,
    title: str | None = None,
    *,
    units: str | None = None,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
    symmetric: bool = False,
    axes: tuple[str, str] = ("x", "y"),
    ax: Axes | None = None,
) -> Axes:
    """Draw a map with its colour bar, scale bar and axis marks.

    Parameters
    ----------
    data : (nx, ny) RealSlice or array
        NaN is drawn grey, with a note.
    title, units, pixel_size, pixel_units : optional
        Taken from the slice unless given.
    cmap : str
        A matplotlib colour map.
    limits : (float, float), optional
        Colour range. By default the 0.5 and 99.5 percentiles.
    symmetric : bool
        Use a diverging colour map whose range is symmetric about zero, for signed quantities.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    values = canvas.plane(data, "image")
    if symmetric:
        half = canvas.symmetric_range(values)
        limits, cmap = limits or (-half, half), "RdBu_r" if cmap == "gray" else cmap
    limits = limits or canvas.robust_range(values)
    place = Place(values.shape, ax=ax)
    ax = place.ax
    canvas.show(ax, values, title if title is not None else getattr(data, "name", ""), _units(units, data), cmap, limits)
    size, size_units = pixel(data, pixel_size, pixel_units)
    canvas.scale_bar(ax, values.shape, size, size_units)
    canvas.axis_marks(ax, axes)
    canvas.note_missing(ax, values)
    return place.result


class StrainMaps(Protocol):
    """Components of a strain tensor, (Rx, Ry) each; of a lattice also theta, radians."""

    @property
    def exx(self) -> Array:
        """Strain as a fraction, as `eyy` and `exy`."""

    @property
    def eyy(self) -> Array: ...

    @property
    def exy(self) -> Array: ...


@canvas.styled
def strain(
    result: StrainMaps,
    title: str = "Strain",
    *,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw the maps of a strain tensor with one common range, and the tensor's axes beside every map.

    Parameters
    ----------
    result : Strain or AmorphousStrain
        Has `exx, eyy, exy` (Rx, Ry), strain as a fraction, and where it is that of a lattice `theta`, radians. `axes.frame` ("scan" or
        "detector") and `axes.angle` (radians) say what its axes are.
    title : str
    ax : sequence of matplotlib Axes, optional
        Axes to draw into, four, or three for a glass. By default a new figure is made, which is `figure` of the returned array.

    Returns
    -------
    (n,) array of matplotlib.axes.Axes
        Strain in %, theta in degrees. The range is the 99th percentile of |strain|, rounded up. theta has the same range (1 % is
        0.573°), unless the lattice rotates much more than it is strained.
    """
    names = {"exx": "ε$_{xx}$", "eyy": "ε$_{yy}$", "exy": "ε$_{xy}$", "theta": "θ = ½(∂u$_x$/∂y − ∂u$_y$/∂x)"}
    lattice = hasattr(result, "theta")  # a glass does not show its rotation
    maps = {name: canvas.plane(getattr(result, name), name) for name in list(names)[: 3 + lattice]}
    if len({m.shape for m in maps.values()}) > 1:
        raise InputError(f"the strain maps have the shapes {[m.shape for m in maps.values()]}: need maps of one scan")
    half = nice_range(100 * canvas.symmetric_range(np.stack([maps[n] for n in ("exx", "eyy", "exy")])))
    half_theta = nice_range(100 * canvas.symmetric_range(maps["theta"])) if lattice else half
    half_theta = half if half_theta <= 2 * half else half_theta
    size, size_units = pixel(result.exx, pixel_size, pixel_units)
    frame_of, angle = tensor_axes(result)
    place = Place(maps["exx"].shape, *((2, 2) if lattice else (1, 3)), ax=ax)
    for panel, (name, values) in zip(place.panels, maps.items()):
        if name == "theta":
            degrees = math.degrees(half_theta / 100)
            canvas.show(panel, np.degrees(values), names[name], "°", "RdBu_r", (-degrees, degrees))
        else:
            canvas.show(panel, 100 * values, names[name], "%", "RdBu_r", (-half, half))
        canvas.scale_bar(panel, values.shape, size, size_units)
        _draw_tensor_axes(panel, frame_of, angle)
    canvas.note_missing(place.panels[2 if lattice else 0], maps["exx"])  # the panel in the lower left corner
    place.heading(title)
    place.footnote(*axes_text(frame_of, angle))
    return place.result


def tensor_axes(result: Any) -> tuple[str, float]:
    """Return which axes a strain tensor refers to, "scan" or "detector", and their rotation in radians, positive from x to y."""
    axes = getattr(result, "axes", None)
    return str(getattr(axes, "frame", "detector")), float(getattr(axes, "angle", 0.0))


def axes_text(frame_of: str, angle: float) -> tuple[str, str]:
    """Return the text on the tensor's axes under the picture, and its colour."""
    turned = f", turned by {math.degrees(angle):.1f}° from x towards y" if angle else ""
    if frame_of == "scan":
        return f"x, y of the tensor: the scan's axes (x down, y right){turned}. Tension is positive.", canvas.MUTED
    return (
        f"x, y of the tensor: the DETECTOR's axes{turned}; the rotation between detector and scan is not calibrated,\n"
        "so the direction of these components on the map is not known.",
        WARNING,
    )


def _draw_tensor_axes(ax: Any, frame_of: str, angle: float) -> None:
    """Draw arrows of the tensor's x and y: solid along the picture's axes, or marked as detector axes."""
    color = canvas.INK if frame_of == "scan" else WARNING
    names = ("q$_x$", "q$_y$") if frame_of == "detector" and not angle else ("x", "y")  # turned axes are no longer the detector's
    origin, length = (-36.0, -7.0) if abs(angle) < 0.02 else (-30.0, -20.0), 15.0
    for name, (down, right) in zip(names, ((math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle)))):
        end = (origin[0] + length * right, origin[1] - length * down)
        ha = "left" if right > 0.5 else "right" if right < -0.5 else "center"
        va = "top" if down > 0.5 else "bottom" if down < -0.5 else "center"
        canvas.arrow(ax, origin, end, name, color, ha=ha, va=va)


def nice_range(half: float) -> float:
    """Return the next 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 × 10ⁿ at or above `half`.

    Examples
    --------
    >>> nice_range(1.3), nice_range(0.021)
    (1.5, 0.025)
    """
    power = 10.0 ** math.floor(math.log10(half))
    return next(round(step * power, 12) for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= half * (1 - 1e-9))


@canvas.styled
def histogram(
    values: ArrayLike,
    title: str,
    *,
    label: str = "",
    recommended: tuple[float, float] | None = None,
    bins: int | None = None,
    ylabel: str = "positions",
    ax: Axes | None = None,
) -> Axes:
    """Draw how often each value occurs. Whole numbers get one bar each.

    Parameters
    ----------
    values : array of any shape
        Bragg disks per pattern, a residual, … NaN is left out.
    title, label, ylabel : str
        Title, and what the axes show.
    recommended : (float, float), optional
        A band that is shaded.
    bins : int, optional
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    flat = canvas.values_of(values, "values").ravel()
    flat = flat[np.isfinite(flat)]
    place = Place((60, 100), ax=ax)
    ax = place.ax
    if recommended is not None:
        ax.axvspan(*recommended, color="#e3efe6", zorder=0, label=f"recommended {recommended[0]:g}–{recommended[1]:g}")
    whole = flat.size > 0 and bins is None and bool(np.all(flat == np.round(flat))) and np.ptp(flat) <= 120
    if whole:
        number, count = np.unique(flat, return_counts=True)
        ax.bar(number, count, width=0.85, color="#39618f")
    elif flat.size:
        low, high = canvas.robust_range(flat, 0.0, 99.8)
        ax.hist(flat, bins=bins or 60, range=(low, high), color="#39618f")
    ax.set_title(title, loc="left", pad=7)
    ax.set_xlabel(label)
    ax.set_ylabel(ylabel)
    ax.spines[["top", "right"]].set_visible(False)
    if flat.size:
        middle = float(np.median(flat))
        ax.axvline(middle, color="#b3500b", lw=1.1, label=f"median {middle:.3g}")
        ax.legend(loc="upper left", bbox_to_anchor=(0.0, 1.0))
        ax.set_ylim(top=ax.get_ylim()[1] * 1.18)
    else:
        ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", color=canvas.MUTED)
    return place.result


def pixel(data: Any, size: float | None, units: str | None) -> tuple[float, str]:
    """Return the pixel size and its units: as given, else as the slice says, else pixels."""
    if size is not None:
        return float(size), units or "px"
    return float(getattr(data, "pixel_size", 1.0) or 1.0), getattr(data, "pixel_units", "px") or "px"


def _units(given: str | None, data: Any) -> str:
    return given if given is not None else getattr(data, "units", "")
