"""Draw maps of classes or phases with a legend, and the mean patterns of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.detector import draw_pattern
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place
from gpu4d.plot.readings import Reading, remember

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito (2008), which readers who cannot tell red from green see apart; then darker ones of other hues
COLORS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#4b3d8f", "#8c6d31", "#1c2530", "#7fbf7b", "#b2182b",
)  # fmt: skip
ACROSS = 3  # panels side by side; four are drawn as two rows of two


def color_of(number: int) -> str:
    """Return the colour of a class. After twelve classes colours repeat."""
    return COLORS[number % len(COLORS)]


@canvas.styled
def label_map(
    labels: ArrayLike,
    names: Sequence[str],
    title: str | None = None,
    *,
    shade: ArrayLike | None = None,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which class or phase each position has, in one colour each, with a legend that says how much of the map it covers.

    Parameters
    ----------
    labels : (Rx, Ry) RealSlice or array
        Whole numbers from 0. Negative or NaN: none, drawn grey.
    names : sequence of str
        Of the classes, for the legend.
    title : str, optional
    shade : (Rx, Ry) array, optional
        0 … 1: colours fade towards white where it is small, for example where the share of the class is small.
    pixel_size, pixel_units : optional
        Taken from the slice unless given.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        A label has no name, or the arrays have other shapes.
    """
    from matplotlib.colors import to_rgb

    values = canvas.plane(labels, "labels")
    number = np.where(np.isfinite(values) & (values >= 0), values, -1).astype(int)
    if number.max() >= len(names):
        raise InputError(f"labels go to {number.max()}, and there are {len(names)} names: need one for each class")
    colors = np.array([to_rgb(color_of(k)) for k in range(len(names))] or [(1.0, 1.0, 1.0)])
    shown = colors[np.clip(number, 0, None)]
    if shade is not None:
        weight = np.clip(np.nan_to_num(canvas.plane(shade, "shade")), 0.0, 1.0)
        if weight.shape != number.shape:
            raise InputError(f"shade is {weight.shape}, labels are {number.shape}: need one value for each position")
        shown = 1 - weight[..., None] * (1 - shown)
    shown = np.where((number < 0)[..., None], np.array(to_rgb(canvas.NO_VALUE)), shown)
    place = Place(number.shape, below=0.0, ax=ax)
    ax = place.ax
    ax.imshow(shown, origin="upper", interpolation="nearest")
    remember(ax, Reading("name", (np.where(number < 0, np.nan, number),), names=tuple(names)))
    canvas.frame(ax, title if title is not None else getattr(labels, "name", ""))
    canvas.scale_bar(ax, number.shape, *pixel(labels, pixel_size, pixel_units))
    canvas.axis_marks(ax)
    canvas.note_missing(ax, np.where(number < 0, np.nan, 0.0))
    _legend(place, number, names)
    return place.result


def _legend(place: Place, number: np.ndarray, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    seen = max(int((number >= 0).sum()), 1)
    share = [100 * (number == k).sum() / seen for k in range(len(names))]
    handles = [Patch(color=color_of(k), label=f"{name}\n{part:.0f} %" if part >= 1 or not part else f"{name}\n{part:.1g} %")
               for k, (name, part) in enumerate(zip(names, share))]  # fmt: skip
    place.legend("right", handles=handles, handlelength=1.1, handleheight=1.1, labelspacing=0.8, fontsize=8.5)


@canvas.styled
def class_patterns(
    patterns: ArrayLike,
    names: Sequence[str],
    *,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    power: float = 0.25,
    ax: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw the mean patterns of classes side by side on one colour scale, each framed in the colour that the class has on the map.

    Parameters
    ----------
    patterns : (J, Qx, Qy) DiffractionSlice or array
    names : sequence of str
        Of the classes.
    pixel_size, pixel_units : optional
        Taken from the slice unless given.
    power : float
        Colours show counts to this power, so that weak reflections are seen beside the unscattered beam.
    ax : sequence of matplotlib Axes, optional
        Axes to draw into, one for each pattern. By default a new figure is made, which is `figure` of the returned array.

    Returns
    -------
    (n,) array of matplotlib.axes.Axes

    Raises
    ------
    InputError
        There is not one name for each pattern.
    """
    stack = canvas.values_of(patterns, "patterns")
    if stack.ndim != 3 or 0 in stack.shape or len(stack) != len(names):
        raise InputError(f"patterns is {stack.shape} with {len(names)} names: need (J, Qx, Qy), and one name for each pattern")
    size, units = pixel(patterns, pixel_size, pixel_units)
    columns = 2 if len(stack) == 4 else min(ACROSS, len(stack))
    rows = math.ceil(len(stack) / columns)
    place = Place(stack.shape[1:], rows, columns, ax=ax, count=len(stack))
    top = max(canvas.robust_range(one, 0.0, 99.95)[1] for one in stack)
    for k, panel in enumerate(place.panels):
        draw_pattern(panel, stack[k], names[k], getattr(patterns, "units", "") or "counts", power, top)
        canvas.scale_bar(panel, stack[k].shape, size, units)
        for side in panel.spines.values():
            side.set(color=color_of(k), linewidth=2.5)
        if k == 0:
            canvas.axis_marks(panel, ("q$_x$", "q$_y$"))
    return place.result
