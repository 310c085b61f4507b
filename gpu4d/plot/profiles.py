"""Draw curves over the distance from the beam: a radial profile, its variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE, BAND = "#39618f", "#c3d3e6"
DASHED = ("#b3500b", "#4c7a4f", "#7a4c8f", "#8a7a1f")  # further curves, and from the start again after the last
DECADE = 10.0  # between the largest and the smallest misfit: less is drawn on a linear axis
FLOOR = 1e-3  # of a value: a band that reaches zero ends here on a logarithmic axis


@canvas.styled
def profile(
    radius: ArrayLike,
    values: ArrayLike,
    title: str,
    *,
    spread: ArrayLike | None = None,
    others: Mapping[str, ArrayLike] | None = None,
    marks: Sequence[tuple[float, str]] = (),
    label: str = "",
    pixel_size: float | None = None,
    units: str = "counts",
    log: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw values over the distance from the beam.

    Parameters
    ----------
    radius : (n,) array
        Distance from the beam, detector pixels, growing.
    values : (n,) array
        NaN and, on a logarithmic axis, values that are not positive are gaps.
    title : str
    spread : (n,) array, optional
        A band of ± this is drawn about the values, such as a standard deviation.
    others : mapping of str to (n,) array, optional
        Further curves, drawn dashed, by the names in the legend. The colours repeat after four curves.
    marks : sequence of (float, str)
        Distances in pixels that are marked, with their texts.
    label : str
        Name of the curve in the legend.
    pixel_size : float, optional
        Size of a detector pixel, 1/Å. The axis is in 1/Å then, else in pixels.
    units : str
        Title of the vertical axis.
    log : bool
        Draw the vertical axis logarithmically.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = profile([0.5, 1.5, 2.5], [9.0, 3.0, 1.0], "Profile", pixel_size=0.01)
    >>> ax.get_xlabel(), ax.lines[0].get_xdata().round(3).tolist()
    ('q (1/Å)', [0.005, 0.015, 0.025])
    """
    r = canvas.values_of(radius, "radius")
    y, band = canvas.values_of(values, "values"), None if spread is None else canvas.values_of(spread, "spread")
    further = [(name, canvas.values_of(curve, name)) for name, curve in (others or {}).items()]
    shapes = [curve.shape for curve in (y, band, *(curve for _, curve in further)) if curve is not None]
    if r.ndim != 1 or any(shape != r.shape for shape in shapes):
        raise InputError(f"radius is {r.shape}, and there are curves {shapes}: need one value for each radius")
    scale = pixel_size or 1.0
    place = Place((60, 100), ax=ax)
    ax, x = place.ax, r * scale
    if band is not None:
        low = np.maximum(y - band, FLOOR * y) if log else y - band
        ax.fill_between(x, low, y + band, color=BAND, lw=0, label="± standard deviation")
    ax.plot(x, y, color=LINE, lw=1.4, label=label or None)
    for (name, curve), color in zip(further, cycle(DASHED)):
        ax.plot(x, curve, color=color, lw=1.1, ls="--", label=name)
    for at, text in marks:
        ax.axvline(at * scale, color=canvas.MUTED, lw=0.9, ls=":")
        ax.annotate(text, (at * scale, 0.985), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points", va="top",
                    fontsize=8.5, color=canvas.MUTED)  # fmt: skip
    if log and np.isfinite(y).any() and np.nanmax(y) > 0:
        ax.set_yscale("log", nonpositive="mask")
    ax.set_xlim(0, x[-1] + (x[0] if x.size else 0) if x.size else 1)
    ax.set_title(title, loc="left", pad=7)
    ax.set_xlabel("q (1/Å)" if pixel_size else "distance from the beam (px)")
    ax.set_ylabel(units)
    ax.spines[["top", "right"]].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)  # below the axis, where no curve is
    return place.result


@canvas.styled
def convergence(
    values: ArrayLike, title: str, *, rounds: str = "iteration", units: str = "misfit", log: bool | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how a misfit falls while a method iterates.

    Parameters
    ----------
    values : (n,) array
        The misfit after, or before, each round. NaN and, on a logarithmic axis, values that are not positive are gaps.
    title : str
    rounds : str
        What a round is, for the horizontal axis.
    units : str
        Title of the vertical axis.
    log : bool, optional
        Draw the vertical axis logarithmically. By default if the misfit falls by more than a factor of ten.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> ax = convergence([4.0, 2.0, 1.5], "Convergence", rounds="sweep")
    >>> ax.lines[0].get_xdata().tolist()
    [1, 2, 3]
    """
    from matplotlib.ticker import MaxNLocator

    y = canvas.values_of(values, "values")
    if y.ndim != 1:
        raise InputError(f"values is {y.shape}: need one number for each {rounds}")
    place = Place((60, 100), ax=ax)
    ax = place.ax
    ax.plot(np.arange(1, len(y) + 1), y, color=LINE, lw=1.4, marker="o", ms=3)
    positive = y[np.isfinite(y) & (y > 0)]
    if positive.size and (positive.max() > DECADE * positive.min() if log is None else log):
        ax.set_yscale("log", nonpositive="mask")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(title, loc="left", pad=7)
    ax.set_xlabel(rounds)
    ax.set_ylabel(units)
    ax.spines[["top", "right"]].set_visible(False)
    return place.result
