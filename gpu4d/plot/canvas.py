"""Draw what all pictures share: the figure, the panel with its colour bar, the scale bar, the axis marks."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.plot import scales

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1c2530"
MUTED = "#6b7683"
NO_VALUE = "#c9ced4"  # colour of missing values (NaN)
_PANEL = 4.2  # inches, the longer side of a panel
FORMATS: dict[str, dict[str, Any]] = {  # ending -> options of savefig: each format has its own word for the program that wrote it
    ".png": {"metadata": {"Software": "gpu4d"}},
    ".svg": {"metadata": {"Creator": "gpu4d", "Date": None}},
    ".pdf": {"metadata": {"Creator": "gpu4d", "CreationDate": None}},
    ".tif": {"pil_kwargs": {"compression": "tiff_lzw"}},
    ".tiff": {"pil_kwargs": {"compression": "tiff_lzw"}},
}
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": "#8a94a0",
    "axes.linewidth": 0.7,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
}


P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it draws with the library's fonts and lines, for any matplotlib settings of the caller."""
    import functools

    @functools.wraps(draw)
    def inside(*args: P.args, **options: P.kwargs) -> R:
        try:
            import matplotlib
        except ImportError:
            raise InputError("pictures need matplotlib: pip install 'gpu4d[app]'") from None
        settings = {**matplotlib.rcParamsDefault, **STYLE}
        del settings["backend"]  # it stays as it is. To ask for it would import pyplot, which takes half a second
        with matplotlib.rc_context(settings):
            return draw(*args, **options)

    return inside


def figure(shape: tuple[int, int], rows: int = 1, columns: int = 1, legend: bool = False, below: float = 0.0) -> tuple[Figure, Any]:
    """Make a figure of equal panels for images of `shape`, drawn by Agg. No window opens and no pyplot state changes.

    `legend` adds a narrow panel on the right, `below` inches under everything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from gpu4d.plot.panel import Panel

    height, width = (max(1, n) for n in shape)
    scale = _PANEL / max(height, width)
    panel = (max(scale * width, 1.9), max(scale * height, 0.9))
    size = (columns * (panel[0] + 1.15), rows * (panel[1] + 0.85) + below)
    made = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    made.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    options: dict[str, Any] = {"squeeze": False, "subplot_kw": {"axes_class": Panel}}
    if legend:
        return made, made.subplots(1, 2, width_ratios=(panel[0], 0.95), **options)
    return made, made.subplots(rows, columns, **options)


def save(picture: Figure | Axes | np.ndarray, path: str | Path, dpi: int = 160) -> Path:
    """Write a picture in the format that the name of the file says.

    Parameters
    ----------
    picture : matplotlib Axes, array of them, or Figure
        What a function of `gpu4d.plot` returned, or a figure. All of the figure is written.
    path : path
        Ends in .png, .svg, .pdf, .tif or .tiff. An existing file is replaced.
    dpi : int
        Dots per inch of PNG and TIFF, and of images inside the others.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        The name ends in something else, or `picture` is no picture.

    Examples
    --------
    >>> import tempfile, numpy as np, gpu4d
    >>> gpu4d.plot.save(gpu4d.plot.image(np.eye(4)), Path(tempfile.mkdtemp()) / "eye.svg").read_text()[:5]
    '<?xml'
    """
    path = Path(path)
    name = path.suffix.lower()
    if name not in FORMATS:
        raise InputError(f"{path.name}: a picture is written as {', '.join(FORMATS)}: give it one of these endings")
    whole = figure_of(picture)
    ours = _has_our_canvas(whole) and not _is_set_up()
    if name == ".png" and ours:
        _save_png(whole, path, dpi)
    elif name == ".svg" and ours:
        _save_svg(whole, path, dpi)
    else:
        whole.savefig(path, dpi=dpi, format=name[1:], **_with_scale(name, scales.described(whole)))
    return path


def figure_of(picture: Any) -> Figure:
    """Return the figure of what a function of `gpu4d.plot` returned: of axes, or of an array of them. A figure is returned as it is."""
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    one = picture.flat[0] if isinstance(picture, np.ndarray) and picture.size else picture
    found = one.get_figure() if isinstance(one, Artist) else None
    while found is not None and not isinstance(found, Figure):  # a part of a figure
        found = found.figure
    if found is None:
        raise InputError(f"picture is a {type(picture).__name__}: need the axes that a function of gpu4d.plot returned, or a figure")
    return found


def _with_scale(name: str, text: str) -> dict[str, Any]:
    """Return the options of savefig for a format, with what is said of the scale where the format has a place for it."""
    options = {key: dict(value) for key, value in FORMATS[name].items()}
    place = {".png": ("metadata", "Description"), ".svg": ("metadata", "Description"), ".pdf": ("metadata", "Subject")}
    where, key = place.get(name, ("pil_kwargs", "description"))
    if text:
        options[where][key] = text
    return options


def _has_our_canvas(picture: Figure) -> bool:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    return type(picture.canvas) is FigureCanvasAgg


def _is_set_up() -> bool:
    """Return True if the caller has changed how matplotlib saves figures."""
    import matplotlib

    usual, now = matplotlib.rcParamsDefault, matplotlib.rcParams
    return any(now[name] != usual[name] for name in usual if name.startswith("savefig."))


def _save_png(picture: Figure, path: Path, dpi: int) -> None:
    """Write a figure as PNG, drawn once. `savefig` draws everything twice, because it draws once to place the panels."""
    from matplotlib.image import imsave

    before = picture.dpi
    try:
        picture.set_dpi(dpi)
        picture.canvas.draw()
        drawn = np.asarray(picture.canvas.buffer_rgba())  # type: ignore[attr-defined]
        written = io.BytesIO()
        imsave(written, drawn, format="png", dpi=dpi, pil_kwargs={"pnginfo": scales.png_info(picture, "gpu4d")})
        path.write_bytes(scales.with_physical_scale(written.getvalue(), picture))
    finally:
        picture.set_dpi(before)


def _save_svg(picture: Figure, path: Path, dpi: int) -> None:
    """Write a figure as SVG, drawn once, which takes a third of the time of `savefig`."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    canvas, before = picture.canvas, picture.dpi
    try:
        picture.set_dpi(dpi)
        FigureCanvasSVG(picture).print_svg(str(path), **_with_scale(".svg", scales.described(picture)))
    finally:
        picture.set_canvas(canvas)
        picture.set_dpi(before)


def plane(data: Any, what: str) -> np.ndarray:
    """Return a 2D float64 host array of anything that acts as an array."""
    plain = None if isinstance(data, np.ma.MaskedArray) else arrays.unwrapped(data)
    if arrays.is_array(plain) and arrays.is_complex(plain):
        raise InputError(f"{what} is complex: draw its abs, angle, real or imaginary part")
    host = values_of(data, what)
    if host.ndim != 2 or 0 in host.shape:
        raise InputError(f"{what} has shape {host.shape}, need one picture of two axes; take one plane of a stack")
    return host


def values_of(data: ArrayLike, what: str) -> np.ndarray:
    """Return real numbers as float64 on the host. Masked values of a masked array are NaN, which pictures show in grey."""
    if isinstance(data, np.ma.MaskedArray) and data.dtype.kind in "biuf":
        return np.ma.filled(data.astype(np.float64), np.nan)
    return real_values(data, what).astype(np.float64)


def robust_range(values: np.ndarray, low: float = 0.5, high: float = 99.5) -> tuple[float, float]:
    """Return colour limits from percentiles of the finite values. They never have zero width."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    bottom, top = (float(v) for v in np.percentile(finite, (low, high)))
    if not top > bottom:
        bottom, top = float(finite.min()), float(finite.max())
    if not top > bottom:
        margin = abs(bottom) * 0.1 or 0.5
        bottom, top = bottom - margin, top + margin
    return bottom, top


def symmetric_range(values: np.ndarray, percentile: float = 99.0) -> float:
    """Return half the width of a diverging colour range: a percentile of |values|, and positive."""
    finite = np.abs(values[np.isfinite(values)])
    if finite.size == 0:
        return 1.0
    return float(np.percentile(finite, percentile)) or float(finite.max()) or 1.0


def show(
    ax: Axes, values: np.ndarray, title: str, units: str, cmap: str, limits: tuple[float, float], bar: bool = True, norm: Any = None
) -> Any:
    """Draw one image in a panel: x down, y right, missing values grey, with a colour bar and units."""
    from matplotlib import colormaps

    colours = colormaps[cmap].with_extremes(bad=NO_VALUE)
    options: dict[str, Any] = {"norm": norm} if norm is not None else {"vmin": limits[0], "vmax": limits[1]}
    drawn = ax.imshow(np.ma.masked_invalid(values), cmap=colours, origin="upper", **options)
    frame(ax, title)
    if bar:
        finite = values[np.isfinite(values)]
        over, under = bool((finite > limits[1]).any()), bool((finite < limits[0]).any())
        extend = "both" if over and under else "max" if over else "min" if under else "neither"
        colour_bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.045, pad=0.02, extend=extend, extendfrac=0.03, aspect=24)
        colour_bar.outline.set_linewidth(0.5)
        colour_bar.ax.tick_params(width=0.5, length=2.5)
        named = units if units != "1" else ""  # beside the numbers of the bar, a unit of 1 looks like one of them
        colour_bar.set_label(named, **({"rotation": 0, "va": "center"} if len(named) < 3 else {}))
        if norm is None:
            colour_bar.formatter.set_powerlimits((-3, 4))
            colour_bar.formatter.set_useOffset(False)
    return drawn


def frame(ax: Axes, title: str) -> None:
    """Write the title on the left and remove ticks: the scale bar and the axis marks replace them."""
    ax.set_title(title, loc="left", pad=7)
    ax.set_xticks([])
    ax.set_yticks([])


def nice_length(extent: float) -> float:
    """Return 1, 2 or 5 times a power of ten, near a quarter of `extent`.

    Examples
    --------
    >>> nice_length(3000.0), nice_length(13.0)
    (500.0, 2.0)
    """
    target = extent * 0.3
    power = 10.0 ** math.floor(math.log10(target))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= target * (1 + 1e-9))


def length_label(length: float, units: str) -> str:
    """Write a length for readers: Å up to 10, then nm and µm. 1/Å is written as Å⁻¹."""
    if units == "Å":
        for factor, name in ((1e4, "µm"), (10.0, "nm")):
            if length >= factor * (1 - 1e-9):
                return f"{length / factor:g} {name}"
    return f"{length:.4g} {'Å⁻¹' if units == '1/Å' else units}"


def scale_bar(ax: Axes, shape: tuple[int, int], pixel_size: float, units: str) -> None:
    """Draw a bar of a round length under the image, so that it hides no data."""
    from matplotlib.transforms import ScaledTranslation, blended_transform_factory

    scales.remember(ax, pixel_size, units)
    length = nice_length(shape[1] * pixel_size)
    pixels = length / pixel_size
    below = blended_transform_factory(ax.transData, ax.transAxes) + ScaledTranslation(0, -8 / 72, ax.figure.dpi_scale_trans)
    ax.plot([-0.5, pixels - 0.5], [0, 0], transform=below, color=INK, lw=2.6, solid_capstyle="butt", clip_on=False, gid="scale bar")
    ax.text(pixels - 0.5, 0, f"  {length_label(length, units)}", transform=below, va="center", ha="left", fontsize=9, gid="scale bar label")


def axis_marks(ax: Axes, names: tuple[str, str] = ("x", "y")) -> None:
    """Draw the directions of the axes (first down, second right) outside the image, below its right end."""
    arrow(ax, (-30, -6), (-30, -21), names[0], MUTED, ha="center", va="top")
    arrow(ax, (-30, -6), (-13, -6), names[1], MUTED, ha="left", va="center")


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], label: str, color: str, **text: Any) -> None:
    """Draw a labelled arrow between offsets, in points (right, up), from the lower right corner of a panel."""
    from matplotlib.transforms import ScaledTranslation

    tail, tip = (ax.transAxes + ScaledTranslation(x / 72, y / 72, ax.figure.dpi_scale_trans) for x, y in (start, end))
    style = {"arrowstyle": "-|>,head_width=0.16,head_length=0.32", "color": color, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=(1, 0), xycoords=tip, xytext=(1, 0), textcoords=tail, arrowprops=style, annotation_clip=False, gid=f"axis {label}")
    ax.text(1, 0, label, transform=tip, fontsize=8.5, color=color, clip_on=False, **text)


def note_missing(ax: Axes, values: np.ndarray) -> None:
    """Say, under the scale bar, what grey means where some positions have no value."""
    from matplotlib.transforms import ScaledTranslation

    missing = int(np.count_nonzero(~np.isfinite(values)))
    if missing:
        below = ax.transAxes + ScaledTranslation(0, -17 / 72, ax.figure.dpi_scale_trans)
        text = f"grey: no value ({missing:,} of {values.size:,})"
        ax.text(0, 0, text, transform=below, ha="left", va="top", fontsize=8, color=MUTED, gid="no value")
