"""The standard error of the centre of mass from the counts of each pattern."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.data.slices import RealSlice
from gpu4d.device import tables
from gpu4d.imaging.detectors import DetectorLike, as_detector
from gpu4d.imaging.second_moments import second_moments
from gpu4d.streaming.reduction import ScanInfo, defined
from gpu4d.streaming.sums import PerPositionReduction


class CenterOfMassVariance(PerPositionReduction):
    """Reduction: variance of the centre of mass from the counts, (3, Rx, Ry) in detector pixels².

    Electrons arrive independently, so the counts of a pixel have their own number as variance. The centre of mass ⟨q⟩ = Σ q I / Σ I
    then has the covariance Σ I (q − ⟨q⟩)(q − ⟨q⟩)ᵀ / (Σ I)², to first order. Values must be in electrons: in other units the
    variance is too large by the value of one electron, or too small.

    Parameters
    ----------
    detector : Detector or (Qx, Qy) bool array, optional
        Pixels that count, as in `gpu4d.CenterOfMass`.

    Notes
    -----
    The result is a stack with the planes "xx", "xy", "yy" along detector axes. It is NaN at positions not visited, for patterns
    without counts, and for patterns with a NaN.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> from gpu4d.deflection import CenterOfMassVariance
    >>> pattern = np.array([[0, 50, 0], [50, 0, 50], [0, 50, 0]], dtype="uint16")  # 200 electrons, mean square distance ½ px² along x
    >>> found = gpu4d.sweep(gpu4d.DataCube(np.broadcast_to(pattern, (1, 1, 3, 3))), CenterOfMassVariance())
    >>> found["xx"].item(), found["xy"].item()
    (0.0025, 0.0)
    """

    planes = 6  # Σ I, Σ x I, Σ y I, Σ xx I, Σ xy I, Σ yy I

    def __init__(self, detector: DetectorLike | None = None):
        self.detector = None if detector is None else as_detector(detector)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        rx, ry, qx, qy = scan.shape
        per_frame = 32 * qx * qy if defined(second_moments, scan) else 0
        return self.held_bytes(scan, n_frames) + 2 * qx * qy + per_frame * n_frames + 160 * rx * ry

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        super().start(scan, device, pass_)
        masks = [] if scan.detector_mask is None else [scan.detector_mask]
        if self.detector is not None:
            masks.append(self.detector.mask(scan.shape[2:], scan.calibration.origin_mean, scan.calibration.ellipse) != 0)
        self.mask = np.logical_and.reduce(masks) if masks else None

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Array, positions: np.ndarray) -> None:
        self.put(positions, second_moments(frames, None if self.mask is None else tables.beside(self.mask, frames)))

    def finish(self) -> RealSlice:
        """Return the variances. NaN for positions not visited and empty patterns."""
        sums = self.values.result()
        xp = arrays.namespace(sums)
        total = xp.where(sums[0, :, :] > 0, sums[0, :, :], xp.full_like(sums[0, :, :], float("nan")))
        mean = [sums[i, :, :] / total for i in (1, 2)]
        pairs = ((3, 0, 0), (4, 0, 1), (5, 1, 1))
        found = xp.stack([(sums[i, :, :] / total - mean[a] * mean[b]) / total for i, a, b in pairs])
        found = xp.where(xp.isfinite(found), found, xp.full_like(found, float("nan")))
        step = self.scan.calibration.r_pixel
        return RealSlice(found, "variance of the centre of mass", "px²", step, "Å" if step else "px", ("xx", "xy", "yy"))


def variance_in_scan_axes(variance: Any, rotation: float, transpose: bool, scale: float = 1.0) -> Any:
    """Convert variances (3, Rx, Ry) along detector axes to those of the components along scan axes, (Rx, Ry, 2), times `scale`²."""
    xp = arrays.namespace(variance)
    xx, xy, yy = (arrays.as_float64(variance[i, :, :]) for i in range(3))
    rows = scan_matrix(rotation, transpose) * scale
    turned = [float(a * a) * xx + float(2 * a * b) * xy + float(b * b) * yy for a, b in rows]
    return xp.stack([xp.where(v < 0, xp.zeros_like(v), v) for v in turned], axis=-1)  # rounding can leave less than nothing
