"""Simulate raw frames of a direct detector whose every electron is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import host_image
from gpu4d.data.datacube import DataCube
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number
from gpu4d.simulate.simulated import plane_shape

# Moyal's approximation of the Landau distribution, −ln Z² of a normal deviate Z, has the mean γ + ln 2 (J. E. Moyal, Phil. Mag. 46
# (1955) 263). Width and mode make the mean 1.
MOYAL_MEAN = 1.2703628454614782
ENERGY_WIDTH = 0.16
LARGEST_SIGNAL = 5.0  # mean signals: an electron cannot leave more than it has
HALF = 3  # px: charge farther from an electron is left away
LEVEL, LEVEL_SPREAD = 64.0, 3.0  # ADU, of the dark level and from pixel to pixel
HOT_LEVEL = 400.0  # ADU over the level
DEAD_SHARE = 0.1  # of its level that a dead pixel has
FLICKER_RATE = 0.3  # of the frames in which a flickering pixel fires
XRAY_SIGNAL = 20.0  # electrons
DENSEST = 1.0  # electrons per pixel and frame, of an even detector


@dataclass
class RawFrames(
    Storable,
    stored="darks: frame Qx Qy [ADU]; electrons: electron value; dark gain: Qx Qy; hot dead flickering: Qx Qy; xrays: xray value",
):
    """Raw frames of a direct detector, and what the simulation knows of them.

    Attributes
    ----------
    cube : DataCube
        (Rx, Ry, Qx, Qy) uint16, ADU.
    darks : (n, Qx, Qy) uint16
        Frames without a beam.
    electrons : (m, 4) float64
        Frame (row-major number of the position), qx, qy in px with the middle of a pixel at a whole number, signal in ADU.
    dark, gain : (Qx, Qy) float64
    hot, dead, flickering : (Qx, Qy) bool
    xrays : (k, 3) int64
        Frame and pixel of the X-rays.
    """

    cube: DataCube
    darks: np.ndarray
    electrons: np.ndarray
    dark: np.ndarray
    gain: np.ndarray
    hot: np.ndarray
    dead: np.ndarray
    flickering: np.ndarray
    xrays: np.ndarray

    def __repr__(self) -> str:
        return f"RawFrames({self.cube!r}, {len(self.electrons)} electrons)"


@on_host("image")
def raw_frames(
    scan_shape: tuple[int, int] = (8, 8),
    detector_shape: tuple[int, int] = (128, 128),
    *,
    occupancy: float = 0.005,
    pattern: ArrayLike | None = None,
    electron: float = 120.0,
    spread: float = 0.38,
    noise: float = 3.0,
    gain_spread: float = 0.03,
    bad_pixels: int = 10,
    xray_rate: float = 0.02,
    darks: int = 16,
    seed: int = 0,
) -> RawFrames:
    """Simulate raw frames of a direct electron detector.

    Electrons strike at random places. Each leaves a signal of Moyal's distribution, an approximation of Landau's, in a charge that is
    normally distributed about its place. Pixels have a dark level, a gain and a normal read noise. Some are hot, dead, or fire by
    themselves. X-rays light single pixels.

    Parameters
    ----------
    scan_shape, detector_shape : (int, int)
    occupancy : float
        Electrons per pixel and frame, the mean over the detector.
    pattern : (Qx, Qy) array, optional
        Where electrons strike, in any unit; by default everywhere alike.
    electron : float
        Mean signal of one electron, ADU.
    spread : float
        Standard deviation of the charge about the place of the electron, px.
    noise : float
        Read noise of a pixel, ADU.
    gain_spread : float
        Relative standard deviation of the gain from pixel to pixel.
    bad_pixels : int
        Number of hot pixels, of dead ones, and of flickering ones.
    xray_rate : float
        X-rays per frame.
    darks : int
        Number of frames without a beam.
    seed : int

    Returns
    -------
    RawFrames

    Raises
    ------
    InputError
        Impossible shapes or numbers.

    Examples
    --------
    >>> raw = raw_frames((2, 3), (32, 40), occupancy=0.01, bad_pixels=2)
    >>> raw.cube.shape, raw.darks.shape, raw.electrons.shape[1]
    ((2, 3, 32, 40), (16, 32, 40), 4)
    """
    scan_shape, shape = plane_shape(scan_shape, "scan_shape"), plane_shape(detector_shape, "detector_shape")
    numbers = dict(occupancy=occupancy, electron=electron, spread=spread, noise=noise, gain_spread=gain_spread, xray_rate=xray_rate)
    for name, value in numbers.items():
        if not real_number(value, name) >= 0:
            raise InputError(f"{name}={value!r}: need a number of 0 or more")
    if not (occupancy <= DENSEST and 0 < spread < HALF / 2 and electron > 0 and 0 <= 3 * bad_pixels <= shape[0] * shape[1] and darks >= 1):
        raise InputError(
            f"occupancy={occupancy}, spread={spread}, electron={electron}, bad_pixels={bad_pixels}, darks={darks}: need occupancy up to "
            f"{DENSEST:g} electrons per pixel and frame, spread above 0 and below {HALF / 2} px, electron above 0, bad_pixels up to a "
            "third of the pixels, and at least one of darks"
        )
    rng = np.random.default_rng(seed)
    dark, gain = rng.normal(LEVEL, LEVEL_SPREAD, shape).clip(5), rng.normal(1, gain_spread, shape).clip(0.2)
    kinds = rng.permutation(shape[0] * shape[1])[: 3 * bad_pixels].reshape(3, bad_pixels)
    hot, dead, flickering = (np.isin(np.arange(shape[0] * shape[1]), chosen).reshape(shape) for chosen in kinds)
    level = np.where(hot, dark + HOT_LEVEL, np.where(dead, DEAD_SHARE * dark, dark))
    density = _density(pattern, shape)
    frames = np.empty((scan_shape[0] * scan_shape[1], *shape), np.uint16)
    electrons, xrays = [], []
    for i in range(len(frames)):
        struck = _struck(rng, density, occupancy, electron)
        charge = _charge(struck, shape, spread)
        rays = rng.integers(0, shape, (rng.poisson(xray_rate), 2))
        charge[tuple(rays.T)] += XRAY_SIGNAL * electron
        fires = flickering & (rng.random(shape) < FLICKER_RATE)
        charge[fires] += electron * rng.uniform(0.5, 2.5, int(fires.sum()))
        frames[i] = _read(rng, level + np.where(dead, 0.0, gain * charge), noise)
        electrons.append(np.column_stack([np.full(len(struck), i), struck]))
        xrays.append(np.column_stack([np.full(len(rays), i, np.int64), rays]))
    without = np.stack([_read(rng, level, noise) for _ in range(darks)])
    metadata = {"simulation": "gpu4d.simulate.raw_frames", "seed": seed, "occupancy": occupancy}
    cube = DataCube(frames.reshape(*scan_shape, *shape), metadata=metadata, name="raw_frames")
    return RawFrames(cube, without, np.concatenate(electrons), dark, gain, hot, dead, flickering, np.concatenate(xrays))


def _density(pattern: ArrayLike | None, shape: tuple[int, int]) -> np.ndarray:
    """Return the share of the electrons in every pixel."""
    density = np.ones(shape) if pattern is None else host_image(pattern, "pattern").astype(np.float64)
    if density.shape != shape or not (np.isfinite(density).all() and density.min() >= 0 and density.max() > 0):
        raise InputError(f"pattern is {density.shape}: need {shape} numbers of 0 or more, not all 0")
    density = density / density.max()  # before the sum, which may be too large
    return density / density.sum()


def _struck(rng: np.random.Generator, density: np.ndarray, occupancy: float, electron: float) -> np.ndarray:
    """Return qx, qy and signal of the electrons of one frame, (m, 3)."""
    number = rng.poisson(occupancy * density.size)
    pixel = rng.choice(density.size, number, p=density.ravel())
    place = np.stack(np.divmod(pixel, density.shape[1]), axis=-1) + rng.uniform(-0.5, 0.5, (number, 2))
    moyal = -np.log(rng.standard_normal(number) ** 2)
    signal = electron * np.clip(1 + ENERGY_WIDTH * (moyal - MOYAL_MEAN), 0.05, LARGEST_SIGNAL)
    return np.column_stack([place, signal])


def _charge(struck: np.ndarray, shape: tuple[int, int], spread: float) -> np.ndarray:
    """Return the charge of all electrons in the pixels of a frame."""
    from scipy.special import ndtr

    charge = np.zeros((shape[0] + 2 * HALF, shape[1] + 2 * HALF))
    if not len(struck):
        return charge[HALF:-HALF, HALF:-HALF]
    near = np.rint(struck[:, :2]).astype(int).clip(0, np.array(shape) - 1)
    edges = np.arange(-HALF, HALF + 2) - 0.5
    px, py = (np.diff(ndtr((edges + (near - struck[:, :2])[:, axis, None]) / spread), axis=1) for axis in (0, 1))
    side = np.arange(2 * HALF + 1)
    at = near[:, 0, None, None] + side[:, None], near[:, 1, None, None] + side
    np.add.at(charge, at, struck[:, 2, None, None] * px[:, :, None] * py[:, None, :])
    return charge[HALF:-HALF, HALF:-HALF]


def _read(rng: np.random.Generator, charge: np.ndarray, noise: float) -> np.ndarray:
    """Return what the detector writes."""
    return np.rint(rng.normal(charge, noise)).clip(0, 65535).astype(np.uint16)
