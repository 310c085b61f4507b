"""Draw the spectrum of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpu4d import fft
from gpu4d.arrays import ArrayLike
from gpu4d.data.slices import DiffractionSlice
from gpu4d.plot import canvas
from gpu4d.plot.detector import diffraction
from gpu4d.plot.maps import pixel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEYOND = 1.4  # times the largest circle: what is farther out is not drawn


def spectrum(
    data: ArrayLike,
    title: str | None = None,
    *,
    pixel_size: float | None = None,
    pixel_units: str | None = None,
    circles: Sequence[tuple[float, str]] = (),
    power: float = 0.5,
    ax: Axes | None = None,
) -> Axes:
    """Draw the modulus of an image's Fourier transform.

    The image is multiplied by a Hann window, so that its borders draw no cross.

    Parameters
    ----------
    data : (nx, ny) RealSlice or array
        NaN counts as the mean.
    title, pixel_size, pixel_units : optional
        Pixel size and units are taken from the slice unless given.
    circles : sequence of (frequency, label)
        Drawn about the middle, in 1 / `pixel_units`, where they fit: the limit of the aperture, say.
    power : float
        Colours show the modulus to this power.
    ax : matplotlib Axes, optional
        Axes to draw into. By default a new figure is made, which is `ax.figure` of the returned axes.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import numpy as np
    >>> from gpu4d.data.slices import RealSlice
    >>> rows = np.cos(2 * np.pi * np.arange(32) / 4)[:, None] * np.ones(32)
    >>> ax = spectrum(RealSlice(rows, "rows", "rad", 0.5, "Å"), "Spectrum", circles=[(0.5, "2 Å")])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['2 Å']
    """
    values = canvas.plane(data, "spectrum")
    size, units = pixel(data, pixel_size, pixel_units)
    finite = np.isfinite(values)
    mean = float(values[finite].mean()) if finite.any() else 0.0
    window = np.hanning(values.shape[0] + 2)[1:-1, None] * np.hanning(values.shape[1] + 2)[1:-1]
    side = max(values.shape)  # padded to a square, so that a pixel of the spectrum is as high as wide
    padded = np.zeros((side, side))
    padded[: values.shape[0], : values.shape[1]] = np.where(finite, values - mean, 0.0) * window
    modulus = np.abs(np.fft.fftshift(fft.fft2(padded)))
    middle = side // 2
    seen = [(frequency, label) for frequency, label in circles if frequency * side * size < middle]  # others lie outside
    if seen and (shown := math.ceil(BEYOND * max(frequency for frequency, _ in seen) * side * size)) < middle:
        modulus = modulus[middle - shown : middle + shown + 1, middle - shown : middle + shown + 1]
        middle = shown
    named = getattr(data, "units", "")
    drawn = DiffractionSlice(modulus / values.size, "spectrum", "" if named == "1" else named, 1 / (side * size), f"1/{units}")
    rings = [(middle, middle, frequency * side * size, label) for frequency, label in seen]
    return diffraction(drawn, title, power=power, circles=rings, ax=ax)
