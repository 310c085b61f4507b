"""Measure the reference of a glass's strain: find origin and ellipse where they are not known, then the radial profile."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.amorphous.reference_ring import BEYOND, HaloReference, Profile, ProfileSums, smooth_profile
from gpu4d.amorphous.ring_strain import RingStrain
from gpu4d.arrays import ArrayLike
from gpu4d.calibrate.fit_halo import HaloFit, fit_halo
from gpu4d.data.arguments import OriginLike, mean_place, pixel_mask, positions_of
from gpu4d.data.arguments import origins as origins_of
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.imaging import MeanPattern
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats
from gpu4d.streaming.engine import SweepOptions, sweep

WIDEST = 1.2  # times the distance from the origin to the nearest border: rings of which most is seen


@on_host("fits")
def halo_reference(
    cube: DataCube,
    *,
    region: ArrayLike | None = None,
    origin: OriginLike | None = None,
    ellipse: tuple[float, float, float] | None = None,
    radii: tuple[float, float] | None = None,
    mask: ArrayLike | None = None,
    **sweep_options: Unpack[SweepOptions],
) -> HaloReference:
    """Measure the ring of an unstrained glass: profile, ellipse and radii, for `gpu4d.amorphous_strain`.

    Parameters
    ----------
    cube : DataCube
    region : (Rx, Ry) bool, optional
        Positions that are unstrained. None: all.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels; the calibrated origin by default. If neither is known, the middle of the mean pattern's ring is where the fit of
        every position begins, and its own origin is fitted.
    ellipse : (a, b, theta), optional
        The calibrated one by default. If neither is known it is fitted to the mean ring.
    radii : (float, float), optional
        Between which strain is to be fitted, px. By default around the brightest ring.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts.
    **sweep_options
        Of `gpu4d.sweep`. The patterns of the region are read two times, or four where the origin is not known.

    Returns
    -------
    HaloReference

    Raises
    ------
    InputError
        The region has no position, or no ring is seen.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.amorphous_scan((2, 3), (64, 64), radius=18.0, strain=None, ellipse=(1.03, 1.0, 0.4), seed=3)
    >>> found = halo_reference(scan.cube)
    >>> 17 < found.peak < 18, round(found.ellipse[0] / found.ellipse[1], 2)
    (True, 1.03)
    """
    chosen = positions_of(region, cube.scan_shape, "region") & positions_of(sweep_options.get("where"), cube.scan_shape)
    if not chosen.any():
        raise InputError("no position of the reference is visited: give a region and a where= that are both True at some positions")
    options: Any = {**sweep_options, "where": chosen, "keep": "host"}
    if radii is not None:
        radii = (floats(radii, 2, "radii (inner, outer)")[0], floats(radii, 2, "radii (inner, outer)")[1])
    valid = pixel_mask(mask, cube.detector_shape, "mask")
    places = cube.calibration.origin if origin is None else origin
    start = None if places is None else origins_of(places, cube.scan_shape)
    if start is not None and not np.isfinite(np.broadcast_to(start, (*chosen.shape, 2))[chosen]).all(axis=-1).any():
        raise InputError(
            "the origin is NaN at all positions of the reference: choose another region, or measure it (gpu4d.calibrate.origin)"
        )
    shape = cube.calibration.ellipse if ellipse is None else ellipse
    ring = None
    if start is None or shape is None:
        ring = _mean_ring(cube, start, chosen, valid, radii, options)
    middle = np.zeros(2) if start is not None else ring.center if ring is not None else np.zeros(2)
    how = "mean of all positions" if region is None else f"mean of {int(chosen.sum())} positions"
    used = ring.ellipse if shape is None and ring is not None else shape
    origins = np.broadcast_to(middle, (*cube.scan_shape, 2)) if start is None else start
    known = HaloReference(*_profile(cube, origins, used, radii, valid, options), used, middle if start is None else None, chosen, how)
    if start is None:  # the mean ring is blurred by the descan: fit the origins with it, and make it again about them
        fitted = arrays.to_numpy(sweep(cube, RingStrain(known, origins, mask=valid), **options).origin)
        if np.isfinite(fitted[chosen]).all(axis=-1).any():
            about = _profile(cube, fitted, used, radii, valid, options)
            known = HaloReference(*about, used, middle, chosen, how)
    return known


def _mean_ring(
    cube: DataCube, start: np.ndarray | None, chosen: np.ndarray, mask: Any, radii: tuple[float, float] | None, options: Any
) -> HaloFit:
    """Fit the ring of the region's mean pattern, aligned where origins are known."""
    aligned = None if start is None else np.where(chosen[..., None], start, np.nan) if start.ndim == 3 else start
    if aligned is not None and aligned.ndim == 3:
        aligned = np.where(np.isfinite(aligned), aligned, mean_place(aligned))
    mean = sweep(cube, MeanPattern(origin=aligned), **options)
    counts = np.asarray(mean) * int(chosen.sum())
    if not np.isfinite(counts).any():
        raise InputError("the patterns of the reference have a NaN or no counts: choose another region")
    return fit_halo(counts, mask=mask, center=None if aligned is None else mean_place(aligned), radii=radii)


def _profile(cube: DataCube, origins: np.ndarray, ellipse: Any, radii: tuple[float, float] | None, mask: Any, options: Any) -> Profile:
    """Return the profile of the region about its origins."""
    middle = mean_place(origins)
    room = min(middle[0], middle[1], cube.detector_shape[0] - 1 - middle[0], cube.detector_shape[1] - 1 - middle[1])
    r_max = max(WIDEST * float(room), 1.0) if radii is None else BEYOND * radii[1]
    counts, pixels = sweep(cube, ProfileSums(origins, r_max, ellipse, mask), **options)
    if not counts.any():
        raise InputError("the patterns of the reference have no counts: choose another region")
    return smooth_profile(counts, pixels, r_max, radii)
