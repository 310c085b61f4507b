"""Draw pictures on the detector: a pattern, its Bragg disks, the Bragg vector map."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place
from gpu4d.real_arrays import floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# reason: (colour, marker, text of the legend); markers differ too, for readers who cannot tell the colours apart
REASONS: dict[str, tuple[str, str, str]] = {
    "accepted": ("#2ee6a8", "o", "accepted"),
    "edge": ("#9aa7b5", "s", "too near the edge"),
    "below absolute": ("#ffb000", "v", "below the absolute threshold"),
    "below relative": ("#ff7f50", "^", "below the relative threshold"),
    "insignificant": ("#ff4d6d", "x", "not significant"),
    "too close": ("#7db7ff", "+", "too close to a stronger one"),
    "beyond max_peaks": ("#d58cff", "D", "more than max_peaks"),
}


class Judged(Protocol):
    """Maxima and what became of each, as `gpu4d.bragg.explain_disks` returns them."""

    @property
    def qx(self) -> np.ndarray:
        """Pixels, as `qy`."""

    @property
    def qy(self) -> np.ndarray: ...

    @property
    def reason(self) -> np.ndarray:
        """Texts."""


class TwoVectors(Protocol):
    """A lattice."""

    @property
    def g1(self) -> ArrayLike:
        """Pixels, as `g2`."""

    @property
    def g2(self) -> ArrayLike: ...


@canvas.styled
def diffraction(
    data: ArrayLike,
    title: str | None = None,
    *,
    scale: str = "power",
    power: float = 0.25,
    units: str | None = None,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    circles: Sequence[tuple[float, float, float, str]] = (),
    ellipse: tuple[float, float, float] | None = None,
    cmap: str = "inferno",
    ax: Axes | None = None,
) -> Axes:
    """Draw a detector image on a scale that shows weak and strong features at once.

    Parameters
    ----------
    data : (Qx, Qy) DiffractionSlice or array
    title, units, pixel_size, pixel_units : optional
        Taken from the slice unless given.
    scale : {"power", "log", "linear"}
        Colours show counts to the power `power`, the logarithm of counts, or counts.
    circles : sequence of (qx, qy, radius, label)
        Drawn over the image, in pixels: the bright-field disk, an annulus.
    ellipse : (a, b, theta), optional
        Distortion of the detector, with which the circles are drawn. Their radius is then that along the minor axis.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    values = canvas.plane(data, "diffraction")
    place = Place(values.shape, ax=ax)
    ax = place.ax
    heading = title if title is not None else getattr(data, "name", "")
    _pattern(ax, values, heading, units if units is not None else getattr(data, "units", ""), scale, power, cmap)
    size, size_units = pixel(data, pixel_size, pixel_units)
    canvas.scale_bar(ax, values.shape, size, size_units)
    canvas.axis_marks(ax, ("q$_x$", "q$_y$"))
    canvas.note_missing(ax, values)
    if circles:
        _circles(ax, circles, np.eye(2) if ellipse is None else np.linalg.inv(ellipse_matrix(ellipse)))
    return place.result


@canvas.styled
def disks(
    pattern: ArrayLike,
    candidates: Judged | Mapping[str, Array],
    title: str = "Bragg disks, accepted and rejected",
    *,
    radius: float | None = None,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    power: float = 0.3,
    ax: Axes | None = None,
) -> Axes:
    """Draw a pattern with every correlation maximum: the accepted ones, and for each of the others why it was rejected.

    Parameters
    ----------
    pattern : (Qx, Qy) DiffractionSlice or array
    candidates : mapping or object with `qx, qy, reason`
        As `gpu4d.bragg.explain_disks` returns them; `reason` is "accepted", "edge", "below absolute", "below relative",
        "insignificant", "too close" or "beyond max_peaks".
    radius : float, optional
        Radius of a disk, pixels. Accepted disks are drawn as circles of this radius.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.patches import Circle

    values = canvas.plane(pattern, "pattern")
    qx, qy, reason = (np.asarray(_field(candidates, name)) for name in ("qx", "qy", "reason"))
    if not qx.shape == qy.shape == reason.shape:
        raise InputError(f"qx, qy and reason have shapes {qx.shape}, {qy.shape}, {reason.shape}: need one value per maximum")
    place = Place(values.shape, below=0.75, ax=ax)
    ax = place.ax
    _pattern(ax, values, title, getattr(pattern, "units", "") or "counts", "power", power, "gray", bar=False)
    size, size_units = pixel(pattern, pixel_size, pixel_units)
    canvas.scale_bar(ax, values.shape, size, size_units)
    canvas.axis_marks(ax, ("q$_x$", "q$_y$"))
    present = [r for r in REASONS if (reason == r).any()] + sorted({str(r) for r in reason} - set(REASONS))
    for name in present:
        color, marker, label = REASONS.get(name, ("#ffffff", "*", name))
        here = reason == name
        fill = {"facecolors": "none", "edgecolors": color} if marker in "os^vD" else {"color": color}
        ax.scatter(qy[here], qx[here], s=26, marker=marker, linewidths=1.0, label=f"{label} ({int(here.sum())})", gid=name, **fill)
        if name == "accepted" and radius is not None:
            for x, y in zip(qx[here], qy[here]):
                ax.add_patch(Circle((y, x), radius, fill=False, ec=color, lw=1.1))
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    _dark_keys(place.legend(ncols=2, handletextpad=0.3, columnspacing=1.0, borderaxespad=0.2, fontsize=7.6))
    return place.result


@canvas.styled
def bragg_vector_map(
    data: ArrayLike,
    lattice: TwoVectors | Mapping[str, ArrayLike] | None = None,
    origin: Sequence[float] | None = None,
    title: str | None = None,
    *,
    power: float = 0.35,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw all Bragg vectors of a scan in one image, with the lattice vectors g₁, g₂ drawn from the origin.

    Parameters
    ----------
    data : (Qx, Qy) DiffractionSlice or array
    lattice : Lattice or mapping, optional
        Has `g1` and `g2`, (2,) each, in pixels of `data`.
    origin : (2,), optional
        Start of the arrows, in pixels of `data`. By default the centre pixel n // 2.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    values = canvas.plane(data, "Bragg vector map")
    place = Place(values.shape, ax=ax)
    ax = place.ax
    heading = title if title is not None else "Bragg vector map"
    _pattern(ax, values, heading, getattr(data, "units", ""), "power", power, "inferno")
    size, size_units = pixel(data, pixel_size, pixel_units)
    canvas.scale_bar(ax, values.shape, size, size_units)
    canvas.axis_marks(ax, ("q$_x$", "q$_y$"))
    if lattice is not None:
        start = np.array(floats(origin if origin is not None else [n // 2 for n in values.shape], 2, "origin"))
        for name, color in (("g1", "#35d0ff"), ("g2", "#7dff9b")):
            _vector(ax, start, np.asarray(_field(lattice, name), dtype=float), f"g$_{name[1]}$", color)
    return place.result


def _vector(ax: Any, start: np.ndarray, g: np.ndarray, label: str, color: str) -> None:
    style = {"arrowstyle": "-|>,head_width=0.22,head_length=0.4", "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
    tip = start + g
    ax.annotate("", xy=(tip[1], tip[0]), xytext=(start[1], start[0]), arrowprops=style, gid=f"vector {label}")
    beside = start + 0.5 * g + 0.16 * np.array([-g[1], g[0]])
    ax.text(beside[1], beside[0], label, color=color, fontsize=11, fontweight="bold", ha="center", va="center")


def draw_pattern(ax: Any, values: np.ndarray, title: str, units: str, power: float, top: float) -> None:
    """Draw one of several patterns that share a colour scale from 0 to `top`."""
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(power, vmin=0.0, vmax=top, clip=True)
    drawn = canvas.show(ax, values, title, f"{units}, shown to the power {power:g}", "inferno", (0.0, top), norm=norm)
    _power_ticks(drawn, norm, (0.0, top))


def _pattern(ax: Any, values: np.ndarray, title: str, units: str, scale: str, power: float, cmap: str, bar: bool = True) -> None:
    """Draw an intensity image on a linear, power or logarithmic colour scale."""
    from matplotlib.colors import LogNorm, PowerNorm

    if scale not in ("power", "log", "linear"):
        raise InputError(f"scale={scale!r}: need 'power', 'log' or 'linear'")
    low, high = canvas.robust_range(values, 0.0, 99.95)
    norm: Any = None
    if scale == "power":
        norm = PowerNorm(power, vmin=max(low, 0.0) if high > 0 else low, vmax=high, clip=True)
    elif scale == "log":
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size:
            norm = LogNorm(vmin=max(float(positive.min()), high * 1e-7), vmax=max(high, float(positive.min()) * 1.01), clip=True)
            values = np.where(values > 0, values, float(positive.min()))
    label = {"power": f"{units}, shown to the power {power:g}", "log": f"{units}, logarithmic", "linear": units}[scale]
    drawn = canvas.show(ax, values, title, label.lstrip(", "), cmap, (low, high), bar=bar, norm=norm)
    if bar and scale == "power":
        _power_ticks(drawn, norm, (low, high))


def _power_ticks(drawn: Any, norm: Any, limits: tuple[float, float]) -> None:
    """Put a few round numbers on the colour bar, evenly along it."""
    ticks = {float(f"{v:.1g}") for v in norm.inverse(np.linspace(0.0, 1.0, 6))}
    shown = sorted(t for t in ticks if limits[0] <= t <= limits[1])
    drawn.colorbar.set_ticks(shown, labels=[f"{t:g}" for t in shown])


def _circles(ax: Any, circles: Sequence[tuple[float, float, float, str]], distort: np.ndarray) -> None:
    from matplotlib.patches import Ellipse

    (a, b), axes = np.linalg.eigh(distort)  # `distort` is symmetric
    angle = float(np.degrees(np.arctan2(axes[0, 0], axes[1, 0])))  # of the first axis, from the picture's right to its down

    colors = ("#35d0ff", "#7dff9b", "#7dff9b", "#ffd166", "#ff8fab")
    limits = ax.get_xlim(), ax.get_ylim()
    for (x, y, r, label), color in zip(circles, itertools.cycle(colors)):
        ax.add_patch(Ellipse((y, x), 2 * r * a, 2 * r * b, angle=angle, fill=False, ec=color, lw=1.3, label=label or None))
    ax.set_xlim(limits[0])
    ax.set_ylim(limits[1])
    if any(label for *_, label in circles):
        _dark_keys(ax.legend(loc="upper left", fontsize=8, borderaxespad=0.3, labelcolor="white"))


def _dark_keys(legend: Any) -> None:
    """Draw legend keys on a dark background, because their bright colours are made for dark images."""
    legend.set_frame_on(True)
    box = legend.get_frame()
    box.set(facecolor="#23282f", edgecolor="none", alpha=0.82)
    for text in legend.get_texts():
        text.set_color("white")


def _field(thing: Any, name: str) -> Any:
    return thing[name] if isinstance(thing, Mapping) else getattr(thing, name)
