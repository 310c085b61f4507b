"""Measure the strain of a glass: the reference's ring, the fit of every pattern, and drifts of descan and camera length."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.amorphous._halo_reference import halo_reference
from gpu4d.amorphous.radius_drift import without_drift
from gpu4d.amorphous.reference_ring import HaloReference, reference_of
from gpu4d.amorphous.result import AmorphousStrain, as_strain
from gpu4d.amorphous.ring_strain import RingStrain
from gpu4d.arrays import Array, ArrayLike
from gpu4d.calibrate import origin as fit_surface
from gpu4d.data.arguments import OriginLike, positions_of
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import radians, real_array
from gpu4d.streaming.engine import SweepOptions, sweep

log = logging.getLogger("gpu4d")

CENTERS = ("free", "surface", "given")  # the middle of a ring: fitted, on a surface through all that were fitted, or as given


@on_host("judged")
def amorphous_strain(
    patterns: DataCube | Array,
    /,
    *,
    reference: str | ArrayLike | HaloReference | AmorphousStrain | tuple[ArrayLike, ArrayLike] = "mean",
    origin: OriginLike | None = None,
    center: str = "free",
    ellipse: tuple[float, float, float] | None = None,
    radii: tuple[float, float] | None = None,
    mask: ArrayLike | None = None,
    terms: int = 2,
    drift: int | None = None,
    rotation: float | None = None,
    max_strain: float = 0.1,
    **sweep_options: Unpack[SweepOptions],
) -> AmorphousStrain:
    """Measure the strain of a glass from its diffuse ring, at every position, by Poisson maximum likelihood.

    Tension makes distances longer and the ring smaller. The expected counts are s P(|V T (q − q₀)|) + b + t ρ, with V = 1 + ε, as the
    operation `gpu4d.amorphous.fit_strained_ring` says. P is the radial profile of the reference. T removes the ellipse of the detector,
    so that it is composed with the strain and not subtracted from it.

    Parameters
    ----------
    patterns : DataCube or (Rx, Ry, Qx, Qy) array
        Counts.
    reference : "mean", region, HaloReference, another result, or profile
        What is unstrained. "mean": the mean of all visited positions. A region is an (Rx, Ry) bool array. A `HaloReference` or another
        result is that of another scan with the same camera length. A profile is a pair of arrays: radii, px, and counts.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Right to a pixel or two. The calibrated one by default, else found from the ring itself.
    center : {"free", "surface", "given"}
        "free": the middle of every ring is fitted, with `origin` as the start. This costs no precision where the whole ring is seen.
        "surface": in a second sweep it is on a robust surface through the first one's (descan is smooth). "given": `origin` is exact.
    ellipse : (a, b, theta), optional
        `Calibration.ellipse`, the calibrated one by default. If neither is known it is that of the reference's ring. Shear is then
        relative to the reference too.
    radii : (float, float), optional
        Between which the ring is fitted, px. By default around the brightest ring of the reference.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts.
    terms : {0, 1, 2}
        Terms of a background beneath the ring: none, a constant, a slope too.
    drift : int, optional
        Order of a polynomial in the scan row that the radius of the ring follows in the reference region, as the camera length
        drifts. It is removed from all positions. The region needs positions in more than `drift` rows.
    rotation : float, optional
        Angle of the tensor's x axis, rad, from the first scan axis towards the second.
    max_strain : float
        Larger components are kept, but a warning counts them. Positive.
    **sweep_options
        Of `gpu4d.sweep`: device, memory, where, progress.

    Returns
    -------
    AmorphousStrain
        In scan axes if the calibration knows the rotation, as `gpu4d.strain_map`. NaN at positions that were not visited, are empty,
        have a NaN between the radii, or whose fit does not end.

    Raises
    ------
    InputError
        No ring is seen, the reference has no pattern, or arguments do not fit each other.

    Notes
    -----
    Errors are those of the counts, with the reference taken as exact, times √residual where that is above 1. Speckles larger than a
    pixel make them larger than this says. The strain is that of V in F = V R: a rotation of the glass does not show, and is no strain.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.amorphous_scan((6, 6), (64, 64), radius=18.0, unstrained_rows=2, seed=1)
    >>> rows = np.arange(36).reshape(6, 6) < 12
    >>> strain = gpu4d.amorphous_strain(scan.cube, reference=rows)
    >>> bool(np.std(strain.exx - scan.truth["exx"]) < 0.006)
    True
    """
    cube = as_cube(patterns)
    if center not in CENTERS:
        raise InputError(f"center={center!r}: need one of {', '.join(map(repr, CENTERS))}")
    if center == "given" and origin is None and cube.calibration.origin is None:
        raise InputError('center="given" needs an origin: give origin=, or set calibration.origin')
    known = _reference(cube, reference, origin, ellipse, radii, mask, sweep_options)
    options: dict[str, Any] = {"terms": terms, "mask": mask, "max_strain": max_strain}
    start = origin if origin is not None or cube.calibration.origin is not None else known.center
    found = sweep(cube, RingStrain(known, start, fit_origin=center != "given", **options), **sweep_options)
    if center == "surface":
        smooth = fit_surface(arrays.to_numpy(found.origin), fit="auto")
        found = sweep(cube, RingStrain(known, smooth, fit_origin=False, **options), **sweep_options)
    if drift is not None:
        found = without_drift(found, drift)
    if isinstance(reference, AmorphousStrain) and drift is None and reference.drift is not None:
        log.info("the drift of the reference's radius belongs to its own scan, and is not removed here")
    angle = 0.0 if rotation is None else radians(rotation, "rotation")
    found = as_strain(found._fit, angle)
    missing = int(np.sum(positions_of(sweep_options.get("where"), cube.scan_shape) & ~arrays.to_numpy(found.mask)))
    if missing:
        text = f"{missing} position{'s' * (missing > 1)} without strain: empty, not a number, or too few counts"
        found = replace(found, warnings=(*found.warnings, text))
    for text in found.warnings:
        log.warning(text)
    return found


def as_cube(patterns: Any) -> DataCube:
    """Return patterns as a cube."""
    if isinstance(patterns, DataCube):
        return patterns
    patterns = real_array(patterns, "patterns", "a DataCube or an array (Rx, Ry, Qx, Qy)")
    if patterns.ndim != 4:
        raise InputError(f"patterns has shape {tuple(patterns.shape)}: need a DataCube or (Rx, Ry, Qx, Qy)")
    return DataCube(patterns)


def _reference(cube: DataCube, given: Any, origin: Any, ellipse: Any, radii: Any, mask: Any, sweep_options: SweepOptions) -> HaloReference:
    """Return the reference in any of its forms, with the radii that were given."""
    if isinstance(given, AmorphousStrain):
        given = given.reference
    if isinstance(given, HaloReference):
        changed = given if ellipse is None else replace(given, ellipse=ellipse)
        return changed if radii is None else changed.between(*radii)
    if isinstance(given, tuple) and len(given) == 2 and np.ndim(given[0]) == 1 and np.size(given[0]) > 2:
        return reference_of(given, radii, cube.calibration.ellipse if ellipse is None else ellipse)
    if isinstance(given, str):
        if given != "mean":
            raise InputError(f"reference={given!r}: need 'mean', a region (Rx, Ry), a HaloReference, another result, or (radii, counts)")
        region = None
    else:
        region = given
    return halo_reference(cube, region=region, origin=origin, ellipse=ellipse, radii=radii, mask=mask, **sweep_options)
