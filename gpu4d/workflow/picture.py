"""Define a picture of the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from gpu4d.workflow.report.panels import Panel


@dataclass(frozen=True)
class Picture:
    """Text for a picture, which the result folder has as PNG and as SVG.

    Attributes
    ----------
    name : str
        File name without its ending.
    section, title, caption : str
        Heading under which it stands, what it is, and what it shows.
    wide : bool
        It takes the whole width of the page.
    errors : tuple of (nx, ny) array or None
        Standard errors of the maps in the figure, in their order and in the units that they are drawn in. They stand beside the values
        that the page reads out. Fewer than the maps: the others have none.
    panels : tuple of Panel
        The maps that are drawn in it. They are filled in when the figure is written.
    """

    name: str
    section: str
    title: str
    caption: str
    wide: bool = False
    errors: tuple[np.ndarray | None, ...] = field(default=(), compare=False, repr=False)
    panels: tuple[Panel, ...] = field(default=(), compare=False, repr=False)


Drawn = tuple[Picture, Any]  # with what a function of gpu4d.plot returned, or a matplotlib figure
IMAGES, DIFFRACTION, DISKS, STRAIN, PHASE = "Images", "Diffraction", "Bragg disks and lattice", "Strain", "Phase"  # sections
CLASSES, ORIENTATION, GLASS = "Classes", "Orientation", "Amorphous structure"
