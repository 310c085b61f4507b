"""Compute where the disks of a convergent beam are on the detector, and how scan frequencies shift them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import arrays, fft
from gpu4d.data.arguments import real_values
from gpu4d.data.datacube import DataCube
from gpu4d.errors import InputError
from gpu4d.probe.wavefunction import chi_polynomial
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.ssb_sum import Chi


@dataclass(frozen=True)
class Overlaps:
    """Positions of the disks, and the scan frequencies that shift them. Side-band sums need these and the data.

    Attributes
    ----------
    pixels : (P,) int64
        Pixel numbers qx · Qy + qy of the disk.
    at : (P, 2) float64
        Position of these pixels relative to the origin, pixels.
    intensity : (P,) float64
        |Ψ₀|² at these pixels, 1 in the middle of a disk.
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


def overlap_geometry(cube: DataCube, known: Experiment, aberrations: Mapping[str, float] | None, pupil: Any) -> Overlaps:
    """Compute the geometry of the disks for a scan.

    Parameters
    ----------
    cube : DataCube
    known : Experiment
    aberrations : mapping, optional
        Krivanek coefficients. defocus = -C10, positive is underfocus.
    pupil : (Qx, Qy) array, optional
        Wave in the aperture, in place of a round disk.

    Raises
    ------
    InputError
        An unknown coefficient, a pupil of another shape, or a disk without pixels.
    """
    center, radius = known.origin, known.radius
    table = chi_polynomial(aberrations, known.energy, known.q_pixel)
    chi: Chi = () if table is None else tuple((int(i), int(j), float(table[i, j])) for i, j in np.argwhere(table))

    qx, qy = cube.detector_shape
    x, y = np.meshgrid(np.arange(qx) - center[0], np.arange(qy) - center[1], indexing="ij")
    if pupil is None:
        intensity, array = np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0), None  # an edge pixel has the part of it that is inside
    else:
        wave = arrays.unwrapped(pupil)
        is_wave = arrays.is_array(wave) and arrays.is_complex(wave)
        array = arrays.to_numpy(wave) if is_wave else real_values(pupil, "pupil", f"a wave {(qx, qy)}")
        if array.shape != (qx, qy) or not np.isfinite(array).all() or not np.abs(array).max() > 0:
            raise InputError(f"pupil is {array.shape}: need {(qx, qy)}, finite and not zero everywhere")
        array = array.astype(np.complex128) / np.abs(array).max()
        intensity = np.abs(array) ** 2
    chosen = intensity > 0 if cube.detector_mask is None else (intensity > 0) & cube.detector_mask
    if not chosen.any():
        raise InputError(
            f"no pixel of a disk of {radius:.3g} px about ({center[0]:.4g}, {center[1]:.4g}) counts on this detector {(qx, qy)}: check "
            "calibration.origin and the detector mask"
        )

    cycle = known.cycle()
    rows = fft.frequencies(cube.shape[0])[:, None] * cycle[0]
    columns = fft.frequencies(cube.shape[1], half=True)[:, None] * cycle[1]
    at = np.stack([x[chosen], y[chosen]], -1)
    return Overlaps(np.flatnonzero(chosen), at, intensity[chosen], rows, columns, radius, center, array, chi)
