"""Make the pictures of a scan that are compared: given images, or virtual images and the centre of mass from one sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.arguments import real_values
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.drift.spectrum import Spectrum, noise_of, spectrum_of, without_plane
from gpu4d.errors import InputError
from gpu4d.imaging.com_map import CenterOfMass
from gpu4d.imaging.detectors import Detector, annulus, disk
from gpu4d.imaging.image import Detectors, VirtualImage
from gpu4d.imaging.patterns import MeanPattern
from gpu4d.probe.measure_disk import measure_disk
from gpu4d.streaming.engine import SweepOptions, sweep

LEAST_SIDE = 8  # positions: a shorter scan has too few values for a spectrum
INSIDE, OUTSIDE = 0.9, 1.1  # radii of the bright-field disk: the edge between them moves with descan, which is no contrast
WORTH = 0.05  # of what the best picture tells: one that tells less is left out


@dataclass(frozen=True)
class Pictures:
    """Pictures of one or two scans, as a fit needs them.

    Attributes
    ----------
    values : list of (nx, ny, n) float64
        Without the plane that fits each best, in units of their noise. NaN where missing.
    spectrum : Spectrum
    names : tuple of str
        Of the n pictures that tell something.
    told : (n,) float64
        What each tells, as a share of the best one.
    r_pixels : list of float or None
        Distance of positions as the scans know it, Å.
    """

    values: list[np.ndarray]
    spectrum: Spectrum
    names: tuple[str, ...]
    told: np.ndarray
    r_pixels: list[float | None]


def pictures_of(scans: list[Any], detector: Detectors | None, options: SweepOptions) -> Pictures:
    """Make the pictures of scans, keep those that tell of displacements, and put them into units of their noise."""
    named = [_named(scan, position, detector, options) for scan, position in zip(scans, ("first", "second"))]
    names = [name for name in named[0] if all(name in each for each in named)]
    if not names:
        have = " and ".join(", ".join(each) for each in named)
        raise InputError(f"the scans have no picture in common: they have {have}. Give two cubes, or images of the same signals")
    stacks = [without_plane(np.stack([each[name] for name in names], -1)) for each in named]
    noise = np.sqrt(np.mean([noise_of(stack) ** 2 for stack in stacks], axis=0))
    if not (noise > 0).any():
        raise InputError("the pictures are the same at all positions, so no drift can be found: give pictures with contrast, or detectors")
    alive = noise > 0
    stacks = [stack[..., alive] / noise[alive] for stack in stacks]
    names = [name for name, lives in zip(names, alive) if lives]
    told = spectrum_of(stacks).information()
    kept = told >= WORTH * told.max()
    stacks = [np.ascontiguousarray(stack[..., kept]) for stack in stacks]
    steps = [_r_pixel(scan) for scan in scans]
    shown = tuple(name for name, keep in zip(names, kept) if keep)
    return Pictures(stacks, spectrum_of(stacks), shown, told[kept] / told.max(), steps)


def _named(scan: Any, position: str, detector: Detectors | None, options: SweepOptions) -> dict[str, np.ndarray]:
    """Return the pictures (nx, ny) of one scan by name, NaN where there is no value."""
    if isinstance(scan, DataCube):
        return _of_cube(scan, detector, options)
    values = real_values(scan, position, "a DataCube, or an image (Rx, Ry) or several (Rx, Ry, n)")
    if values.ndim not in (2, 3) or min(values.shape[:2]) < LEAST_SIDE or 0 in values.shape:
        raise InputError(
            f"{position} has shape {values.shape}: need a DataCube, an image (Rx, Ry) or several (Rx, Ry, n), {LEAST_SIDE} positions a side"
        )
    planes = values[..., None] if values.ndim == 2 else values
    if not np.isfinite(planes).all(-1).any():
        raise InputError(f"{position} has a NaN at every position: need an image with values")
    return {f"image {i}" if values.ndim == 3 else "image": _even(planes[..., i]) for i in range(planes.shape[-1])}


def _of_cube(cube: DataCube, detector: Detectors | None, options: SweepOptions) -> dict[str, np.ndarray]:
    """Return counts under the detectors, or else in the disk and around it, and the centre of mass, from one sweep."""
    if min(cube.scan_shape) < LEAST_SIDE:
        raise InputError(f"a scan of {cube.scan_shape} positions is too small: need {LEAST_SIDE} a side")
    origin = cube.calibration.origin
    if detector is None:
        wanted, origin = _around_the_disk(cube, options, origin)
        found = sweep(cube, {"counts": VirtualImage(wanted, origin), "com": CenterOfMass()}, **options)
        counts, com = found["counts"], arrays.to_numpy(found["com"].data)
        moved = {"com_x": com[0], "com_y": com[1]}
    else:
        counts, moved = sweep(cube, VirtualImage(detector, origin), **options), {}
    planes = arrays.to_numpy(counts.data)
    named = dict(zip(counts.labels or ("image",), planes if planes.ndim == 3 else planes[None]))
    return {name: _even(plane) for name, plane in named.items()} | moved


def _around_the_disk(cube: DataCube, options: SweepOptions, origin: Any) -> tuple[dict[str, Detector], Any]:
    """Return detectors inside and outside of the bright-field disk, and the origin. Measure in the mean pattern what is not calibrated."""
    known = cube.calibration.copy()
    known.complete()
    radius = known.probe_radius
    if radius is None or origin is None:
        measured = measure_disk(arrays.to_numpy(sweep(cube, MeanPattern(), **options).data), cube.detector_mask)
        radius = measured.radius if radius is None else radius
        origin = (measured.qx, measured.qy) if origin is None else origin
    wanted = {"bright field": disk(INSIDE * radius)}
    if OUTSIDE * radius + 1 < min(cube.detector_shape) / 2:
        wanted["dark field"] = annulus(OUTSIDE * radius, float(np.hypot(*cube.detector_shape)))
    return wanted, origin


def _even(plane: np.ndarray) -> np.ndarray:
    """Return counts as 2 √(c + 3/8), whose Poisson noise is the same everywhere (Anscombe 1948), and other values as they are."""
    plane = np.where(np.isfinite(plane), plane, np.nan).astype(np.float64)
    known = plane[np.isfinite(plane)]
    counts = known.size > 0 and known.min() >= 0 and (known == np.round(known)).all() and known.max() > 1
    return 2 * np.sqrt(plane + 0.375) if counts else plane


def _r_pixel(scan: Any) -> float | None:
    if isinstance(scan, DataCube):
        return scan.calibration.r_pixel
    return scan.pixel_size if isinstance(scan, RealSlice) and scan.pixel_units == RealSlice.CALIBRATED else None
