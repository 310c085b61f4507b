"""Collect the values that ptychography needs: given, from the calibration, or measured. An error names a value that is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu4d import arrays, physics
from gpu4d.data.arguments import origins
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.data.scan_vectors import scan_vectors
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import radians

WANDER = 0.5  # px: if the origin moves more over the scan, one disk for all positions is wrong
MISFIT = 0.05  # of the disk's radius: largest difference between calibration and measurement without a warning
DAMPED = 0.1  # of the power at the radius of the disk: more that positions off the oblique grid take away is worth a warning
COARSE = 1.001  # times λ / (4α): steps above it lose high frequencies of side bands
SAME_ANGLE = 1e-3  # rad: angles that differ by less are the same


@dataclass(frozen=True)
class Experiment(Storable, stored="energy: [eV]; r_pixel vectors off_grid: [Å]; q_pixel: [1/Å]; rotation: [rad]; origin radius: [px]"):
    """Geometry of a scan with a convergent beam.

    Attributes
    ----------
    energy : float
        Beam energy, eV.
    r_pixel, q_pixel : float
        Distance of scan positions, Å, and size of a detector pixel, 1/Å.
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians.
    origin : (float, float)
        Centre of the bright-field disk, detector pixels.
    radius : float
        Radius of the bright-field disk, detector pixels.
    decisions, warnings : list of str
        Sentences for the user: where values come from, and what may be wrong.
    vectors : (2, 2) float64 or None
        Steps along both scan axes as columns, Å in scan axes, if positions are calibrated. None: r_pixel along each axis.
    off_grid : float
        Rms distance of calibrated positions from the grid of these steps, Å.
    """

    energy: float
    r_pixel: float
    q_pixel: float
    rotation: float
    transpose: bool
    origin: tuple[float, float]
    radius: float
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    vectors: np.ndarray | None = None
    off_grid: float = 0.0

    @property
    def steps(self) -> np.ndarray:
        """V (2, 2) of place = V (i, j): steps along both scan axes as columns, Å in scan axes."""
        return self.r_pixel * np.eye(2) if self.vectors is None else self.vectors

    def cycle(self) -> np.ndarray:
        """Return where a cycle per step of the first and of the second scan axis lies on the detector, rows (2, 2), pixels.

        Frequencies f in cycles per step are K = V⁻ᵀ f in scan axes. K · r is the same in detector axes, so K_det = Mᵀ K with
        v_scan = M v_det.
        """
        to_scan = scan_matrix(self.rotation, self.transpose)
        if self.vectors is None:
            return to_scan / (self.r_pixel * self.q_pixel)
        return np.linalg.inv(self.vectors) @ to_scan / self.q_pixel

    def in_steps(self, shifts: np.ndarray) -> np.ndarray:
        """Return shifts (n, 2) along the scan axes, Å, in scan steps."""
        return shifts / self.r_pixel if self.vectors is None else shifts @ np.linalg.inv(self.vectors).T


def experiment(
    cube: DataCube,
    *,
    rotation: float | None = None,
    transpose: bool | None = None,
    sweep_options: Mapping[str, Any] | None = None,
    **given: Any,
) -> Experiment:
    """Collect the geometry of a scan, and warn if frequencies up to 2 k₀ are aliased or damped. Arguments are those of `geometry`."""
    known = geometry(cube, rotation=rotation, transpose=transpose, sweep_options=sweep_options, **given)
    edge = known.radius * known.q_pixel
    if 4 * edge * known.r_pixel > COARSE:
        known.warnings.append(
            f"a scan step of {known.r_pixel:.4g} Å is coarse: frequencies up to 2 k₀ = {2 * edge:.3g} 1/Å need "
            f"{1 / (4 * edge):.3g} Å or less; higher frequencies are aliased"
        )
    if (lost := 1 - math.exp(-((2 * math.pi * known.off_grid * edge) ** 2))) > DAMPED:
        known.warnings.append(
            f"positions are {known.off_grid:.2g} Å rms off the oblique grid that is used for them, which takes {lost:.0%} of the power of "
            f"details of {1 / edge:.2g} Å"
        )
    return known


def geometry(
    cube: DataCube,
    *,
    rotation: float | None = None,
    transpose: bool | None = None,
    sweep_options: Mapping[str, Any] | None = None,
    **given: Any,
) -> Experiment:
    """Collect the geometry of a scan from given values, its calibration and its mean pattern.

    Parameters
    ----------
    cube : DataCube
        Its calibration is not changed.
    rotation, transpose : float, bool, optional
        Radians. None takes the calibration's values, or 0 and False if it has none.
    sweep_options : mapping, optional
        Options of `gpu4d.sweep` for the mean pattern. It is computed if the calibration does not give the disk.
    **given
        energy (eV), semiangle (mrad), q_pixel (1/Å), r_pixel (Å), origin (px). They replace the calibration's values unless None.
        A given r_pixel also replaces calibrated positions.

    Returns
    -------
    Experiment

    Raises
    ------
    InputError
        A value is missing: not given, not calibrated, and not computable from others.
    """
    known = cube.calibration.copy()
    if given.get("origin") is not None:
        given["origin"] = origins(given["origin"], cube.scan_shape)
    known.set(**{name: value for name, value in given.items() if value is not None}, how="given")
    decisions: list[str] = []
    warnings: list[str] = []
    misfit = 0.0
    rotation, transpose = _orientation(known, rotation, transpose, decisions)
    energy, vectors = known.require("energy"), None
    if known.positions is not None and given.get("r_pixel") is None:
        vectors, misfit = _oblique(known.positions, decisions)
    step = known.require("r_pixel") if vectors is None else math.sqrt(abs(float(np.linalg.det(vectors))))
    origin, radius, q = _disk(cube, known, dict(sweep_options or {}), decisions, warnings)
    return Experiment(energy, step, q, rotation, transpose, origin, radius, decisions, warnings, vectors, misfit)


def _oblique(positions: np.ndarray, decisions: list[str]) -> tuple[np.ndarray, float]:
    """Return the steps of the grid nearest to calibrated positions (2, 2), and the rms distance from it, Å."""
    matrix, misfit = scan_vectors(positions)
    (a, b), (c, d) = matrix.T
    decisions.append(
        f"steps ({a:.4g}, {b:.4g}) and ({c:.4g}, {d:.4g}) Å, fitted to the calibrated positions, which are {misfit:.2g} Å off it"
    )
    return matrix, misfit


def _orientation(known: Calibration, rotation: float | None, transpose: bool | None, decisions: list[str]) -> tuple[float, bool]:
    """Return rotation and transpose: as given, else as calibrated, else 0 and False. Add a line that says which."""
    calibrated = known.rotation or 0.0, bool(known.transpose)
    taken = calibrated[0] if rotation is None else radians(rotation, "rotation"), calibrated[1] if transpose is None else bool(transpose)
    text = f"rotation {taken[0]:.4g} rad, transpose {taken[1]}"
    if rotation is None and known.rotation is None:
        decisions.append(f"{text}: the rotation is neither given nor calibrated, so detector and scan axes are assumed to be parallel")
    elif rotation is None:
        decisions.append(f"{text}, from the calibration")
    elif known.rotation is not None and _differ(taken, calibrated):
        decisions.append(f"{text}, as given; the calibration says {calibrated[0]:.4g} rad, transpose {calibrated[1]}")
    return taken


def _differ(a: tuple[float, bool], b: tuple[float, bool]) -> bool:
    return a[1] != b[1] or abs(math.remainder(a[0] - b[0], 2 * math.pi)) > SAME_ANGLE


def _disk(
    cube: DataCube, known: Calibration, options: dict, decisions: list[str], warnings: list[str]
) -> tuple[tuple[float, float], float, float]:
    """Return centre and radius of the bright-field disk in pixels, and the size of a pixel in 1/Å."""
    center, calibrated = known.origin_mean, None
    if known.q_pixel is not None and known.semiangle is not None:
        calibrated = physics.angle_to_frequency(known.semiangle, known.require("energy")) / known.q_pixel
    if known.origin is not None and known.origin.ndim == 3:
        wander = float(np.nanmax(np.hypot(*np.moveaxis(known.origin - center, -1, 0))))
        if wander > WANDER:
            warnings.append(f"the origin moves by up to {wander:.2g} px over the scan, and its mean is used: remove the descan first")
    if center is not None and calibrated is not None:
        decisions.append(f"disk of radius {calibrated:.4g} px about ({center[0]:.4g}, {center[1]:.4g}), from the calibration")
        return (float(center[0]), float(center[1])), calibrated, known.require("q_pixel")
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
        if known.q_pixel is None:
            raise InputError(
                f"the bright-field disk has a radius of {radius:.3g} px: too small to give the detector's pixel size with the semi-angle. "
                "Set calibration.q_pixel (1/Å), or --q-pixel on the command line"
            )
        decisions.append(f"q_pixel {known.q_pixel:.5g} 1/Å: {known.history[-1].how}")
    decisions.append(f"disk of radius {radius:.4g} px about ({center[0]:.4g}, {center[1]:.4g}), measured in the mean pattern")
    return (float(center[0]), float(center[1])), float(radius), known.require("q_pixel")


def _measured_disk(cube: DataCube, options: dict) -> Any:
    from gpu4d.imaging.patterns import MeanPattern
    from gpu4d.probe.measure_disk import measure_disk
    from gpu4d.streaming.engine import sweep

    return measure_disk(arrays.to_numpy(sweep(cube, MeanPattern(), **options).data), cube.detector_mask)
