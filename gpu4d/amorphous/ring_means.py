"""Get the mean profile of rings with its error and the k of every ring, from a scan or from a profile that is given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gpu4d.amorphous.sine_transform import growing
from gpu4d.data.arguments import LARGEST, pixel_mask, real_values
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.physics import angle_to_frequency
from gpu4d.real_arrays import real_number
from gpu4d.rings import RadialStatistics, RadialVariance, mean_radii
from gpu4d.streaming.engine import sweep

NEED = "a DataCube, or mean intensities by ring (..., n)"


class RingMeans(NamedTuple):
    """Mean intensity by ring.

    Attributes
    ----------
    k : (n,) float64
        1/Å.
    mean : (..., n) float64
        NaN where nothing was measured.
    error : (..., n) float64
        Standard error; NaN where it is not known.
    width : float
        Of a ring, 1/Å.
    """

    k: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    width: float


def from_arrays(profile: Any, k: Any, q_pixel: Any, error: Any) -> RingMeans:
    """Return a given profile. Without k, its rings are one pixel wide."""
    mean = real_values(profile, "profile", NEED).astype(np.float64)
    if mean.ndim < 1 or not mean.shape[-1]:
        raise InputError(f"profile has shape {mean.shape}: need {NEED}")
    mean = np.where(np.abs(mean) < LARGEST, mean, np.nan)
    n = mean.shape[-1]
    if (k is None) == (q_pixel is None):
        raise InputError("need one of k= (1/Å of every ring) and q_pixel= (size of a detector pixel, 1/Å; rings of one pixel)")
    if k is None:
        at = (np.arange(n) + 0.5) * _positive(q_pixel, "q_pixel")
    else:
        at = growing(k, "k")
        if len(at) != n or at[0] < 0:
            raise InputError(f"k has {len(at)} values from {at[0]:g} on, and the profile has {n} rings: need one k ≥ 0 for each, 1/Å")
    width = float(np.median(np.diff(at))) if n > 1 else 0.0
    if error is None:
        return RingMeans(at, mean, np.full_like(mean, np.nan), width)
    spread = real_values(error, "error").astype(np.float64)
    if spread.shape not in ((n,), mean.shape):
        raise InputError(f"error has shape {spread.shape}, and the profile {mean.shape}: need the same, or one error for each ring")
    if (spread < 0).any():
        raise InputError("error has negative values: need standard errors, in the units of the profile")
    return RingMeans(at, mean, np.broadcast_to(np.where(spread < LARGEST, spread, np.nan), mean.shape), width)


def from_scan(cube: DataCube, q_pixel: Any, rings: dict[str, Any], options: dict[str, Any]) -> RingMeans:
    """Sweep a scan once for the mean profile over its positions.

    The error is the scatter of the positions over the square root of their number. Of the normalised variance, the part that all rings
    share is left out: it is that of the thickness, which changes the scale and not S. For whole numbers (counts) the Poisson noise
    is the least that is taken.
    """
    known = cube.calibration
    if known.q_pixel is None and q_pixel is None:
        raise InputError("the size of a detector pixel is not known: give q_pixel=, or set calibration.q_pixel (1/Å)")
    origin = rings.pop("origin")
    origin = known.origin if origin is None else origin
    if origin is None:
        raise InputError("the origin is not known: give it, set calibration.origin, or measure it (gpu4d.calibrate.origin)")
    rings["ellipse"] = known.ellipse if rings["ellipse"] is None else rings["ellipse"]
    found = sweep(cube, RadialVariance(origin, **rings, where=options.pop("where", None)), **options)
    masks = [m for m in (cube.detector_mask, pixel_mask(rings.pop("mask"), cube.shape[2:], "mask")) if m is not None]
    radius = mean_radii(cube.shape[2:], origin, mask=np.logical_and.reduce(masks) if masks else None, **rings)
    filled = np.isfinite(radius)  # a narrow ring near the beam may have no pixel
    size = _positive(known.q_pixel if q_pixel is None else q_pixel, "q_pixel")
    error = _error(found, np.dtype(str(cube.dtype)).kind in "iub")
    width = size * float(found.radius[1] - found.radius[0]) if len(radius) > 1 else 0.0
    return RingMeans(size * radius[filled], found.mean[filled], error[filled], width)


def bright_field_radius(known: Calibration) -> float:
    """Return the radius of the bright-field disk of a calibrated semi-angle, 1/Å; 0 if it is not known."""
    if known.semiangle is None or known.energy is None:
        return 0.0
    return angle_to_frequency(known.semiangle, known.energy)


def _error(found: RadialStatistics, counts: bool) -> np.ndarray:
    """Return the standard error of the mean profile."""
    noise = found.noise if counts else np.zeros_like(found.noise)
    extra = found.variance - noise
    some = np.isfinite(extra)
    shared = max(float(extra[some].min()), 0.0) if some.any() else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(found.mean) * np.sqrt(np.maximum(found.variance - shared, noise) / found.positions)


def _positive(given: Any, name: str) -> float:
    value = float(real_number(given, name))
    if not 0 < value < LARGEST:
        raise InputError(f"{name}={value:g}: need a positive number, 1/Å")
    return value
