"""Define axes that a notebook shows. This module imports matplotlib, and is imported with the first picture."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 96  # dots per inch in a notebook: those of a screen


class Panel(Axes):
    """Axes of a picture that gpu4d made. As the last line of a cell they show their figure, which pyplot does not know."""

    def _repr_png_(self) -> bytes:
        return png(self.figure)


class Panels(np.ndarray):
    """Axes of one picture with several panels: a one-dimensional array in the order of drawing, which notebooks show."""

    @property
    def figure(self) -> Figure:
        """Figure of the panels."""
        return self.flat[0].figure

    def _repr_png_(self) -> bytes:
        return png(self.figure)


def panels(axes: list[Axes]) -> Panels:
    """Return axes as an array that a notebook shows."""
    made = np.empty(len(axes), dtype=object)
    made[:] = axes
    return made.view(Panels)


def png(figure: Figure, dpi: float = DPI) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=dpi, metadata={"Software": "gpu4d"})
    return written.getvalue()
