"""Define a picture of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Picture:
    """Text for a PNG in the result folder."""

    name: str  # file name without .png
    section: str
    title: str
    caption: str
    wide: bool = False


Drawn = tuple[Picture, Any]  # with what a function of gpu4d.plot returned, or a matplotlib figure
IMAGES, DIFFRACTION, DISKS, STRAIN, PHASE = "Images", "Diffraction", "Bragg disks and lattice", "Strain", "Phase"  # sections
CLASSES, ORIENTATION, GLASS = "Classes", "Orientation", "Amorphous structure"
