"""Draw a ring pattern with the rings that were fitted to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.calibrate import HaloFit, RingFit
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.detector import draw_pattern
from gpu4d.plot.maps import pixel
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEEN = 5.0  # standard errors of its height: a weaker ring is not drawn
ROUND = 3.0  # standard errors: an ellipse nearer to a circle has no direction
COLOR = "#35d0ff"  # seen on all colours of a pattern
BRIGHTEST = 99.9  # percentile of the fit that has the brightest colour
POINTS = 181  # of half a ring, one a degree


@canvas.styled
def rings(
    pattern: ArrayLike,
    fit: RingFit | HaloFit,
    title: str = "Rings and their fit",
    *,
    power: float = 0.5,
    pixel_size: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a ring pattern with its fit: one half of every fitted ring, so that the other half shows the pattern alone.

    Parameters
    ----------
    pattern : (Qx, Qy) DiffractionSlice or array
        That the rings were fitted to.
    fit : RingFit or HaloFit
        From `gpu4d.calibrate.fit_rings`, or from `gpu4d.calibrate.fit_halo` for one ring of an unknown specimen.
    title : str
    power : float
        Colours show counts to this power.
    pixel_size : float, optional
        Of the detector, 1/Å, for the scale bar. By default the fitted one, else that of the pattern.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
        The scale bar is in 1/Å, or in pixels if their size is not known.

    Raises
    ------
    InputError
        `fit` is neither a RingFit nor a HaloFit, or the pattern has another shape than that of a RingFit.

    Examples
    --------
    >>> from gpu4d.calibrate import fit_rings
    >>> x, y = np.mgrid[:96, :96] - 47.3
    >>> pattern = 4 + sum(40 * np.exp(-(((np.hypot(x, y) - r) / 1.5) ** 2)) for r in (20.0, 28.0, 35.0))
    >>> ax = rings(pattern, fit_rings(pattern, [0.4, 0.56, 0.7]))
    """
    if not isinstance(fit, RingFit | HaloFit):
        raise InputError(f"fit is a {type(fit).__name__}: need a RingFit or HaloFit, as gpu4d.calibrate.fit_rings and fit_halo give")
    values = canvas.plane(pattern, "pattern")
    if isinstance(fit, RingFit) and values.shape != fit.expected.shape:
        raise InputError(f"the pattern is {values.shape}, and the fit is of a pattern {fit.expected.shape}: need the fitted one")
    place = Place(values.shape, below=0.35, ax=ax)
    ax = place.ax
    fitted = _fitted(values, fit)
    top = float(np.nanpercentile(fitted, BRIGHTEST)) if np.isfinite(fitted).any() else 1.0  # the direct beam may be far brighter
    draw_pattern(ax, values, title, getattr(pattern, "units", "") or "counts", power, top)
    canvas.scale_bar(ax, values.shape, *_pixel(pattern, fit, pixel_size))
    canvas.axis_marks(ax, ("q$_x$", "q$_y$"))
    angle = np.linspace(math.pi, 2 * math.pi, POINTS)  # the half of small qy, drawn at the left
    round_ring = np.stack([np.cos(angle), np.sin(angle)])
    distort = np.linalg.inv(ellipse_matrix(fit.ellipse))
    seen = _drawn(fit)
    for name, radius in seen:
        x, y = distort @ (radius * round_ring) + fit.center[:, None]
        ax.plot(y, x, color=COLOR, lw=0.9, gid=f"ring {name}")
    ax.plot(fit.center[1], fit.center[0], "+", color=COLOR, markersize=9, gid="centre")
    (a, b, theta), (error, turned) = fit.ellipse, fit.ellipse_error
    told = f"a/b = {a / b:.4f} ± {error:.4f}"
    if a / b > 1 + ROUND * error:
        told += f", a at {math.degrees(theta):.1f} ± {math.degrees(turned):.1f}°"
    number = f"{len(seen)} fitted rings" if len(seen) != 1 else "the fitted ring"
    ax.plot([], [], color=COLOR, lw=0.9, label=f"{number}, left half; {told}")
    place.legend(frameon=False, fontsize=7.6, handlelength=1.4)
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    return place.result


def _drawn(fit: RingFit | HaloFit) -> list[tuple[str, float]]:
    """Return name and radius, px of the minor axis, of the rings that are drawn."""
    if isinstance(fit, HaloFit):
        return [("halo", fit.radius)]
    return [(ring.name, ring.radius) for ring in fit.rings if ring.intensity > SEEN * ring.intensity_error]


def _fitted(values: np.ndarray, fit: RingFit | HaloFit) -> np.ndarray:
    """Return the fitted pixels, which the colours are for."""
    if isinstance(fit, RingFit):
        return fit.expected
    r = np.hypot(*(np.indices(values.shape) - fit.center[:, None, None]))
    return values[(r > fit.radii[0]) & (r < fit.radii[1])]


def _pixel(pattern: ArrayLike, fit: RingFit | HaloFit, given: float | None) -> tuple[float, str]:
    """Return the size of a detector pixel and its unit."""
    size = fit.q_pixel if given is None and isinstance(fit, RingFit) else given
    return pixel(pattern, size, None if size is None else "1/Å")
