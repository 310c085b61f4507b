"""Find all that counting needs to know of a detector in a sample of raw frames: bad pixels, thresholds, the charge of one electron."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import pixel_mask, real_values
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.preprocess.charge import ChargeModel
from gpu4d.preprocess.count_electrons import count_electrons
from gpu4d.preprocess.dark_reference import dark_reference
from gpu4d.preprocess.hot_pixels import hot_pixels
from gpu4d.preprocess.isolated import charge_of_one, isolated_squares
from gpu4d.preprocess.thresholds import Thresholds, thresholds

IN_ONE_PIXEL = 0.8  # share of its charge that an electron never leaves in one pixel on average, but a pixel that fires alone does
STRUCK_OFTEN = 4.0  # standard deviations above the neighbours: seven strikes where they have none
BIN = 0.01  # electrons: bins of the histogram
LOWEST = -0.5  # electrons, of the histogram
ROUNDS = 3  # of the search for pixels that fire: the first ones change the thresholds


@dataclass(frozen=True)
class CountingSetup(
    Storable,
    stored="dark gain: Qx Qy [ADU]; mask flickering: Qx Qy; edges: edge [e]; pixels isolated: bin; electron noise: [ADU]; lower upper: [e]",
):
    """What counting needs to know of a detector, and where it comes from.

    Attributes
    ----------
    dark, gain : (Qx, Qy) float64, gain may be None
        Level of every pixel in the frames: that of the dark frames, moved by as much as the median of all pixels is off.
    mask : (Qx, Qy) bool
        Pixels that can be used.
    flickering : (Qx, Qy) bool
        Pixels that fire by themselves, found in the frames with a beam. They are not in the mask.
    lower, upper : float
        Thresholds in electrons.
    electron, noise : float
        Mean signal of one electron and noise of a pixel, in the units of the frames (ADU).
    model : ChargeModel
        Charge of one electron.
    edges : (k + 1,) float64
        Bins of the histograms, in electrons. What is outside is in the first and the last bin.
    pixels, isolated : (k,) int64
        How many pixels of the sample have such a signal, and how many isolated electrons, summed over 3 × 3 pixels.
    frames : int
        Number of frames of the sample.
    """

    dark: np.ndarray
    gain: np.ndarray | None
    mask: np.ndarray
    flickering: np.ndarray
    lower: float
    upper: float
    electron: float
    noise: float
    model: ChargeModel
    frames: int
    edges: np.ndarray = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    isolated: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        return (
            f"CountingSetup(thresholds {self.lower:.3g} and {self.upper:.3g} electrons of {self.electron:.4g} ADU, noise {self.noise:.3g} "
            f"ADU, spread {self.model.spread:.2f} px, {int((~self.mask).sum())} bad pixels, from {self.frames} frames)"
        )

    @property
    def false_rate(self) -> float:
        """Electrons per pixel and frame that the noise alone would give."""
        return 0.5 * math.erfc(self.lower * self.electron / self.noise / math.sqrt(2))


@on_host("raw")
def counting_setup(
    frames: ArrayLike,
    dark: ArrayLike,
    *,
    gain: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    false_share: float = 3e-4,
    upper: float = 10.0,
) -> CountingSetup:
    """Find bad pixels, thresholds and the charge of one electron in a sample of raw frames.

    Hot and dead pixels come from the dark frames. Flickering pixels fire by themselves: they are struck more often than the pixels
    around them, and have all the charge of their electrons alone.

    Parameters
    ----------
    frames : (..., Qx, Qy) real
        Raw frames of a scan, from all over it.
    dark : (..., Qx, Qy) real
        Frames without a beam, or their mean.
    gain, mask : (Qx, Qy), optional
        As in `count_electrons`.
    false_share, upper : float
        As in `thresholds`.

    Returns
    -------
    CountingSetup
        `gpu4d.plot.counting_histogram` draws it.

    Raises
    ------
    InputError
        As `thresholds`.

    Examples
    --------
    >>> import gpu4d
    >>> raw = gpu4d.simulate.raw_frames((8, 8), (64, 64), occupancy=0.005, seed=1)
    >>> setup = counting_setup(raw.cube.source.array, raw.darks)
    >>> 0.33 < setup.model.spread < 0.43, 3.5 < setup.lower * setup.electron / setup.noise < 6
    (True, True)
    """
    stack = real_values(frames, "frames", "raw frames (..., Qx, Qy)")
    if stack.ndim < 2 or 0 in stack.shape:
        raise InputError(f"frames have shape {stack.shape}: need (..., Qx, Qy) with at least one frame")
    stack = stack.reshape(-1, *stack.shape[-2:])
    shape = stack.shape[1:]
    reference = dark_reference(dark)
    if reference.mean.shape != shape:
        raise InputError(f"dark is {reference.mean.shape}, the frames are {shape}: need frames of the same detector")
    given = pixel_mask(mask, shape, "mask")
    good = reference.mask if given is None else reference.mask & (given != 0)
    gains = None if gain is None else real_values(gain, "gain", "one value per detector pixel").astype(np.float64)
    if gains is not None:
        if gains.shape != shape:
            raise InputError(f"gain is {gains.shape}, the frames are {shape}: need one value per detector pixel")
        good = good & np.isfinite(gains) & (gains > 0)
    ground = np.where(np.isfinite(reference.mean), reference.mean, 0.0)
    if good.any():  # the level of a detector drifts after the dark frames; most pixels of a frame hold no electron
        response = np.where(good, 1.0 if gains is None else gains, 0.0)
        drift = (stack[:, good] - ground[good].astype(np.float32)) / response[good].astype(np.float32)
        drift = drift[np.isfinite(drift)]
        ground = ground + response * (float(np.median(drift)) if drift.size else 0.0)
    flickering = np.zeros(shape, bool)
    for _ in range(ROUNDS):
        limits = thresholds(stack, ground, gain=gains, mask=good, false_share=false_share, upper=upper)
        fires = _fires(stack, ground, limits, gains, good)
        flickering, good = flickering | fires, good & ~fires
        if not fires.any():
            break
    signal = (stack - ground.astype(np.float32)) / (1 if gains is None else np.where(good, gains, np.inf).astype(np.float32))
    squares = isolated_squares(signal, good, limits.lower * limits.electron)
    electron, model = charge_of_one(squares, limits.noise)
    edges = np.arange(LOWEST, upper * 1.1 + BIN, BIN)
    pixels, sums = (_histogram(values / electron, edges) for values in (signal[:, good], squares.sum(axis=(1, 2))))
    lower = limits.lower * limits.electron / electron
    return CountingSetup(
        ground, gains, good, flickering, lower, float(upper), electron, limits.noise, model, len(stack), edges, pixels, sums
    )


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    inside = np.clip(known, edges[0], np.nextafter(edges[-1], edges[0]))
    return np.histogram(inside, edges)[0].astype(np.int64)


def _fires(stack: np.ndarray, dark: np.ndarray, limits: Thresholds, gain: np.ndarray | None, good: np.ndarray) -> np.ndarray:
    """Find pixels that are struck more often than their neighbours and keep the charge alone."""
    found = count_electrons(stack, dark, limits.lower, limits.upper, electron=limits.electron, gain=gain, mask=good)
    struck, charge, alone = (np.zeros(good.shape) for _ in range(3))
    np.add.at(struck, (found.qx, found.qy), 1)
    frame = np.repeat(np.arange(len(stack)), np.diff(found.offsets))
    scale = np.broadcast_to(limits.electron * (1.0 if gain is None else np.where(good, gain, np.inf)), good.shape)
    for dx, dy in ((dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
        x, y = found.qx.astype(int) + dx, found.qy.astype(int) + dy
        inside = np.flatnonzero((x >= 0) & (y >= 0) & (x < good.shape[0]) & (y < good.shape[1]))
        inside = inside[good[x[inside], y[inside]]]
        x, y = x[inside], y[inside]
        part = (stack[frame[inside], x, y] - dark[x, y]) / scale[x, y]
        np.add.at(charge, (found.qx[inside], found.qy[inside]), np.where(np.isfinite(part), part, 0.0))
    np.add.at(alone, (found.qx, found.qy), found.intensity)
    often: Any = hot_pixels(struck, STRUCK_OFTEN, mask=good)
    return often & (alone > IN_ONE_PIXEL * charge)
