"""Remember how large a pixel of the data is in each panel of a figure, and say it in the files of pictures.

PNG files have the size of a picture's pixel on the specimen in the chunk sCAL, which the standard has for this. Their chunk pHYs is the
size on paper. The size of a pixel of the data stands in text chunks, in the metadata of SVG and PDF, and in the description of TIFF.
"""

from __future__ import annotations

import struct
import weakref
import zlib
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


def size_of(ax: Axes) -> tuple[float, str]:
    """Return the size of a pixel of the data that a panel shows, and its unit. (1, "px") if it is not known."""
    return _sizes.get(ax, (1.0, "px"))


def scales(figure: Figure) -> list[Scale]:
    """Return the scale of every panel of known pixels, at the resolution at which the figure was drawn last."""
    found = []
    for ax in figure.axes:
        size, unit = size_of(ax)
        if unit != "px":
            corners = ax.transData.transform([(0.0, 0.0), (1.0, 0.0)])
            found.append(Scale(size, unit, float(abs(corners[1, 0] - corners[0, 0]))))
    return found


def described(figure: Figure) -> str:
    """Return the sizes of pixels in words; empty if none is known.

    Examples
    --------
    >>> import gpu4d
    >>> described(gpu4d.plot.image(gpu4d.RealSlice(np.eye(4), "bf", "counts", 5.0, "Å")).figure)
    'pixel size of the data: 5 Å'
    """
    sizes = list(dict.fromkeys(f"{scale.size:.10g} {scale.unit}" for scale in scales(figure)))
    return f"pixel size of the data: {', '.join(sizes)}" if sizes else ""


def png_info(figure: Figure, software: str) -> Any:
    """Return the text chunks of a PNG file of a figure that was drawn, as Pillow takes them."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Software", software)
    held = scales(figure)
    if held:
        info.add_itxt("Description", described(figure))
    if len({(scale.size, scale.unit) for scale in held}) == 1:
        info.add_text("Pixel size", f"{held[0].size:.10g}")
        info.add_itxt("Pixel unit", held[0].unit)
    step = picture_pixel(held)
    if step is not None:
        info.add_itxt("Scale", f"{step[0]:.10g} {step[1]} per pixel of this picture")
    return info


def picture_pixel(held: list[Scale]) -> tuple[float, str] | None:
    """Return the size and the unit of a pixel of a picture. None if its panels are of different scale, or of none that is known."""
    if not held or len({(scale.size, scale.unit) for scale in held}) > 1:
        return None
    size, unit, pixels = held[0]
    even = pixels > 0 and np.ptp([scale.pixels for scale in held]) < 1e-6 * pixels
    return (size / pixels, unit) if even else None


def with_physical_scale(png: bytes, figure: Figure) -> bytes:
    """Return a PNG file with the size of its pixels on the specimen, m, if it is known: the chunk sCAL, which Pillow does not write."""
    step = picture_pixel(scales(figure))
    if step is None or step[1] not in METRES:
        return png
    metres = f"{step[0] * METRES[step[1]]:.10e}".encode()
    chunk = b"sCAL" + b"\x01" + metres + b"\0" + metres
    at = png.index(b"IDAT") - 4  # before the first chunk of data
    return png[:at] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[at:]
