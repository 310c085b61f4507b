"""Say where a picture is drawn: in a new figure, or in axes of the caller, whose figure is left as it is otherwise."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.errors import InputError
from gpu4d.plot import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BESIDE = (1.05, 0.55, 0.4, 0.45)  # of the caller's axes: where a legend with a drawing goes
BELOW = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.09)}  # of the caller's axes: under scale bar and axis marks
NOTE = 7.0  # points, of a note under the axes of the caller
LETTER = 0.5 * NOTE / 72  # inches: mean width of a letter of that size
RIGHT = {"loc": "upper left", "bbox_to_anchor": (1.03, 1.0)}


class Place:
    """The panels that a picture is drawn into.

    Parameters
    ----------
    shape : (int, int)
        Of the images, for the size of a new figure.
    rows, columns : int
        Panels of a new figure.
    ax : Axes, sequence of Axes or None
        Axes of the caller: one for each panel. None makes a figure.
    count : int, optional
        Panels that are drawn. Further ones of a new figure stay empty. By default all.
    legend : bool
        There is a drawing that explains the colours, beside the panels.
    below : float
        Inches left free under the panels of a new figure.

    Raises
    ------
    InputError
        `ax` is something else, or has another number of axes.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        rows: int = 1,
        columns: int = 1,
        *,
        ax: Axes | Sequence[Axes] | np.ndarray | None = None,
        count: int | None = None,
        legend: bool = False,
        below: float = 0.0,
    ):
        self.many = rows * columns > 1 or count is not None
        number = rows * columns if count is None else count
        self.own = ax is None
        if ax is None:
            figure, made = canvas.figure(shape, rows, columns, legend, below)
            self.figure: Figure = figure
            self.panels: list[Axes] = list(made.flat)[:number]
            self.key: Axes | None = made[0, 1] if legend else None
            for left in [] if legend else list(made.flat)[number:]:
                left.axis("off")
        else:
            self.panels = given_axes(ax, number)
            self.figure = self.panels[0].figure
            self.key = self.panels[0].inset_axes(BESIDE) if legend else None

    @property
    def ax(self) -> Axes:
        """The first panel."""
        return self.panels[0]

    @property
    def result(self) -> Any:
        """What a function of `gpu4d.plot` returns: the axes, or an array of them if there may be several panels."""
        from gpu4d.plot.panel import panels

        if not self.many:
            return self.ax
        made = panels(self.panels)
        return made if self.own else made.view(np.ndarray)  # a notebook shows the caller's figure already

    def legend(self, side: str = "below", **options: Any) -> Any:
        """Write the legend of all panels "below" or to the "right" of them; in axes of the caller, that of the first panel."""
        if self.own:
            return self.figure.legend(loc="outside lower left" if side == "below" else "outside right upper", **options)
        return self.ax.legend(**(BELOW if side == "below" else RIGHT), **options)

    def heading(self, text: str) -> None:
        """Write a title above all panels. In axes of the caller it stands before the title of the first panel."""
        if self.own:
            self.figure.suptitle(text, x=0.02, ha="left", fontsize=12, fontweight="bold")
        elif text:
            self.ax.set_title(f"{text}: {self.ax.get_title(loc='left')}", loc="left", pad=7)

    def footnote(self, text: str, color: str) -> None:
        """Write a line under all panels. In axes of the caller it stands under the last one, in lines as wide as it is."""
        if self.own:
            self.figure.supxlabel(text, fontsize=8.8, color=color, x=0.02, ha="left")
            return
        last = self.panels[-1]
        inches = last.get_position().width * last.get_figure().bbox.width / last.get_figure().dpi
        lines = textwrap.fill(" ".join(text.split()), max(20, int(inches / LETTER)))
        last.set_xlabel(lines, fontsize=NOTE, color=color, loc="left", labelpad=36)


def given_axes(ax: Any, number: int) -> list[Axes]:
    """Return the axes of the caller as a list.

    Raises
    ------
    InputError
        Something else, or not one for each panel.
    """
    from matplotlib.axes import Axes

    held = [ax] if isinstance(ax, Axes) else list(np.ravel(ax)) if isinstance(ax, list | tuple | np.ndarray) else None
    if held is None or not all(isinstance(one, Axes) for one in held):
        raise InputError(f"ax is a {type(ax).__name__}: need matplotlib axes, as plt.subplots() and figure.add_subplot() give")
    if len(held) != number:
        need = "the axes of one panel" if number == 1 else f"a list or array of {number} axes, one for each panel"
        raise InputError(f"ax has {len(held)} axes: need {need}")
    return held
