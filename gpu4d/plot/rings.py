"""Draw a ring pattern with the rings that were fitted to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.calibrate import RingFit
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.detector import draw_pattern

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEEN = 5.0  # standard errors of its height: a weaker ring is not drawn
ROUND = 3.0  # standard errors: an ellipse nearer to a circle has no direction
COLOR = "#35d0ff"  # seen on all colours of a pattern
BRIGHTEST = 99.9  # percentile of the fit that has the brightest colour
POINTS = 181  # of half a ring, one a degree


@canvas.styled
def rings(pattern: ArrayLike, fit: RingFit, title: str = "Rings and their fit", *, power: float = 0.5) -> Figure:
    """Draw a ring pattern with its fit: one half of every fitted ring, so that the other half shows the pattern alone.

    Parameters
    ----------
    pattern : (Qx, Qy) DiffractionSlice or array
        That the rings were fitted to.
    fit : RingFit
        From `gpu4d.calibrate.fit_rings`.
    title : str
    power : float
        Colours show counts to this power.

    Returns
    -------
    matplotlib.figure.Figure
        The scale bar is in 1/Å, by the fitted pixel size.

    Raises
    ------
    InputError
        `fit` is no RingFit, or the pattern has another shape.

    Examples
    --------
    >>> from gpu4d.calibrate import fit_rings
    >>> x, y = np.mgrid[:96, :96] - 47.3
    >>> pattern = 4 + sum(40 * np.exp(-(((np.hypot(x, y) - r) / 1.5) ** 2)) for r in (20.0, 28.0, 35.0))
    >>> figure = rings(pattern, fit_rings(pattern, [0.4, 0.56, 0.7]))
    """
    if not isinstance(fit, RingFit):
        raise InputError(f"fit is a {type(fit).__name__}: need a RingFit, as gpu4d.calibrate.fit_rings gives")
    values = canvas.plane(pattern, "pattern")
    if values.shape != fit.expected.shape:
        raise InputError(f"the pattern is {values.shape}, and the fit is of a pattern {fit.expected.shape}: need the fitted one")
    made, axs = canvas.figure(values.shape, below=0.35)
    ax = axs[0, 0]
    top = float(np.nanpercentile(fit.expected, BRIGHTEST))  # of the rings: the direct beam may be far brighter
    draw_pattern(ax, values, title, getattr(pattern, "units", "") or "counts", power, top)
    canvas.scale_bar(ax, values.shape, fit.q_pixel, "Å⁻¹")
    canvas.axis_marks(ax, ("q$_x$", "q$_y$"))
    angle = np.linspace(math.pi, 2 * math.pi, POINTS)  # the half of small qy, drawn at the left
    round_ring = np.stack([np.cos(angle), np.sin(angle)])
    distort = np.linalg.inv(ellipse_matrix(fit.ellipse))
    seen = [ring for ring in fit.rings if ring.intensity > SEEN * ring.intensity_error]
    for ring in seen:
        x, y = distort @ (ring.radius * round_ring) + fit.center[:, None]
        ax.plot(y, x, color=COLOR, lw=0.9, gid=f"ring {ring.name}")
    ax.plot(fit.center[1], fit.center[0], "+", color=COLOR, markersize=9, gid="centre")
    (a, b, theta), (error, turned) = fit.ellipse, fit.ellipse_error
    told = f"a/b = {a / b:.4f} ± {error:.4f}"
    if a / b > 1 + ROUND * error:
        told += f", a at {math.degrees(theta):.1f} ± {math.degrees(turned):.1f}°"
    ax.plot([], [], color=COLOR, lw=0.9, label=f"{len(seen)} fitted rings, left half; {told}")
    made.legend(loc="outside lower left", frameon=False, fontsize=7.6, handlelength=1.4)
    ax.set_xlim(-0.5, values.shape[1] - 0.5)
    ax.set_ylim(values.shape[0] - 0.5, -0.5)
    return made
