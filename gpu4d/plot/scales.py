"""Remember how large a pixel of the data is in each panel of a figure, and say it in the files of pictures.

PNG files have the size of a picture's pixel on the specimen in the chunk sCAL, which the standard has for this. Their chunk pHYs is the
size on paper. The size of a pixel of the data stands in text chunks, in the metadata of SVG and PDF, and in the description of TIFF.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRES = {"Å": 1e-10, "nm": 1e-9}  # a unit of length in metres


class Scale(NamedTuple):
    """Size of a pixel of the data, and how many pixels of the picture show it."""

    size: float
    unit: str
    pixels: float


_sizes: weakref.WeakKeyDictionary[Axes, tuple[float, str]] = weakref.WeakKeyDictionary()


def remember(ax: Axes, size: float, unit: str) -> None:
    """Keep the size of a pixel of the data that a panel shows, "px" if it is not known."""
    _sizes[ax] = (float(size), unit)


def scales(figure: Figure) -> list[Scale]:
    """Return the scale of every panel of known pixels, at the resolution at which the figure was drawn last."""
    found = []
    for ax in figure.axes:
        size, unit = _sizes.get(ax, (1.0, "px"))
        if unit != "px":
            corners = ax.transData.transform([(0.0, 0.0), (1.0, 0.0)])
            found.append(Scale(size, unit, float(abs(corners[1, 0] - corners[0, 0]))))
    return found


def described(figure: Figure) -> str:
    """Return the sizes of pixels in words; empty if none is known.

    Examples
    --------
    >>> import gpu4d
    >>> described(gpu4d.plot.image(gpu4d.RealSlice(np.eye(4), "bf", "counts", 5.0, "Å")))
    'pixel size of the data: 5 Å'
    """
    sizes = list(dict.fromkeys(f"{scale.size:.10g} {scale.unit}" for scale in scales(figure)))
    return f"pixel size of the data: {', '.join(sizes)}" if sizes else ""


def png_info(figure: Figure, software: str) -> Any:
    """Return the chunks of a PNG file of a figure that was drawn: texts, and the size of a pixel on the specimen.

    Panels of different scale have no common size: their file has the texts alone.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", software)
    held = scales(figure)
    if not held:
        return info
    info.add_itxt("Description", described(figure))
    if len({(scale.size, scale.unit) for scale in held}) == 1:
        size, unit, pixels = held[0]
        info.add_text("Pixel size", f"{size:.10g}")
        info.add_itxt("Pixel unit", unit)
        if pixels > 0 and np.ptp([scale.pixels for scale in held]) < 1e-6 * pixels:
            info.add_itxt("Scale", f"{size / pixels:.10g} {unit} per pixel of this picture")
            if unit in METRES:
                metres = f"{size / pixels * METRES[unit]:.10e}".encode()
                info.add(b"sCAL", b"\x01" + metres + b"\0" + metres)
    return info
