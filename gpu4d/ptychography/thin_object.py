"""Hold the phase of a thin object from direct ptychography, and how it was found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from gpu4d import arrays, fft
from gpu4d.data.slices import RealSlice
from gpu4d.data.storable import Storable

LEAST_TRANSFER = 0.5  # of the largest: frequencies with less hold mostly noise, and do not tell the spectrum of the object


@dataclass(kw_only=True)
class ThinObject(Storable, stored="transfer: Kx Ky; rotation: [rad]; radius origin: [px]; positions: Rx Ry xy [Å]"):
    """Phase of a thin object from direct ptychography.

    Attributes
    ----------
    phase : RealSlice (Rx, Ry)
        Radians. 0 is the phase of the direct beam. NaN at positions without a pattern.
    transmission : RealSlice (Rx, Ry) complex
        The transmission function, with the direct beam set to 1.
    transfer : (Rx, Ry // 2 + 1) float64
        Contrast transfer function in the half plane of `fft.rfft2`: the part of the phase's spectrum that is found, if the phase is
        weak, the aberrations are as given, and the detector takes the pattern at the middles of its pixels.
    rotation, transpose : float, bool
        v_scan = R(rotation) v_det, after exchanging (qx, qy) if `transpose` is set. Radians.
    aberrations : dict
        As given. defocus = -C10, positive is underfocus.
    radius : float
        Radius of the bright-field disk, detector pixels.
    origin : (float, float)
        Centre of the bright-field disk, detector pixels.
    pixels : int
        Number of bright-field pixels that were used.
    incident : float
        |Ψ₀|² per pixel in the middle of the disk, counts. It gives the phase its scale in radians.
    positions : (Rx, Ry, 2) float64 or None
        Where the phase's values lie on the specimen, Å, if positions are calibrated. `gpu4d.drift.scattered_average` draws them.
    adf : RealSlice (Rx, Ry) or None
        Counts of the annular dark field, if it was asked for.
    decisions, warnings : list of str
        Sentences for the user: what was decided and why, and what may be wrong.
    """

    phase: RealSlice
    transmission: RealSlice
    transfer: np.ndarray
    rotation: float
    transpose: bool
    aberrations: dict[str, float]
    radius: float
    origin: tuple[float, float]
    pixels: int
    incident: float
    positions: np.ndarray | None = None
    adf: RealSlice | None = None
    decisions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """Slope of the phase against the truth that the transfer explains: its mean, weighted by the power of the object.

        It is taken over frequencies whose transfer is at least half of the largest; the object's power is the found one over the
        squared transfer. Stronger objects, pixels that average over fast aberrations, and a finite source make the real slope smaller.
        """
        phase = arrays.to_numpy(self.phase.data)
        power = np.abs(fft.rfft2(np.where(np.isnan(phase), 0.0, phase))) ** 2
        known = self.transfer >= LEAST_TRANSFER * max(self.transfer.max(), 1e-300)
        if not known.any() or not power[known].any():
            return math.nan
        transfer = self.transfer[known]
        return float((power[known] / transfer).sum() / (power[known] / transfer**2).sum())

    def say_slope(self) -> None:
        """Add the slope that the transfer explains to the decisions."""
        self.decisions.append(f"slope of a weak phase against the truth by the transfer: {self.slope:.3g}")

    def __repr__(self) -> str:
        return self._words("")

    def _words(self, method: str) -> str:
        turn = f"rotation {math.degrees(self.rotation):.1f}°, transpose {self.transpose}"
        used = f"{self.pixels} bright-field pixels within {self.radius:.1f} px"
        n = len(self.warnings)
        words = f", {n} warning{'s' * (n > 1)}" if n else ""
        shape = "×".join(map(str, self.phase.shape))
        return f"{type(self).__name__}({shape} positions, phase {self.phase.range_text()}, {method}{turn}, {used}{words})"
