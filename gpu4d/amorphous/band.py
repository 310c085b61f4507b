"""Which rings of a profile a structure factor is made of, how it goes on to k = 0, and how the band ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.interpolate

from gpu4d.amorphous.sine_transform import sine_matrix
from gpu4d.errors import InputError
from gpu4d.real_arrays import floats, real_number

LEAST_RINGS = 8  # between the cut-offs: fewer tell no distances
NODES = 12  # between k = 0 and the first ring, so that a parabola is followed to 1e-3
FINE = 8  # values for each ring in the transform: straight lines between them take 5e-4 of G(r) at 3 Å
END = 0.95  # of the largest k: where the band ends, unless given
WIDTH = 0.02  # 1/Å: of the smooth ends, unless given
FAR = 4.0  # widths from a cut-off, where a sigmoid is 0.982 or 0.018
LOW_K = ("extend", "cut")


@dataclass(frozen=True)
class Band:
    """Cut-offs of the structure factor in k = 1/d, and what is done below and above them.

    Attributes
    ----------
    low, high : float
        1/Å, where the sigmoids are one half.
    low_width, high_width : float
        Of the sigmoids 1 / (1 + exp(±(k − cut-off) / width)), 1/Å.
    low_k : {"extend", "cut"}
        "extend": below `low` the coherent intensity falls to zero as k². "cut": Q (S − 1) falls to zero by a sigmoid.
    damping : "lorch" or float
        "lorch": sinc(k / end of the band). A number B, Å²: exp(−B k²). 0: none.
    """

    low: float
    high: float
    low_width: float
    high_width: float
    low_k: str
    damping: str | float

    def start(self) -> float:
        """Return where the rings begin that are used, 1/Å."""
        return self.low if self.low_k == "extend" else max(self.low - FAR * self.low_width, 0.0)

    def end(self) -> float:
        """Return where the window is nearly zero, 1/Å."""
        return self.high + FAR * self.high_width

    def lorch(self, k: np.ndarray) -> np.ndarray:
        """Return Lorch's window, which ends with the band or with the data."""
        last = min(self.end(), float(k[-1]))
        return np.where(k <= last, np.sinc(k / last), 0.0)

    def window(self, k: np.ndarray) -> np.ndarray:
        """Return the factor of Q (S − 1) at each k."""
        window = _sigmoid((self.high - k) / self.high_width) if self.high_width > 0 else np.where(k <= self.high, 1.0, 0.0)
        if self.low_k == "cut":
            window = window * (_sigmoid((k - self.low) / self.low_width) if self.low_width > 0 else np.where(k >= self.low, 1.0, 0.0))
        if self.damping == "lorch":
            return window * self.lorch(k)
        return window * np.exp(-float(self.damping) * k**2)


def band_of(band: Any, width: Any, low_k: str, damping: Any, k_last: float) -> Band:
    """Return the band that a user gave, with defaults for what is None. `k_last` is the largest k with a measurement."""
    if low_k not in LOW_K:
        raise InputError(f"low_k={low_k!r}: need one of {', '.join(map(repr, LOW_K))}")
    low, high = band if isinstance(band, tuple | list) and len(band) == 2 else floats(band, 2, "band", "(low, high) in 1/Å")
    low = float(real_number(low, "band[0]"))
    high = END * k_last if high is None else float(real_number(high, "band[1]"))
    two = (width, width) if np.ndim(width) == 0 else width
    widths = floats(two, 2, "band_width", "one width, or (low, high), 1/Å")
    if not (0 <= low < high < math.inf and 0 <= min(widths) and max(widths) < high):
        raise InputError(f"band=({low:g}, {high:g}), band_width={widths}: need 0 ≤ low < high and smaller widths, in k = 1/d (1/Å)")
    if damping is None:
        damping = 0.0
    elif damping != "lorch":
        damping = float(real_number(damping, "damping")) if not isinstance(damping, str) else damping
        if isinstance(damping, str) or not 0 <= damping < math.inf:
            raise InputError(f"damping={damping!r}: need 'lorch', or B of exp(-B k²) in Å², or None")
    return Band(low, high, widths[0], widths[1], low_k, damping)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


class Nodes:
    """Structure factor from k = 0 on: at the rings, and at places below them where it is extended.

    With "extend", the coherent intensity below the first ring is that of the first ring times (k/k₀)²: a dense glass scatters little
    there, because its density does not fluctuate over long distances. S then ends at 1 − ⟨f²⟩/⟨f⟩², which is 0 for one element.

    Parameters
    ----------
    k : (n,) float64
        Of the rings, 1/Å.
    single : (n,) float64
        ⟨f²⟩ / ⟨f⟩² at the rings.
    band : Band
    """

    def __init__(self, k: np.ndarray, single: np.ndarray, band: Band):
        self.band = band
        self.extra = NODES if band.low_k == "extend" else 0
        part = np.linspace(0.0, 1.0, NODES, endpoint=False)[: self.extra]
        self.k = np.concatenate([part * k[0], k])
        self.q = 2 * np.pi * self.k
        self.window = band.window(self.k)
        self.rise = part**2
        self.constant = np.concatenate([(1 - self.rise) * (1 - single[0]), np.zeros(len(k))])

    def structure_factor(self, at_rings: np.ndarray) -> np.ndarray:
        """Return S (..., nodes) of S (..., n) at the rings."""
        low = self.constant[: self.extra] + self.rise * at_rings[..., :1]
        return np.concatenate([low, at_rings], axis=-1)

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Return the weights (..., n) of S at the rings that belong to weights (..., nodes) of S at all nodes."""
        out = rows[..., self.extra :].copy()
        out[..., 0] += rows[..., : self.extra] @ self.rise
        return out

    def transform(self, r: np.ndarray, lorch: bool = False) -> np.ndarray:
        """Return the matrix (m, nodes) that makes G(r) of S − 1: (2/π) ∫ Q M (S − 1) sin(Qr) dQ, with the window M or Lorch's alone.

        A cubic spline through Q M (S − 1) gives values `FINE` times as dense. Straight lines between the rings would make G(r) smaller by
        sinc²(r × distance of the rings): 3 % at 3 Å for rings of 0.03 1/Å.
        """
        window = self.band.lorch(self.k) if lorch else self.window
        dense = np.linspace(self.q[0], self.q[-1], FINE * len(self.q))
        spline = scipy.interpolate.CubicSpline(self.q, np.diag(self.q * window))(dense)
        return (2 / np.pi) * sine_matrix(dense, r) @ spline
