"""Compute the phase of a thin object by single-side-band ptychography, from the overlaps of its diffracted disks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays, fft, physics
from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import OriginLike, real_values
from gpu4d.data.datacube import DataCube
from gpu4d.data.slices import RealSlice
from gpu4d.errors import InputError
from gpu4d.imaging import VirtualImage, detectors
from gpu4d.ptychography.experiment import Experiment, experiment
from gpu4d.ptychography.overlap_gate import check_overlap, check_strongest
from gpu4d.ptychography.overlap_geometry import Overlaps, overlap_geometry
from gpu4d.ptychography.pixel_groups import PixelSource, ScanPixels, blanked
from gpu4d.ptychography.side_band_sums import side_band_sums
from gpu4d.ptychography.ssb_sum import MODES, SSBSum
from gpu4d.ptychography.thin_object import ThinObject
from gpu4d.real_arrays import real_number
from gpu4d.streaming.engine import SweepOptions, VisitOptions

log = logging.getLogger("gpu4d")

LEAST_TROTTER = 1.0  # pixels: the mean over a smaller overlap is noise, so exact mode leaves its frequency out, as published


@dataclass(kw_only=True)
class SSB(ThinObject):
    """Phase of a thin object from single-side-band ptychography, and how it was found.

    Attributes of `gpu4d.ptychography.ThinObject`, and these. The transmission is 1 + iφ, that of a weak phase object. The transfer of
    mode "weighted" is Σ|Γ|² / (Σ|Γ|² + ε max Σ|Γ|²); that of "exact" is 1 where it measures, and 0 elsewhere. That is not
    all: the phase of "exact" has been some 6 % smaller than that of "weighted", for disks of 6 and of 13 px radius.

    Attributes
    ----------
    mode : str
    """

    mode: str

    def __repr__(self) -> str:
        return self._words(f"{self.mode}, ")


def ssb(
    cube: DataCube,
    /,
    *,
    rotation: float | None = None,
    transpose: bool | None = None,
    aberrations: Mapping[str, float] | None = None,
    pupil: ArrayLike | None = None,
    mode: str = "weighted",
    epsilon: float = 0.003,
    energy: float | None = None,
    semiangle: float | None = None,
    q_pixel: float | None = None,
    r_pixel: float | None = None,
    origin: OriginLike | None = None,
    adf: tuple[float, float] | None = None,
    memory: int | float | str | None = None,
    **sweep_options: Unpack[VisitOptions],
) -> SSB:
    """Compute the phase of a thin object by single-side-band ptychography.

    The scan spectrum of a bright-field pixel is G(k, K) = F{iφ}(K) Γ(k, K) with
    Γ(k, K) = Ψ₀*(k) Ψ₀(k - K) - Ψ₀(k) Ψ₀*(k + K). So every pixel in which disks overlap measures the spectrum of the phase.
    Mode "weighted" takes the Wiener mean over all of these pixels, Σ G Γ* / (Σ |Γ|² + ε max Σ |Γ|²). Mode "exact" is the
    published method: the means over the two double overlaps without the triple overlap, and half their difference. It leaves
    out frequencies with less than a pixel in one of the overlaps.

    |Ψ₀|² is scaled to the intensity measured in the disk, so that the phase is in radians. For strong objects the phase is too
    small, because sin φ relative to the direct beam is measured, and not φ.

    Parameters
    ----------
    cube : DataCube
        The scan. Its steps should be at most 1 / (4 k₀), with k₀ the radius of the disk in 1/Å. Larger steps lose high frequencies.
    rotation, transpose : float, bool
        Rotation of the detector: v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians. By
        default from the cube's calibration, or 0 and False if it has none.
    aberrations : mapping, optional
        Krivanek coefficients in Å and radians, with azimuths in detector axes: C10, C12, phi12, C21, phi21, C23, phi23, C30, …
        `defocus` = -C10, positive is underfocus.
    pupil : (Qx, Qy) array, optional
        Ψ₀ on the detector, real or complex, in place of a round disk. Its scale does not matter. Values between pixels are
        interpolated. It must be zero outside the aperture, because "exact" depends on that. It is multiplied by the aberrations.
    mode : {"weighted", "exact"}
    epsilon : float
        ε of the weighted mode. A larger value gives a smoother, but smaller phase.
    energy, semiangle, q_pixel, r_pixel : float, optional
        In eV, mrad, 1/Å and Å. By default from the cube's calibration. If that has positions, the steady part of their drift makes the
        grid oblique, and the sum is exact for it. A given `r_pixel` replaces them.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Centre of the bright-field disk, pixels. The mean of a map is used. By default from the calibration, or measured in the
        mean pattern. The radius is measured too if semi-angle or q_pixel is missing.
    adf : (inner, outer), optional
        Angles of an annular dark-field detector, mrad. Its image is made in the same pass.
    memory : int or str, optional
        As in `gpu4d.sweep`. If the stack of bright-field images does not fit, several passes are made, with the same result.
    **sweep_options
        Options of `gpu4d.sweep`: device, progress, where.

    Returns
    -------
    SSB
        Positions without counts, with NaN, or not visited are NaN in the result. For the sums, each image is filled there with its
        mean.

    Raises
    ------
    InputError
        Not a DataCube, a calibration that is missing, an unknown mode or coefficient, a pupil of another shape, a disk without pixels,
        a scan without a frequency whose disks overlap.

    Notes
    -----
    Rodenburg, McCallum, Nellist, Ultramicroscopy 48 (1993) 304; Pennycook et al., Ultramicroscopy 151 (2015) 160.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> scan = gpu4d.simulate.phase_object_scan((32, 32), (32, 32), r_pixel=0.25, strength=0.1)
    >>> found = ssb(scan.cube, origin=(16, 16))
    >>> found.phase.units, round(float(np.corrcoef(np.ravel(found.phase), np.ravel(scan.truth["phase"]))[0, 1]), 2)
    ('rad', 1.0)
    """
    if not isinstance(cube, DataCube):
        raise InputError(f"ssb takes a DataCube, not a {type(cube).__name__}: gpu4d.DataCube(array, calibration=gpu4d.Calibration(…))")
    check_options(mode, epsilon)
    options: SweepOptions = {"memory": memory, **sweep_options}
    given = {"energy": energy, "semiangle": semiangle, "q_pixel": q_pixel, "r_pixel": r_pixel, "origin": origin}
    known = experiment(cube, rotation=rotation, transpose=transpose, sweep_options=options, **given)
    check_overlap(known, cube.scan_shape)
    overlaps = overlap_geometry(cube, known, aberrations, pupil)
    source = ScanPixels(cube, overlaps.pixels, options, dark_field(adf, known))
    found = ssb_of(source, overlaps, known, mode, float(epsilon), aberrations)
    found.adf = source.found.get("adf")
    found.positions = cube.calibration.positions if known.vectors is not None else None
    for message in found.warnings:
        log.warning("ssb: %s", message)
    return found


def check_options(mode: str, epsilon: float) -> None:
    """Raise an error for a mode or an ε that does not exist."""
    if mode not in MODES:
        raise InputError(f"mode={mode!r}: need {' or '.join(map(repr, MODES))}")
    if not 0 <= real_number(epsilon, "epsilon") < math.inf:
        raise InputError(f"epsilon={epsilon}: need a number from 0 up, such as 0.003")


def ssb_of(
    source: PixelSource,
    overlaps: Overlaps,
    known: Experiment,
    mode: str,
    epsilon: float,
    aberrations: Mapping[str, float] | None,
    missing: np.ndarray | None = None,
) -> SSB:
    """Return the phase that the images of the disk's pixels give. `missing`: positions (Rx, Ry) known to have no pattern."""
    decisions, warnings = list(known.decisions), list(known.warnings)
    said = replace(known, decisions=decisions, warnings=warnings)
    sums, phase_nan, incident = side_band_sums(source, overlaps, mode, warnings, missing)
    spectrum, transfer = _spectrum(sums, mode, epsilon)
    check_strongest(spectrum, arrays.to_numpy(sums.weight).sum(axis=0), overlaps, said)
    whole = fft.irfft2(-1j * (spectrum / incident), source.scan_shape)
    xp = arrays.namespace(whole)
    phase = blanked(whole, phase_nan)
    decisions.append(f"{len(overlaps.pixels)} bright-field pixels, {incident:.4g} counts in each at the middle of the disk")
    found = SSB(
        phase=RealSlice.calibrated(phase, "SSB phase", "rad", known.r_pixel),
        transmission=RealSlice.calibrated(1 + 1j * xp.astype(phase, xp.complex128), "SSB transmission", "1", known.r_pixel),
        transfer=arrays.to_numpy(transfer),
        **described(overlaps, known, aberrations, incident, decisions, warnings),
        mode=mode,
    )
    found.say_slope()
    return found


def described(
    overlaps: Overlaps,
    known: Experiment,
    aberrations: Mapping[str, float] | None,
    incident: float,
    decisions: list[str],
    warnings: list[str],
) -> dict[str, Any]:
    """Return the fields of a `ThinObject` that say how it was found."""
    return {
        "rotation": known.rotation,
        "transpose": known.transpose,
        "aberrations": dict(aberrations or {}),
        "radius": overlaps.radius,
        "origin": overlaps.origin,
        "pixels": len(overlaps.pixels),
        "incident": incident,
        "decisions": decisions,
        "warnings": warnings,
    }


def dark_field(adf: tuple[float, float] | None, known: Experiment) -> dict[str, VirtualImage]:
    """Return the reduction to an annular dark-field image about the disk. `adf`: angles in mrad, or None for no reduction."""
    if adf is None:
        return {}
    angles = real_values(adf, "adf", "(inner, outer) in mrad")
    if angles.shape != (2,) or not 0 <= angles[0] < angles[1] < math.inf:
        raise InputError(f"adf={adf!r}: need (inner, outer) in mrad with 0 ≤ inner < outer, such as (60, 150)")
    inner, outer = (physics.angle_to_frequency(float(angle), known.energy) / known.q_pixel for angle in angles)
    return {"adf": VirtualImage(detectors.annulus(inner, outer, known.origin), ellipse=(1.0, 1.0, 0.0))}


def _spectrum(sums: SSBSum, mode: str, epsilon: float) -> tuple[Any, Any]:
    """Return F{iφ} times the incident intensity and its transfer, (Rx, Ry // 2 + 1). 0 where no disks overlap."""
    xp = arrays.namespace(sums.overlap)
    one = xp.ones_like(sums.weight)
    if mode == "weighted":
        full = sums.weight + epsilon * xp.max(sums.weight)
        full = xp.where(full > 0, full, one)
        return (sums.overlap / full)[0, :, :], (sums.weight / full)[0, :, :]
    enough = sums.weight >= LEAST_TROTTER
    means = sums.overlap / xp.where(enough, sums.weight, one)
    difference = 0.5 * (means[0, :, :] - means[1, :, :])
    both = enough[0, :, :] & enough[1, :, :]
    return xp.where(both, difference, xp.zeros_like(difference)), xp.astype(both, xp.float64)
