"""Bring Bragg disks into lab axes in 1/Å, as padded tables of peaks with their errors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.pointlist import PointListArray
from gpu4d.data.scan_axes import scan_matrix

LEAST_ERROR = 0.05  # px: what calibration leaves, beside the error from counting
UNKNOWN_ERROR = 0.5  # px, of a disk without a standard error
EDGE = 0.97  # of the farthest peak along an axis: beyond, disks are cut by the edge of the detector and not found


class Frame(NamedTuple):
    """How detector pixels become lab axes: v_lab = matrix (v − origin), 1/Å."""

    origin: np.ndarray
    matrix: np.ndarray


class Peaks(NamedTuple):
    """Peaks of n patterns.

    Attributes
    ----------
    table : (n, p, 5) float64
        qx, qy, intensity, its variance, standard error of a coordinate; ones after the last peak of a pattern.
    counts : (n,) int64
    """

    table: Any
    counts: Any


def lab_frame(origin: np.ndarray, calibration: Calibration, q_pixel: float) -> Frame:
    """Return the frame of a calibration: ellipse, then exchange and rotation of the axes, then the pixel size.

    Lab axes are the scan's if the rotation is calibrated, else the detector's. `transpose` counts in both cases.
    """
    matrix = np.eye(2) if calibration.ellipse is None else ellipse_matrix(calibration.ellipse)
    turn = scan_matrix(calibration.rotation or 0.0, bool(calibration.transpose))
    return Frame(origin, q_pixel * turn @ matrix)


def lab_peaks(disks: PointListArray, frame: Frame, q_min: float, unit: float, relative: float) -> Peaks:
    """Return the peaks of all positions, without the direct beam (|q| < q_min) and without disks that have a NaN or no intensity.

    The variance of an intensity m is unit · m + (relative · m)².
    """
    _, fields = disks.padded()
    qx, qy, m = (arrays.as_float64(fields[name]) for name in ("qx", "qy", "intensity"))
    xp = arrays.namespace(qx)
    origin = np.broadcast_to(frame.origin, (*disks.shape, 2)).reshape(-1, 2)
    x, y = qx - arrays.from_numpy(origin[:, :1].copy(), qx), qy - arrays.from_numpy(origin[:, 1:].copy(), qx)
    (a, b), (c, d) = frame.matrix.tolist()
    x, y = a * x + b * y, c * x + d * y
    good = xp.isfinite(x) & xp.isfinite(y) & xp.isfinite(m) & (m > 0) & (x * x + y * y > q_min**2)
    scale = math.sqrt(abs(a * d - b * c))
    table = xp.stack([x, y, m, unit * m + (relative * m) ** 2, scale * _errors(xp, fields, x)], axis=-1)
    order = xp.argsort(xp.astype(~good, xp.int64), axis=-1, stable=True)
    index = xp.broadcast_to(order[..., None], table.shape)
    table = xp.take_along_axis(xp.where(good[..., None], table, xp.ones_like(table)), index, axis=1)
    return Peaks(table, xp.sum(xp.astype(good, xp.int64), axis=-1))


def _errors(xp: Any, fields: Any, like: Any) -> Any:
    """Return one standard error for both coordinates of each disk, px."""
    if not {"sx", "sy"} <= set(fields):
        return xp.full_like(like, math.hypot(UNKNOWN_ERROR, LEAST_ERROR))
    square = (arrays.as_float64(fields["sx"]) ** 2 + arrays.as_float64(fields["sy"]) ** 2) / 2
    square = xp.where(xp.isfinite(square), square, xp.full_like(square, UNKNOWN_ERROR**2))
    return xp.sqrt(square + LEAST_ERROR**2)


def reach_of(disks: PointListArray, frame: Frame) -> tuple[float, float]:
    """Return the largest |q| of a peak, and the radius inside which every disk would have been found, 1/Å. 0 without peaks."""
    x, y = (arrays.to_numpy(disks.flat(name)).astype(np.float64) for name in ("qx", "qy"))
    origin = np.broadcast_to(frame.origin, (*disks.shape, 2)).reshape(-1, 2)[arrays.to_numpy(disks.positions)]
    away = np.stack([x, y], axis=-1) - origin
    away = away[np.isfinite(away).all(axis=-1)] @ frame.matrix.T
    if not len(away):
        return 0.0, 0.0
    return float(np.linalg.norm(away, axis=-1).max()), EDGE * float(np.abs(away).max())


def weakest(peaks: Peaks) -> float:
    """Return the intensity below which peaks are not found: the median over patterns of their weakest peak. 1 without peaks."""
    table, counts = arrays.to_numpy(peaks.table), arrays.to_numpy(peaks.counts)
    there = np.arange(table.shape[1]) < counts[:, None]
    least = np.where(there, table[..., 2], np.inf).min(axis=-1, initial=np.inf)
    least = least[np.isfinite(least)]
    return float(np.median(least)) if len(least) else 1.0
