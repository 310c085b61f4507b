"""Draw which of several lattices explains each position."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d import arrays
from gpu4d.crystal import LatticesFit
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.classes import color_of
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place
from gpu4d.plot.readings import Reading, remember

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.17  # inches, of the legend
TITLE = 0.25  # inches, more than the layout leaves for the title of a flat map with a legend
WIDTH = 62  # letters of a line of the legend


@canvas.styled
def lattice_map(
    fit: LatticesFit,
    names: Sequence[str] | None = None,
    title: str = "Which lattice explains each position",
    *,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the lattice with most evidence at each position in colours, with a legend.

    Parameters
    ----------
    fit : LatticesFit
        From `gpu4d.crystal.fit_lattices`.
    names : sequence of str, optional
        A text for each lattice, as `Lattices.names`. By default their numbers.
    title : str
    pixel_size, pixel_units : optional
        Size of a position, for the scale bar.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
        Positions that no lattice explains are grey. Those with several lattices have a white dot.

    Raises
    ------
    InputError
        Not one name for each lattice.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    if not isinstance(fit, LatticesFit):
        raise InputError(f"fit is a {type(fit).__name__}: need a LatticesFit, as fit_lattices(disks, find_lattices(disks)) gives")
    texts = [f"lattice {k}" for k in range(len(fit))] if names is None else [f"{k}: {name}" for k, name in enumerate(names)]
    if len(texts) != len(fit):
        raise InputError(f"{len(texts)} names for {len(fit)} lattices: need one for each")
    lattice_names = tuple(texts)
    label, overlap = canvas.plane(fit.label, "label").astype(int), arrays.to_numpy(fit.overlap)
    texts = [textwrap.fill(f"{text}: {100 * share:.0f} %", WIDTH) for text, share in zip(texts, fit.shares)]
    if (label < 0).any():
        texts.append(f"none: {100 * np.mean(label < 0):.0f} %")
    both = np.argwhere(overlap)
    if len(both):
        texts.append(f"dots: several lattices, {100 * np.mean(overlap):.0f} %")
    lines = sum(1 + text.count("\n") for text in texts)
    place = Place(label.shape, below=LINE * (lines + 1) + TITLE, ax=ax)
    ax = place.ax
    palette = np.array([to_rgb(canvas.NO_VALUE), *(to_rgb(color_of(k)) for k in range(len(fit)))])
    ax.imshow(palette[label + 1], origin="upper", interpolation="nearest")
    remember(ax, Reading("name", (np.where(label < 0, np.nan, label),), names=lattice_names))
    canvas.frame(ax, title)
    canvas.scale_bar(ax, label.shape, *pixel(None, pixel_size, pixel_units))
    canvas.axis_marks(ax)
    size = float(np.clip(160 / max(label.shape), 0.8, 4.0))
    ax.plot(both[:, 1], both[:, 0], "o", color="white", markersize=size, markeredgewidth=0)
    keys = [Patch(facecolor=palette[k + 1], label=text) for k, text in enumerate(texts[: len(fit)])]
    if (label < 0).any():
        keys.append(Patch(facecolor=canvas.NO_VALUE, label=texts[len(fit)]))
    if len(both):
        keys.append(Patch(facecolor="none", edgecolor="none", label=texts[-1]))
    place.legend(handles=keys, frameon=False, handlelength=1.2)
    return place.result
