"""Draw a complex wave: its intensity, and its phase as hue with a colour wheel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import complex_values
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.place import Place

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIM = 0.5  # power of the intensity that brightens the phase, so that tails can be seen
WHEEL = 96  # pixels of the colour wheel


@canvas.styled
def wave(
    data: ArrayLike,
    title: str | None = None,
    *,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    width: float | None = None,
    axes: tuple[str, str] = ("x", "y"),
    ax: Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw intensity and phase of a complex wave side by side.

    Hue is the phase, as the colour wheel shows: red is 0, and the phase grows from the first axis (down) to the second (right).
    Brightness of the phase is the amplitude, so that dark parts have no colour.

    Parameters
    ----------
    data : RealSpaceProbe, or (nx, ny) complex array
        A probe of `gpu4d.probe.real_space` brings its pixel.
    title : str, optional
    pixel_size, pixel_units : optional
        Default: those of the probe, in Å, or pixels.
    width : float, optional
        Side of the square in the middle that is drawn, in the units of the pixel. Default: everything.
    axes : (str, str)
    ax : sequence of matplotlib Axes, optional
        Axes to draw into, two. By default a new figure is made, which is `figure` of the returned array.

    Returns
    -------
    (n,) array of matplotlib.axes.Axes

    Raises
    ------
    InputError
        The data is no complex image, or has NaN.

    Examples
    --------
    >>> import gpu4d
    >>> vortex = gpu4d.probe.apertures.vortex(20.0, 1)
    >>> in_aperture = gpu4d.probe.wavefunction(vortex, energy=300e3, q_pixel=0.02, shape=(128, 128))
    >>> panels = wave(gpu4d.probe.real_space(in_aperture, 0.02), "Vortex", width=10.0)
    >>> [ax.get_title(loc="left") for ax in panels]
    ['Vortex', 'Phase']
    """
    psi, size, units = _given(data, pixel_size, pixel_units)
    if width is not None:
        psi = _middle(psi, max(round(width / size), 2))
    intensity = psi.real**2 + psi.imag**2
    place = Place(psi.shape, columns=2, ax=ax)
    modulus, phase = place.panels
    label = "1/Å²" if hasattr(data, "psi") else ""
    canvas.show(modulus, intensity, title or "Intensity", label, "magma", (0.0, float(intensity.max()) or 1.0))
    phase.imshow(_colours(psi), origin="upper", interpolation="antialiased", interpolation_stage="rgba")
    canvas.frame(phase, "Phase")
    for panel in place.panels:
        canvas.scale_bar(panel, psi.shape, size, units)
        canvas.axis_marks(panel, axes)
    _wheel(phase)
    return place.result


def _given(data: Any, pixel_size: float | None, pixel_units: str | None) -> tuple[np.ndarray, float, str]:
    """Return the wave, its pixel and the units."""
    if hasattr(data, "psi") and hasattr(data, "pixel"):
        psi, size, units = data.psi, data.pixel[1], "Å"
    else:
        psi, size, units = complex_values(data, "wave", "a RealSpaceProbe or a complex image (nx, ny)"), 1.0, "px"
    if psi.ndim != 2 or min(psi.shape) < 2:
        raise InputError(f"wave has shape {psi.shape}: need a RealSpaceProbe or a complex image (nx, ny)")
    return psi, size if pixel_size is None else float(pixel_size), units if pixel_units is None else pixel_units


def _middle(psi: np.ndarray, side: int) -> np.ndarray:
    """Return the middle square of `side` pixels, or what there is of it."""
    first = [max(n // 2 - side // 2, 0) for n in psi.shape]
    return psi[first[0] : first[0] + side, first[1] : first[1] + side]


def _colours(psi: np.ndarray) -> np.ndarray:
    """Return red, green and blue of a wave: hue is its phase, brightness its amplitude."""
    from matplotlib.colors import hsv_to_rgb

    amplitude = np.abs(psi)
    bright = (amplitude / max(float(amplitude.max()), 1e-300)) ** (2 * DIM)
    hue = np.angle(psi) / (2 * math.pi) % 1.0
    return hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), bright], axis=-1))


def _wheel(ax: Any) -> None:
    """Draw the colour wheel beside a panel: phase 0 points down, along the first axis."""
    inset = ax.inset_axes((1.04, 0.74, 0.24, 0.24))
    at = np.linspace(-1, 1, WHEEL)
    x, y = np.meshgrid(at, at, indexing="ij")
    r = np.hypot(x, y)
    picture = np.ones((WHEEL, WHEEL, 4))
    picture[..., :3] = _colours(np.exp(1j * np.arctan2(y, x)))
    picture[..., 3] = np.clip((1 - r) * WHEEL / 3, 0, 1) * np.clip((r - 0.35) * WHEEL / 3, 0, 1)
    inset.imshow(picture, origin="upper", extent=(-1, 1, 1, -1))
    for text, place in (("0", (0, 1.35)), ("π/2", (1.4, 0)), ("π", (0, -1.35)), ("−π/2", (-1.45, 0))):
        inset.text(*place, text, ha="center", va="center", fontsize=8)
    inset.set_xlim(-1.6, 1.6)
    inset.set_ylim(1.6, -1.6)
    inset.set_axis_off()
