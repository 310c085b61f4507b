"""Draw the variances of fluctuation microscopy over the scattering vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place
from gpu4d.plot.profiles import BAND, DASHED, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpu4d.amorphous import FEM, Variance

TITLES = {
    "annular_mean": "variance of the annular mean",
    "rings": "mean of the variances of rings",
    "ring_ensemble": "variance of the ring ensemble",
    "variance_image": "annular mean of the variance image",
    "median_annular_mean": "annular mean, by medians",
    "median_rings": "rings, by the median",
}


@canvas.styled
def fem(
    result: FEM,
    variants: str | Sequence[str] = "annular_mean",
    title: str = "Fluctuation microscopy",
    *,
    noise: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw normalised variances over the scattering vector, with bands of ± their standard errors.

    Parameters
    ----------
    result : FEM
        Of `gpu4d.fem`.
    variants : str or sequence of str
        Fields of the result, such as "annular_mean" and "median_annular_mean".
    title : str
    noise : bool
        Draw what counting noise added to each variance, dashed. The variances are without it.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    InputError
        The result has no such variance.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> counts = np.random.default_rng(0).poisson(20.0, (6, 6, 16, 16)).astype("uint16")
    >>> ax = fem(gpu4d.fem(gpu4d.DataCube(counts), (7.5, 7.5)), ["annular_mean", "rings"])
    >>> ax.get_ylabel()
    'normalised variance V'
    """
    names = [variants] if isinstance(variants, str) else list(variants)
    unknown = [name for name in names if name not in TITLES]
    if unknown or not names:
        raise InputError(f"variants={variants!r}: need one or more of {', '.join(TITLES)}")
    place = Place((60, 100), ax=ax)
    ax, x = place.ax, result.radius if result.q is None else result.q
    shown = result.radius >= result.inner
    top = band_top = 0.0
    for number, name in enumerate(names):
        color = LINE if number == 0 else DASHED[(number - 1) % len(DASHED)]
        one: Variance = getattr(result, name)
        value, error, own = (np.where(shown, a, np.nan) for a in (one.value, one.error, one.noise))
        band = {"color": BAND} if number == 0 else {"color": color, "alpha": 0.2}
        ax.fill_between(x, value - error, value + error, lw=0, **band)
        ax.plot(x, value, color=color, lw=1.4, label=TITLES[name])
        if noise:
            ax.plot(x, own, color=color, lw=1.0, ls="--", label="counting noise, taken out" if number == 0 else None)
        if np.isfinite(value).any():
            top, band_top = max(top, float(np.nanmax(value))), max(band_top, float(np.nanmax(value + error)))
    ax.axhline(0, color=canvas.MUTED, lw=0.7)
    if top > 0:
        high = min(1.05 * band_top, 2 * top)  # counting noise of the outermost rings is often far above
        ax.set_ylim(-0.08 * high, high)
    ax.set_xlim(0, float(x[-1]))
    ax.set_title(title, loc="left", pad=7)
    ax.set_xlabel("distance from the beam (px)" if result.q is None else "q (1/Å)")
    ax.set_ylabel("normalised variance V")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2)
    return place.result
