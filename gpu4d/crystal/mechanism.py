"""Compare the trace of strain with what mechanisms of deformation give: shear, stress along one direction, growth in all directions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpu4d.crystal.strain import Strain

MECHANISMS = ("shear", "uniaxial", "layer", "dilation")
ANGLES = {  # least and largest arctan(|ε_xx + ε_yy| / |ε1 − ε2|) of a mechanism, rad
    "shear": (0.0, 0.0),  # slip, twins, dislocations: the area stays
    "uniaxial": (math.atan(1 / 3), math.pi / 4),  # stress along one direction, with Poisson's ratio from 0.5 down to 0
    "layer": (math.pi / 4, math.pi / 4),  # a coherent layer from its side: it is held along the interface
    "dilation": (math.pi / 2, math.pi / 2),  # heat, composition, films from above: all directions alike
}
LEAST_POSITIONS = 16  # that are strained: a share of fewer is chance
SURE = 3.0  # standard errors by which a position is strained, and which are taken off its dilation
STRONGEST = 95.0  # percentile of the dilation: a few wrong fits are above it


class TraceOfStrain(NamedTuple):
    """Which mechanism the trace of the strain suits.

    Attributes
    ----------
    dilation : float
        Growth, or shrinkage, that all directions share: the smaller principal strain where both have one sign. 95th percentile over the
        scan, less three standard errors of each position.
    unexplained : dict of str to float
        For each mechanism, the share of the squared strain whose trace is not of it, without counting noise. Empty if fewer than 16
        positions are strained by more than their errors.
    poisson : float
        Poisson's ratio with which stress along one direction suits best, 0 to 0.5. NaN without `unexplained`.
    positions : int
        At which strain is larger than its errors.
    """

    dilation: float
    unexplained: dict[str, float]
    poisson: float
    positions: int

    @property
    def best(self) -> str | None:
        """The mechanism that leaves the least unexplained, or None."""
        return min(self.unexplained, key=self.unexplained.__getitem__, default=None)


def trace_of_strain(strain: Strain) -> TraceOfStrain | None:
    """Compare the trace of strain, ε_xx + ε_yy, with the difference of the principal strains.

    Mechanisms of deformation have their own ratio of both. Slip and twinning shear, and keep the area: the trace is 0. Stress along one
    direction narrows the crystal across: the ratio is (1 − ν) / (1 + ν). A coherent layer, seen from its side, is stretched along one
    direction alone: 1. Heat, a change of composition, or a film seen from above stretch all directions alike: there is no difference.

    Parameters
    ----------
    strain : Strain

    Returns
    -------
    TraceOfStrain or None
        None if no position has a strain.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.bragg_scan((6, 6), (80, 80), spacing=18.0, radius=4.0, dose=80.0, strain_size=0.01, seed=1)
    >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe, progress=False)
    >>> found = trace_of_strain(gpu4d.strain_map(gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks))))
    >>> found.dilation < 0.01
    True
    """
    exx, eyy, exy = (np.asarray(getattr(strain, part), np.float64) for part in ("exx", "eyy", "exy"))
    errors = np.nan_to_num(np.asarray(strain.uncertainty, np.float64)[:3])
    known = np.isfinite(exx) & np.isfinite(eyy) & np.isfinite(exy)
    if not known.any():
        return None
    trace, across = (exx + eyy)[known], np.hypot(exx - eyy, 2 * exy)[known]
    of_trace = (errors[0] ** 2 + errors[1] ** 2)[known]  # variance, also that of ε_xx − ε_yy
    of_shear = 4 * errors[2][known] ** 2
    shared = (np.abs(trace) - across) / 2 - SURE * np.sqrt(of_trace) / 2
    dilation = float(np.percentile(np.maximum(shared, 0.0), STRONGEST))
    strained = trace**2 + across**2 > SURE**2 * (2 * of_trace + of_shear)
    if strained.sum() < LEAST_POSITIONS:
        return TraceOfStrain(dilation, {}, math.nan, int(strained.sum()))
    parts = np.abs(trace[strained]), across[strained], of_trace[strained], of_shear[strained]
    angles = {name: _angle(parts[0], parts[1], *ANGLES[name]) for name in MECHANISMS}
    unexplained = {name: _unexplained(*parts, angle) for name, angle in angles.items()}
    slope = math.tan(angles["uniaxial"])
    return TraceOfStrain(dilation, unexplained, (1 - slope) / (1 + slope), int(strained.sum()))


def _angle(trace: np.ndarray, across: np.ndarray, least: float, largest: float) -> float:
    """Return the angle, within a mechanism's range, of the line through (across, trace) that leaves the smallest sum of squares."""
    best = 0.5 * math.atan2(2 * float(trace @ across), float(across @ across - trace @ trace))
    return min(max(best, least), largest)


def _unexplained(trace: np.ndarray, across: np.ndarray, of_trace: np.ndarray, of_shear: np.ndarray, angle: float) -> float:
    """Return the share of the squared strain that lies off the line at an angle, without what counting noise adds."""
    c, s = math.cos(angle), math.sin(angle)
    radial = (of_trace + of_shear) / 2  # the difference of the principal strains has one direction, and noise along and across it
    noise = float((of_trace * c**2 + (2 * radial if angle == math.pi / 2 else radial) * s**2).sum())
    off = float(((trace * c - across * s) ** 2).sum()) - noise
    whole = float((trace**2 + across**2 - 2 * of_trace - of_shear).sum())
    return min(1.0, max(0.0, off) / whole)
