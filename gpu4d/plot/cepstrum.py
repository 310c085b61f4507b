"""Draw the mean cepstrum of a scan with its real-space lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from gpu4d.arrays import Array
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.detector import _dark_keys
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 1.15  # of the distance of the farthest node: what of the cepstrum is shown


class HasNodes(Protocol):
    """A real-space lattice and the nodes that are fitted."""

    @property
    def vectors(self) -> np.ndarray:
        """(2, 2), px of the cepstrum."""

    @property
    def orders(self) -> np.ndarray:
        """(p, 2)."""


class HasCepstrum(Protocol):
    """A mean cepstrum, as `gpu4d.crystal.mean_cepstrum` returns it."""

    @property
    def power(self) -> Array:
        """(Qx, Qy), centred."""

    @property
    def nodes(self) -> HasNodes | None: ...


@canvas.styled
def cepstrum(found: HasCepstrum, title: str = "Mean power cepstrum", *, q_pixel: float | None = None, ax: Axes | None = None) -> Axes:
    """Draw a mean power cepstrum, logarithmic, with r₁, r₂ and circles around the nodes that are fitted.

    Parameters
    ----------
    found : MeanCepstrum
    title : str
    q_pixel : float, optional
        Size of a detector pixel, 1/Å. The scale bar is then in Å, else in pixels of the cepstrum. Only for square patterns, because
        others have pixels of two lengths.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    power = canvas.plane(found.power, "cepstrum")
    if not np.isfinite(power).any():
        raise InputError("the cepstrum has no finite value, because no pattern of its scan had counts: give a scan with counts")
    if q_pixel is not None and (power.shape[0] != power.shape[1] or not q_pixel > 0):
        raise InputError(f"q_pixel={q_pixel} for patterns {power.shape}: need a size above 0, and square patterns")
    nodes, centre = found.nodes, np.array(power.shape) // 2
    points = np.zeros((0, 2)) if nodes is None else nodes.orders @ nodes.vectors
    half = int(np.ceil(MARGIN * np.abs(points).max())) + 1 if len(points) else int(centre.min())
    low = np.maximum(centre - half, 0)
    shown = power[tuple(slice(a, c + half + 1) for a, c in zip(low, centre))]
    values = np.log10(np.maximum(shown, np.nanmin(shown[shown > 0]) if (shown > 0).any() else 1.0))
    place = Place(values.shape, below=0.35, ax=ax)
    ax = place.ax
    canvas.show(ax, values, title, "log₁₀ of power over its mean", "inferno", canvas.robust_range(values, 2.0, 99.9))
    canvas.scale_bar(ax, values.shape, 1 / (power.shape[0] * q_pixel) if q_pixel else 1.0, "Å" if q_pixel else "px")
    canvas.axis_marks(ax, ("r$_x$", "r$_y$"))
    start = centre - low
    if nodes is not None:
        both = np.concatenate([points, -points]) + start
        ring = {"facecolors": "none", "edgecolors": "#2ee6a8", "linewidths": 0.8}
        ax.scatter(both[:, 1], both[:, 0], s=42, label=f"fitted nodes ({len(points)} and their opposites)", gid="nodes", **ring)
        arrow = {"arrowstyle": "-|>,head_width=0.16,head_length=0.3", "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
        for number, r, color in zip("12", nodes.vectors, ("#35d0ff", "#ffffff")):
            tip, name = start + r, f"r$_{number}$, {_length(r, power.shape, q_pixel)}"
            ax.annotate("", xy=(tip[1], tip[0]), xytext=(start[1], start[0]), arrowprops={**arrow, "color": color}, gid=f"vector r{number}")
            ax.plot([], [], color=color, lw=1.8, label=name)  # many of these arrows are too short for a name beside them
        _dark_keys(place.legend(ncols=3, handletextpad=0.4, borderaxespad=0.2, fontsize=7.6))
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    return place.result


def _length(r: np.ndarray, shape: tuple[int, ...], q_pixel: float | None) -> str:
    """Write the length of a vector for the legend."""
    if q_pixel:
        return f"{float(np.hypot(*(r / (np.array(shape) * q_pixel)))):.2f} Å"
    return f"({r[0]:.2f}, {r[1]:.2f}) px"
