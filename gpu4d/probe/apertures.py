"""Describe apertures that form a probe: round, annular, patterned, with phase plates and vortices. They are multiplied to combine them.

An aperture is a function of the angle, in mrad, from the optic axis. `gpu4d.probe.wavefunction` puts it on the pixels of a detector and
adds the aberrations of the lens. `gpu4d.probe.patterned` makes the vacuum image of its intensity.

Examples
--------
>>> import gpu4d
>>> from gpu4d.probe import apertures
>>> both = apertures.bullseye(2.6) * apertures.vortex(2.6, 1)
>>> both
Aperture(bullseye × vortex of charge 1, 2.6 mrad)
>>> gpu4d.probe.wavefunction(both, energy=300e3, q_pixel=0.01, shape=(64, 64)).shape
(64, 64)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_number

Step = Callable[[np.ndarray], np.ndarray]  # from the distance inside an edge to the part that is let through, ½ on the edge

__all__ = ["Aperture", "bessel", "bullseye", "cross", "disk", "mask", "phase_plate", "vortex"]


def __dir__() -> list[str]:
    return list(__all__)


@dataclass(frozen=True, eq=False)
class Aperture:
    """A function of the angle from the optic axis, by which the incident wave is multiplied.

    ``a * b`` is both, one after the other.

    Attributes
    ----------
    semiangle : float
        Nothing passes beyond this angle, mrad.
    name : str
    transmission : callable
        ``transmission(x, y, step)`` returns the wave behind the aperture, real or complex, for arrays of angles x, y in mrad. `step`
        turns a distance inside an edge, in mrad, into the part that the edge lets through, so that edges are as soft as pixels need.

    Examples
    --------
    >>> disk(20.0) * vortex(20.0, 2)
    Aperture(round × vortex of charge 2, 20 mrad)
    """

    semiangle: float
    name: str
    transmission: Callable[[np.ndarray, np.ndarray, Step], np.ndarray]

    def __mul__(self, other: Aperture) -> Aperture:
        if not isinstance(other, Aperture):
            return NotImplemented
        first, second = self.transmission, other.transmission
        smaller = min(self.semiangle, other.semiangle)
        return Aperture(smaller, f"{self.name} × {other.name}", lambda x, y, step: first(x, y, step) * second(x, y, step))

    def __repr__(self) -> str:
        return f"Aperture({self.name}, {self.semiangle:g} mrad)"

    def at(self, x: np.ndarray, y: np.ndarray, edge: float) -> np.ndarray:
        """Return the wave behind the aperture at angles x, y in mrad, with edges that fall linearly over `edge` mrad."""
        return self.transmission(x, y, lambda inside: np.clip(0.5 + inside / edge, 0.0, 1.0))


def disk(semiangle: float) -> Aperture:
    """Return a round aperture.

    Parameters
    ----------
    semiangle : float
        mrad.

    Examples
    --------
    >>> disk(25.0)
    Aperture(round, 25 mrad)
    """
    rim = _angle(semiangle, "semiangle")
    return Aperture(rim, "round", lambda x, y, step: step(rim - np.hypot(x, y)))


def bessel(inner: float, outer: float) -> Aperture:
    """Return an annulus. Its probe is a Bessel beam: a thin core with rings, which stays thin over a long depth.

    Parameters
    ----------
    inner, outer : float
        Radii, mrad. The core of the probe is J₀(2π k r)² with k the mean radius; its first zero is at 2.405 / (2π k).

    Examples
    --------
    >>> bessel(24.0, 25.0)
    Aperture(annulus from 24 mrad, 25 mrad)
    """
    low, rim = real_number(inner, "inner"), _angle(outer, "outer")
    if not 0 <= low < rim:
        raise InputError(f"bessel({inner}, {outer}): need 0 ≤ inner < outer in mrad")

    def ring(x: np.ndarray, y: np.ndarray, step: Step) -> np.ndarray:
        r = np.hypot(x, y)
        return step(rim - r) * (step(r - low) if low > 0 else 1.0)

    return Aperture(rim, f"annulus from {low:g} mrad", ring)


def bullseye(semiangle: float, *, rings: int = 3, contrast: float = 1.0, bars: int = 1, bar: float = 0.1) -> Aperture:
    """Return a round aperture with dark rings, held by bars. Its many rims locate Bragg disks better than one rim (Zeltmann et al. 2020).

    Parameters
    ----------
    semiangle : float
        Outer radius, mrad.
    rings : int
        Dark rings. Bright and dark zones have equal breadth, and the middle is bright.
    contrast : float
        Part that a dark ring holds back, 0 … 1.
    bars : int
        Bars from the middle to the rim, spread evenly. The first points to −y.
    bar : float
        Breadth of a bar, in units of the semi-angle.

    Examples
    --------
    >>> bullseye(2.6, rings=2)
    Aperture(bullseye, 2.6 mrad)
    """
    rim = _angle(semiangle, "semiangle")
    if not (1 <= real_number(rings, "rings", whole=True) and 0 <= real_number(bars, "bars", whole=True)):
        raise InputError(f"rings={rings}, bars={bars}: need at least one ring, and no negative number of bars")
    if not (0 < real_number(contrast, "contrast") <= 1 and 0 < real_number(bar, "bar") < 1):
        raise InputError(f"contrast={contrast}, bar={bar}: need a contrast above 0, up to 1, and a breadth between 0 and 1")
    at = rim * np.arange(1, 2 * rings + 1) / (2 * rings + 1)

    def target(x: np.ndarray, y: np.ndarray, step: Step) -> np.ndarray:
        r = np.hypot(x, y)
        dark = sum(step(r - first) * step(last - r) for first, last in zip(at[::2], at[1::2]))
        out = step(rim - r) * (1 - contrast * dark)
        for angle in -math.pi / 2 + 2 * math.pi * np.arange(bars) / max(bars, 1):
            along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
            out = out * (1 - contrast * step(0.5 * bar * rim - np.abs(across)) * step(along - at[0]))
        return out

    return Aperture(rim, "bullseye", target)


def cross(semiangle: float, *, bar: float = 0.25, contrast: float = 1.0) -> Aperture:
    """Return a round aperture with a dark cross along both axes.

    Parameters
    ----------
    semiangle : float
        mrad.
    bar : float
        Breadth of the bars, in units of the semi-angle.
    contrast : float
        Part that the bars hold back, 0 … 1.

    Examples
    --------
    >>> cross(2.6)
    Aperture(cross, 2.6 mrad)
    """
    rim = _angle(semiangle, "semiangle")
    if not (0 < real_number(contrast, "contrast") <= 1 and 0 < real_number(bar, "bar") < 1):
        raise InputError(f"contrast={contrast}, bar={bar}: need a contrast above 0, up to 1, and a breadth between 0 and 1")
    half = 0.5 * bar * rim

    def bars(x: np.ndarray, y: np.ndarray, step: Step) -> np.ndarray:
        open_ = (1 - step(half - np.abs(x))) * (1 - step(half - np.abs(y)))
        return step(rim - np.hypot(x, y)) * (1 - contrast + contrast * open_)

    return Aperture(rim, "cross", bars)


def mask(semiangle: float, image: ArrayLike) -> Aperture:
    """Return a round aperture with any pattern in it.

    Parameters
    ----------
    semiangle : float
        mrad.
    image : (n, m) array
        Transmission, 0 … 1, over the square about the disk: the middles of its outermost pixels are half a pixel inside the square. It is
        interpolated linearly between its pixels.

    Examples
    --------
    >>> mask(2.6, [[1.0, 0.0], [0.0, 1.0]])
    Aperture(pattern of 2×2, 2.6 mrad)
    """
    rim = _angle(semiangle, "semiangle")
    given = _map(image, "image")
    if given.min() < 0 or given.max() > 1:
        raise InputError(f"image goes from {given.min():g} to {given.max():g}: a transmission lies between 0 and 1")
    return Aperture(
        rim, f"pattern of {given.shape[0]}×{given.shape[1]}", lambda x, y, step: step(rim - np.hypot(x, y)) * _at(given, x, y, rim)
    )


def phase_plate(semiangle: float, phase: float | ArrayLike = math.pi / 2, *, radius: float | None = None) -> Aperture:
    """Return a round aperture whose middle, or every point, shifts the phase.

    Parameters
    ----------
    semiangle : float
        mrad.
    phase : float or (n, m) array
        Phase shift, rad: of the middle disk (π/2 is Zernike's plate), or a map over the square about the aperture, as in `mask`.
    radius : float, optional
        Radius of the middle disk, mrad. It is needed if `phase` is a number, and must be left out if it is a map.

    Examples
    --------
    >>> phase_plate(20.0, radius=2.0)
    Aperture(phase plate, 20 mrad)
    """
    rim = _angle(semiangle, "semiangle")
    given = real_values(phase, "phase", "a number of radians, or a map (n, m)").astype(np.float64)
    if given.ndim == 0:
        if radius is None or not 0 < real_number(radius, "radius") < rim:
            raise InputError(f"radius={radius}: the disk that shifts the phase needs a radius below the semi-angle of {rim:g} mrad")
        turn = complex(np.exp(1j * float(given)))
        return Aperture(
            rim,
            "phase plate",
            lambda x, y, step: step(rim - np.hypot(x, y)) * (1 + (turn - 1) * step(radius - np.hypot(x, y))),
        )
    if radius is not None:
        raise InputError("phase is a map: leave out radius, which belongs to a phase given as one number")
    given = _map(given, "phase")
    return Aperture(rim, "phase plate", lambda x, y, step: step(rim - np.hypot(x, y)) * np.exp(1j * _at(given, x, y, rim)))


def vortex(semiangle: float, charge: int) -> Aperture:
    """Return a round aperture with the phase ℓ φ. Its probe is dark in the middle, and carries ℓ ħ an electron.

    Parameters
    ----------
    semiangle : float
        mrad.
    charge : int
        ℓ, positive or negative. φ goes from the first axis to the second.

    Examples
    --------
    >>> vortex(20.0, -1)
    Aperture(vortex of charge -1, 20 mrad)
    """
    rim, turns = _angle(semiangle, "semiangle"), int(real_number(charge, "charge", whole=True))

    def spiral(x: np.ndarray, y: np.ndarray, step: Step) -> np.ndarray:
        r = np.hypot(x, y)
        phase = np.exp(1j * turns * np.arctan2(y, x))
        return step(rim - r) * np.where((r > 0) | (turns == 0), phase, 0.0)  # in the middle all phases add up to 0

    return Aperture(rim, f"vortex of charge {turns}", spiral)


def _angle(given: float, name: str) -> float:
    """Return an angle, or raise InputError if it is not positive."""
    angle = float(real_number(given, name))
    if not 0 < angle < math.inf:
        raise InputError(f"{name}={given}: need a positive angle in mrad")
    return angle


def _map(given: ArrayLike, name: str) -> np.ndarray:
    """Return an image (n, m) float64 without NaN."""
    image = real_values(given, name, "an image (n, m)").astype(np.float64)
    if image.ndim != 2 or min(image.shape) < 1 or not np.isfinite(image).all():
        raise InputError(f"{name} has shape {image.shape}: need an image (n, m) of finite numbers")
    return image


def _at(image: np.ndarray, x: np.ndarray, y: np.ndarray, rim: float) -> np.ndarray:
    """Interpolate an image over the square of ± `rim` at x, y. Outside the square it has the value of its border."""
    from scipy.ndimage import map_coordinates

    x, y = np.broadcast_arrays(x, y)
    at = [(v / rim + 1) / 2 * n - 0.5 for v, n in zip((x, y), image.shape)]
    return map_coordinates(image, at, order=1, mode="nearest")
