"""Take the maps out of a figure: values, colours, and where in the picture each is drawn, so that a page can read them out."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from gpu4d.plot import scales
from gpu4d.plot.readings import Reading, reading_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 65534  # largest number of a quantised value; 65535 means that there is none
NO_VALUE = 65535
COLOURS = 256  # of a colour map
TEXT = 8.5  # points: numbers of a colour bar, as `gpu4d.plot.canvas` writes them
HEADER = 24  # bytes of a PNG file up to its width and height, which are the last eight


class Place(NamedTuple):
    """A rectangle in a picture, as shares of its width and height, from the upper left corner."""

    left: float
    top: float
    width: float
    height: float


class Packed(TypedDict):
    """A map as it stands in the page: see `packed`."""

    type: str
    low: float
    step: float
    bytes: str


class Norm(NamedTuple):
    """How values become colours: t = ((v − low) / (high − low)) ^ power, or the logarithm of v between those of low and high."""

    kind: str  # "power" or "log"
    low: float
    high: float
    power: float


@dataclass(frozen=True)
class Panel:
    """A map in a picture.

    Attributes
    ----------
    title, units : str
        As the picture says them.
    values : (nx, ny) float64
        NaN where there is no value.
    error : (nx, ny) float64 or None
        Standard errors of the values.
    place, bar, numbers, scale : Place or None
        Where the map, its colour bar, the bar with its numbers, and the scale bar with its length are.
    text : float
        Height of the numbers as a share of the height of the picture.
    colours : (256, 3) uint8
    norm : Norm
    pixel_size, pixel_units : float, str
    reading : Reading or None
        What colours stand for, where the map is drawn in colours without a colour bar. `values` is then the first of its maps.
    rgb : (nx, ny, 3) uint8 or None
        Those colours.
    """

    title: str
    units: str
    values: np.ndarray
    error: np.ndarray | None
    place: Place
    bar: Place | None
    numbers: Place | None
    scale: Place | None
    text: float
    colours: np.ndarray
    norm: Norm
    pixel_size: float
    pixel_units: str
    reading: Reading | None = None
    rgb: np.ndarray | None = None


def panels_of(figure: Figure, png: Path, errors: Sequence[np.ndarray | None] = ()) -> tuple[Panel, ...]:
    """Return the maps of a figure that was just written as PNG. Empty if the file does not have the size of the figure.

    A file has another size if the user's settings of matplotlib crop it, or if it was not drawn.

    Parameters
    ----------
    figure : matplotlib Figure
    png : Path
    errors : sequence of (nx, ny) array or None
        Standard errors of the maps, in their order.
    """
    if not _is_whole(figure, png):
        return ()
    found: list[Panel] = []
    for ax in figure.axes:
        panel = _panel(figure, ax, errors[len(found)] if len(found) < len(errors) else None)
        if panel is not None:
            found.append(panel)
    return tuple(found)


def _is_whole(figure: Figure, png: Path) -> bool:
    """Say whether a PNG file has the proportions of the figure, so that places in the one are those in the other."""
    with open(png, "rb") as file:
        head = file.read(HEADER)
    if len(head) < HEADER or head[12:16] != b"IHDR":
        return False
    wide, high = struct.unpack(">II", head[16:24])
    inches = figure.get_size_inches()
    dpi = wide / inches[0]
    return bool(dpi > figure.dpi / 2 and abs(high - dpi * inches[1]) < 2)  # a blank picture in place of the figure is tiny


def _panel(figure: Figure, ax: Axes, error: np.ndarray | None) -> Panel | None:
    """Return the map in a panel. None if it holds no map of numbers, such as a curve, or a picture in colours that stand for nothing."""
    from matplotlib.colors import BoundaryNorm

    if len(ax.images) != 1 or not ax.get_visible():
        return None
    image = ax.images[0]
    drawn = image.get_array()
    if drawn is not None and drawn.ndim == 3 and (reading := reading_of(ax)) is not None:
        return _in_colours(figure, ax, np.asarray(drawn)[..., :3], reading)
    if drawn is None or drawn.ndim != 2 or 0 in drawn.shape or isinstance(image.norm, BoundaryNorm):
        return None
    norm = _norm(image.norm)
    if norm is None:
        return None
    values = np.ma.filled(np.ma.asarray(drawn, dtype=np.float64), np.nan)
    bar = getattr(image, "colorbar", None)
    size, unit = scales.size_of(ax)
    return Panel(
        title=plain(ax.get_title(loc="left")),
        units="" if bar is None else plain(bar.ax.get_ylabel()).partition(", shown to")[0].partition(", log")[0],
        values=values,
        error=None if error is None or np.shape(error) != values.shape else np.asarray(error, dtype=np.float64),
        place=_place_of_map(figure, ax, values.shape),
        bar=None if bar is None else _place(figure, bar.ax.get_window_extent().get_points()),
        numbers=None if bar is None else _place(figure, bar.ax.get_tightbbox().get_points()),
        scale=_scale(figure, ax),
        text=round(TEXT / 72 / float(figure.get_size_inches()[1]), 5),
        colours=(255 * image.cmap(np.linspace(0, 1, COLOURS))[:, :3] + 0.5).astype(np.uint8),
        norm=norm,
        pixel_size=size,
        pixel_units=unit,
    )


def _in_colours(figure: Figure, ax: Axes, drawn: np.ndarray, reading: Reading) -> Panel | None:
    """Return a map that was drawn in colours, with the values that they stand for."""
    if any(one.shape != drawn.shape[:2] for one in reading.maps):
        return None
    size, unit = scales.size_of(ax)
    return Panel(
        title=plain(ax.get_title(loc="left")),
        units=plain(reading.units),
        values=np.asarray(reading.maps[0], dtype=np.float64),
        error=None,
        place=_place_of_map(figure, ax, drawn.shape[:2]),
        bar=None,
        numbers=None,
        scale=_scale(figure, ax),
        text=round(TEXT / 72 / float(figure.get_size_inches()[1]), 5),
        colours=np.zeros((0, 3), np.uint8),
        norm=Norm("power", 0.0, 1.0, 1.0),
        pixel_size=size,
        pixel_units=unit,
        reading=reading,
        rgb=(drawn if drawn.dtype == np.uint8 else 255 * drawn + 0.5).astype(np.uint8),
    )


def _place_of_map(figure: Figure, ax: Axes, shape: tuple[int, ...]) -> Place:
    """Return where the pixels of a map are in the picture."""
    return _place(figure, ax.transData.transform([(-0.5, -0.5), (shape[1] - 0.5, shape[0] - 0.5)]))


def _scale(figure: Figure, ax: Axes) -> Place | None:
    """Return where the scale bar of a panel and its length are."""
    drawn = [one for one in (*ax.lines, *ax.texts) if one.get_gid() in ("scale bar", "scale bar label")]
    if not drawn:
        return None
    points = np.concatenate([one.get_window_extent().get_points() for one in drawn])
    corners = np.stack([points.min(axis=0), points.max(axis=0)])
    return _place(figure, corners)


def _norm(norm: object) -> Norm | None:
    """Describe how values become colours. None for a way that the page does not draw."""
    from matplotlib.colors import LogNorm, Normalize, PowerNorm

    low, high = getattr(norm, "vmin", None), getattr(norm, "vmax", None)
    if low is None or high is None or not high > low:
        return None
    if isinstance(norm, PowerNorm):
        return Norm("power", float(low), float(high), float(norm.gamma))
    if isinstance(norm, LogNorm):
        return Norm("log", float(low), float(high), 1.0)
    return Norm("power", float(low), float(high), 1.0) if type(norm) is Normalize else None


def _place(figure: Figure, corners: np.ndarray) -> Place:
    """Return a rectangle between two corners, display pixels from the lower left, as shares from the upper left."""
    wide, high = figure.bbox.width, figure.bbox.height
    (left, right), (low, top) = np.sort(corners[:, 0]), np.sort(corners[:, 1])
    shares = left / wide, 1 - top / high, (right - left) / wide, (top - low) / high
    return Place(*(round(float(share), 5) for share in shares))


def plain(text: str) -> str:
    """Return a text of a figure without the signs of mathematical typesetting.

    Examples
    --------
    >>> plain("ε$_{xx}$"), plain("Å$^{-1}$")
    ('ε_xx', 'Å^-1')
    """
    return text.replace("$", "").replace("{", "").replace("}", "")


def packed(values: np.ndarray, exact: bool = False) -> Packed:
    """Pack a map for the page: numbers, byte planes, deflate, base64.

    Parameters
    ----------
    values : (nx, ny) float64
    exact : bool
        Keep the numbers as float32, not as 65535 steps between the smallest and the largest. Whole numbers over less than 65535 are
        exact in steps, too.

    Returns
    -------
    Packed
        `type` "u2": value = low + step × number, 65535 means no value, and a value is at most step / 2 off. `type` "f4": the values.
        `bytes` is base64 of a zlib stream: first the lowest byte of every number, then the next one.
    """
    plain_values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(plain_values)
    low, high = (float(plain_values[finite].min()), float(plain_values[finite].max())) if finite.any() else (0.0, 0.0)
    whole = bool(finite.any()) and high - low <= LEVELS and bool(np.all(plain_values[finite] == np.round(plain_values[finite])))
    if exact and not whole:
        return {"type": "f4", "low": 0.0, "step": 1.0, "bytes": _encoded(np.where(finite, plain_values, np.nan).astype("<f4"))}
    step = 1.0 if whole else (high - low) / LEVELS
    numbers = np.full(plain_values.shape, NO_VALUE, "<u2")
    numbers[finite] = np.round((plain_values[finite] - low) / (step or 1.0)).astype("<u2")
    return {"type": "u2", "low": low, "step": step, "bytes": _encoded(numbers)}


def unpacked(data: Packed, shape: tuple[int, int]) -> np.ndarray:
    """Return the values of `packed`, (nx, ny) float64, as the page's script computes them."""
    kind = np.dtype(f"<{data['type']}")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(data["bytes"])), np.uint8).reshape(kind.itemsize, -1)
    numbers = np.ascontiguousarray(planes.T).view(kind).reshape(shape)
    if kind.kind == "f":
        return numbers.astype(np.float64)
    return np.where(numbers == NO_VALUE, np.nan, data["low"] + data["step"] * numbers)


def _encoded(numbers: np.ndarray) -> str:
    planes = numbers.reshape(-1, 1).view(np.uint8).T  # bytes of equal weight beside each other pack better
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode("ascii")
