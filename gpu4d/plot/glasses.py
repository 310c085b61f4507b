"""Draw what is measured of a glass: the fit of its profile with the structure factor, and the distances of its atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place
from gpu4d.plot.profiles import BAND, DASHED, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gpu4d.amorphous import RDF

KINDS = {"g": "g(r)", "G": "G(r) (1/Å²)", "RDF": "RDF(r) (atoms/Å)"}
SHADE = "#f0e6d8"  # of the first shell, behind the curve
ROOM = 1.15  # of the largest value behind r_min: where the axis ends, because ripples below r_min may be far higher


@canvas.styled
def structure_factor(
    found: RDF, title: str = "Structure factor", *, group: int | tuple[int, ...] = (), ax: Sequence[Axes] | np.ndarray | None = None
) -> np.ndarray:
    """Draw the profile with the fit of its scale and background, and below it the structure factor.

    Parameters
    ----------
    found : RDF
        Of `gpu4d.rdf`.
    title : str
    group : int or tuple of int
        Which profile, if there are several: its index.
    ax : sequence of matplotlib Axes, optional
        Axes to draw into, two. By default a new figure is made, which is `figure` of the returned array.

    Returns
    -------
    (n,) array of matplotlib.axes.Axes
        The band about S(k) is ± one standard error. The dotted line is the window of the transform.

    Raises
    ------
    InputError
        `found` is no RDF, or `group` is not an index of one profile.

    Examples
    --------
    >>> import gpu4d
    >>> k = np.arange(0.02, 2.0, 0.02)
    >>> axes = structure_factor(gpu4d.rdf(np.exp(-2 * k) * (1 + 0.5 * np.sinc(6 * k)), k=k, factor=np.exp(-k)))
    """
    at = _group(found, group)
    place = Place((55, 100), rows=2, ax=ax)
    upper, lower = place.panels
    k, intensity, ground = found.k, found.intensity[at], found.background[at]
    alone = found.atoms[at] * found.factor_square
    upper.plot(k, intensity, color=LINE, lw=1.4, label="profile", gid="profile")
    upper.plot(k, alone + ground, color=DASHED[0], lw=1.1, ls="--", label="N⟨f²⟩ + background", gid="fit")
    if (ground > 0).any():
        upper.plot(k, ground, color=DASHED[1], lw=1.1, ls="--", label="background", gid="background")
    positive = np.concatenate([intensity, alone])
    if (np.isfinite(positive) & (positive > 0)).any():
        upper.set_yscale("log", nonpositive="mask")
    upper.set_ylabel("mean intensity")
    upper.legend(loc="upper right")
    upper.set_title(title, loc="left", pad=7)
    s, error = found.structure_factor[at], found.structure_factor_error[at]
    _with_band(lower, k, s, error)
    lower.plot(k, found.window, color=canvas.MUTED, lw=0.9, ls=":", label="window of the transform", gid="window")
    lower.axhline(1.0, color=canvas.MUTED, lw=0.6)
    lower.set_ylabel("S(k)")
    lower.legend(loc="upper right")
    for panel in place.panels:
        panel.set_xlabel("k = 1/d (1/Å)")
        panel.set_xlim(0, k[-1])
        panel.spines[["top", "right"]].set_visible(False)
    return place.result


@canvas.styled
def pair_distribution(
    found: RDF,
    title: str = "Distances of the atoms",
    *,
    kind: str = "g",
    group: int | tuple[int, ...] = (),
    r_max: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distances of the atoms, with the first shell and the region without atoms.

    Parameters
    ----------
    found : RDF
        Of `gpu4d.rdf`.
    title : str
    kind : {"g", "G", "RDF"}
        The pair distribution function, the reduced one, or the radial distribution function 4πr²ρ g(r).
    group : int or tuple of int
        Which profile, if there are several: its index.
    r_max : float, optional
        Å, where the axis ends. By default 10 Å, or the largest r.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes
        The first shell is shaded, the first peak marked. The dashed curve has no atoms below the first shell, and the mean density
        everywhere. The band is ± one standard error.

    Raises
    ------
    InputError
        `found` is no RDF, the kind is not known, or `group` is not an index of one profile.

    Examples
    --------
    >>> import gpu4d
    >>> k = np.arange(0.02, 2.0, 0.02)
    >>> ax = pair_distribution(gpu4d.rdf(np.exp(-2 * k) * (1 + 9 * np.sinc(6 * k)), k=k, factor=np.exp(-k), density=0.05))
    """
    at = _group(found, group)
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}: need one of {', '.join(map(repr, KINDS))}")
    density = found.density[at]
    r, line = found.r, 4 * np.pi * density * found.r
    scale, mean = {"g": (1 / line, 1.0), "G": (np.ones_like(r), 0.0), "RDF": (r, line * r)}[kind]
    values = {"g": found.pair_distribution, "G": found.reduced, "RDF": found.distribution}[kind][at]
    none = {"g": np.zeros_like(r), "G": -line, "RDF": np.zeros_like(r)}[kind]
    end = min(10.0 if r_max is None else r_max, r[-1])
    place = Place((60, 100), ax=ax)
    ax = place.ax
    start, stop = found.shell
    if np.isfinite(stop):
        ax.axvspan(start, stop, color=SHADE, lw=0, zorder=0, label=f"first shell: {found.coordination[at]:.1f} atoms", gid="shell")
    _with_band(ax, r, values, found.reduced_error[at] * scale)
    below = r <= found.r_min
    ax.plot(r[below], none[below], color=DASHED[0], lw=1.1, ls="--", label="no atoms", gid="no atoms")
    ax.plot(r, np.broadcast_to(mean, r.shape), color=canvas.MUTED, lw=0.7, ls="--")
    peak, error = found.peak[at], found.peak_error[at]
    if np.isfinite(peak):
        digits = max(0, 1 - math.floor(math.log10(error))) if 0 < error < np.inf else 3  # two of the error
        text = f"{peak:.{digits}f}" + (f" ± {error:.{digits}f}" if 0 < error < np.inf else "") + " Å"
        ax.axvline(peak, color=canvas.MUTED, lw=0.9, ls=":", gid="peak")
        top = {"xycoords": ("data", "axes fraction"), "xytext": (3, 0), "textcoords": "offset points", "va": "top"}
        ax.annotate(text, (peak, 0.985), fontsize=8.5, color=canvas.MUTED, **top)
    seen = values[(r >= found.r_min) & (r <= end)]
    if np.isfinite(seen).any():
        low, high = min(float(np.nanmin(seen)), float(none[below].min(initial=0.0))), float(np.nanmax(seen))
        margin = (ROOM - 1) * (high - low)
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlim(0, end)
    ax.set_title(title, loc="left", pad=7)
    ax.set_xlabel("r (Å)")
    ax.set_ylabel(KINDS[kind])
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)  # below the axis, where no curve is
    return place.result


def _with_band(ax: Axes, x: np.ndarray, values: np.ndarray, error: np.ndarray) -> None:
    """Draw a curve with a band of ± its error, where the error is known."""
    if np.isfinite(error).any():
        ax.fill_between(x, values - error, values + error, color=BAND, lw=0, label="± standard error")
    ax.plot(x, values, color=LINE, lw=1.4, gid="curve")


def _group(found: RDF, group: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the index of one profile."""
    from gpu4d.amorphous import RDF  # here, because it imports much of SciPy that other pictures do not need

    if not isinstance(found, RDF):
        raise InputError(f"found is a {type(found).__name__}: need an RDF, as gpu4d.rdf gives it")
    at = group if isinstance(group, tuple) else (group,)
    shape = found.peak.shape
    if len(at) != len(shape) or not all(isinstance(i, int | np.integer) and -n <= i < n for i, n in zip(at, shape)):
        raise InputError(f"group={group!r}, and there are profiles {shape}: need the index of one, group=(…)")
    return tuple(int(i) for i in at)
