"""Draw what electron counting rests on: the histogram of raw frames, its background, and the thresholds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place
from gpu4d.preprocess import CountingSetup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS, BACKGROUND, ELECTRONS, LIMITS = "#6b7683", "#d55e00", "#0072b2", "#1c2530"
JOINED = 4  # bins of the setup in one of the picture, for isolated electrons: they are fewer than pixels
LOWEST = -0.3  # electrons, drawn
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


@canvas.styled
def counting_histogram(setup: CountingSetup, title: str = "Signals of a sample of raw frames", *, ax: Axes | None = None) -> Axes:
    """Draw the histogram of the sample that a setup of electron counting comes from.

    Parameters
    ----------
    setup : CountingSetup
        From `gpu4d.preprocess.counting_setup` or `count_scan`.
    title : str
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
        Signals of pixels with the normal distribution of the background, signals of isolated electrons (sums of 3 × 3 pixels) with
        their mean, and the two thresholds. The axis of signals is linear up to one electron, and logarithmic from there.

    Raises
    ------
    InputError
        `setup` is no CountingSetup.

    Examples
    --------
    >>> import gpu4d
    >>> raw = gpu4d.simulate.raw_frames((4, 4), (64, 64), seed=1)
    >>> ax = counting_histogram(gpu4d.preprocess.counting_setup(raw.cube.source.array, raw.darks))
    """
    if not isinstance(setup, CountingSetup):
        raise InputError(f"setup is a {type(setup).__name__}: need a CountingSetup, as gpu4d.preprocess.counting_setup gives it")
    place = Place((3, 5), ax=ax)
    ax = place.ax
    edges, middle = setup.edges, (setup.edges[1:] + setup.edges[:-1]) / 2
    ax.stairs(setup.pixels, edges, color=PIXELS, lw=1.2, label="pixels", gid="pixels")
    noise = setup.noise / setup.electron
    left = np.interp(0.0, edges, np.concatenate([[0], np.cumsum(setup.pixels)]))  # half of the background: there is no signal
    normal = 2 * left * np.diff(edges) * np.exp(-((middle / noise) ** 2) / 2) / (noise * math.sqrt(2 * math.pi))
    seen = normal > 0.3
    ax.plot(middle[seen], normal[seen], color=BACKGROUND, lw=1.4, label=f"background, {setup.noise:.3g} ADU wide", gid="background")
    whole = len(setup.isolated) // JOINED * JOINED
    joined = setup.isolated[:whole].reshape(-1, JOINED).sum(axis=1)
    ax.stairs(joined, edges[: whole + 1 : JOINED], color=ELECTRONS, lw=1.2, label="isolated electrons, 3 × 3 pixels", gid="electrons")
    ax.axvline(1.0, color=ELECTRONS, lw=0.9, ls=":", label=f"one electron, {setup.electron:.4g} ADU", gid="one electron")
    for name, value in (("lower", setup.lower), ("upper", setup.upper)):
        ax.axvline(value, color=LIMITS, lw=1.1, ls="--", gid=f"{name} threshold")
        ax.annotate(f"{value:.3g}", (value, 1.0), (2, -9), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    ax.plot([], [], color=LIMITS, lw=1.1, ls="--", label="thresholds, electrons")
    ax.set_xscale("symlog", linthresh=1.0, linscale=1.2)
    ax.set_yscale("log")
    ax.set_xlim(LOWEST, edges[-1])
    ax.set_ylim(0.7, 3 * max(int(setup.pixels.max()), 1))
    ticks = [tick for tick in TICKS if tick <= edges[-1]]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.set_xlabel("signal, electrons")
    ax.set_ylabel("number")
    ax.set_title(title, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper right", fontsize=8, frameon=True, framealpha=1.0, edgecolor="none")
    return place.result
