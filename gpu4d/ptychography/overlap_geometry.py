"""Where the disks of a convergent beam lie on the detector, and how scan frequencies shift them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft, physics
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.probe.wavefunction import chi_polynomial
from gpu4d.ptychography.ssb_sum import Chi

WANDER = 0.5  # px: an origin that moves more over the scan is not one disk
MISFIT = 0.05  # of the disk's radius, between what calibration and measurement say


@dataclass(frozen=True)
class Overlaps:
    """Where the disks lie and which scan frequencies shift them: all that side-band sums need beside the data.

    Attributes
    ----------
    pixels : (P,) int64
        Pixel numbers qx · Qy + qy of the disk.
    at : (P, 2) float64
        Their distance from the origin, pixels.
    intensity : (P,) float64
        |Ψ₀|², 1 in the middle of a disk.
    rows, columns : (Rx, 2), (Ry // 2 + 1, 2) float64
        Scan frequencies K = rows[i] + columns[j] in pixels and detector axes.
    """

    pixels: np.ndarray
    at: np.ndarray
    intensity: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    radius: float
    origin: tuple[float, float]
    pupil: np.ndarray | None
    chi: Chi


def overlap_geometry(
    cube: DataCube,
    known: Calibration,
    rotation: float,
    transpose: bool,
    aberrations: Mapping[str, float] | None,
    pupil: Any,
    options: dict,
    decisions: list[str],
    warnings: list[str],
) -> Overlaps:
    """The geometry, from calibration and, where that leaves gaps, from the disk in the mean pattern.

    Parameters
    ----------
    cube : DataCube
    known : Calibration
        Needs energy and r_pixel; the rest is filled in here where it follows from the measured disk.
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det after swapping (qx, qy) where `transpose`; radians.
    aberrations : mapping, optional
        Krivanek coefficients; defocus = -C10, positive is underfocus.
    pupil : (Qx, Qy) array, optional
        Wave in the aperture instead of a round disk.
    options : dict
        Of `gpu4d.sweep`, for the mean pattern.
    decisions, warnings : list of str
        Added to.
    """
    energy, step = known.require("energy"), known.require("r_pixel")
    center, radius, q = _disk(cube, known, options, decisions, warnings)
    if 4 * radius * q * step > 1.001:
        warnings.append(
            f"a scan step of {step:.4g} Å is coarse: frequencies up to 2 k₀ = {2 * radius * q:.3g} 1/Å need "
            f"{1 / (4 * radius * q):.3g} Å or less; what lies above folds back"
        )
    table = chi_polynomial(aberrations, energy, q)
    chi: Chi = () if table is None else tuple((int(i), int(j), float(table[i, j])) for i, j in np.argwhere(table))

    qx, qy = cube.detector_shape
    x, y = np.meshgrid(np.arange(qx) - center[0], np.arange(qy) - center[1], indexing="ij")
    if pupil is None:
        intensity, array = np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0), None  # of an edge pixel: the part of it inside
    else:
        array = arrays.to_numpy(pupil)
        if array.shape != (qx, qy) or not np.isfinite(array).all() or not np.abs(array).max() > 0:
            raise InputError(f"pupil is {array.shape}: need {(qx, qy)}, finite and not zero everywhere")
        array = array.astype(np.complex128) / np.abs(array).max()
        intensity = np.abs(array) ** 2
    chosen = intensity > 0 if cube.detector_mask is None else (intensity > 0) & cube.detector_mask
    if not chosen.any():
        raise InputError(
            f"no pixel of a disk of {radius:.3g} px about ({center[0]:.4g}, {center[1]:.4g}) counts on this detector {(qx, qy)}"
        )

    # K · r is the same in both frames, so K_det = Mᵀ K_scan with v_scan = M v_det, M = R(θ) · swap.
    c, s = math.cos(rotation), math.sin(rotation)
    to_scan = np.array([[c, -s], [s, c]]) @ (np.eye(2)[::-1] if transpose else np.eye(2))
    per_pixel = 1 / (step * q)  # detector pixels in a cycle per scan step
    rows = fft.frequencies(cube.shape[0])[:, None] * per_pixel * to_scan[0]
    columns = fft.frequencies(cube.shape[1], half=True)[:, None] * per_pixel * to_scan[1]
    at = np.stack([x[chosen], y[chosen]], -1)
    return Overlaps(np.flatnonzero(chosen), at, intensity[chosen], rows, columns, radius, center, array, chi)


def _disk(
    cube: DataCube, known: Calibration, options: dict, decisions: list[str], warnings: list[str]
) -> tuple[tuple[float, float], float, float]:
    """Centre and radius of the bright-field disk in pixels, and the pixel in 1/Å."""
    center, calibrated = known.origin_mean, None
    if known.q_pixel is not None and known.semiangle is not None:
        calibrated = physics.angle_to_frequency(known.semiangle, known.energy) / known.q_pixel
    if known.origin is not None and known.origin.ndim == 3:
        wander = float(np.nanmax(np.hypot(*np.moveaxis(known.origin - center, -1, 0))))
        if wander > WANDER:
            warnings.append(f"the origin moves by up to {wander:.2g} px over the scan, and its mean is used: remove the descan first")
    if center is not None and calibrated is not None:
        decisions.append(f"disk of radius {calibrated:.4g} px about ({center[0]:.4g}, {center[1]:.4g}), from the calibration")
        return (float(center[0]), float(center[1])), calibrated, known.q_pixel
    measured = _measured_disk(cube, options)
    if center is None:
        center = np.array([measured.qx, measured.qy])
    radius = calibrated if calibrated is not None else measured.radius
    if abs(measured.radius / radius - 1) > MISFIT:
        warnings.append(f"the disk's radius is {measured.radius:.3g} px in the mean pattern and {radius:.3g} px by semi-angle and q_pixel")
    if known.q_pixel is None:
        known.set(probe_radius=radius, how="circle fit to the mean pattern")
        known.require("semiangle")
        known.complete()
        decisions.append(f"q_pixel {known.q_pixel:.5g} 1/Å: {known.history[-1].how}")
    decisions.append(f"disk of radius {radius:.4g} px about ({center[0]:.4g}, {center[1]:.4g}), measured in the mean pattern")
    return (float(center[0]), float(center[1])), float(radius), known.q_pixel


def _measured_disk(cube: DataCube, options: dict) -> Any:
    from gpu4d.imaging.patterns import MeanPattern
    from gpu4d.probe.measure_disk import measure_disk
    from gpu4d.streaming.engine import sweep

    return measure_disk(arrays.to_numpy(sweep(cube, MeanPattern(), **options).data), cube.detector_mask)
