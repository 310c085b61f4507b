"""Compute the beam of a planned scan: the probe at the specimen, the electrons in a pattern, and the dose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpu4d.data.storable import Storable
from gpu4d.deflection.validity import DEPTHS, PROBE_WIDTH
from gpu4d.planning.acquisition import Acquisition
from gpu4d.probe.real_space import depth_of_focus

RESOLUTION = 0.61  # λ/α: Rayleigh's limit, the first zero of the Airy disk


@dataclass(frozen=True)
class Probe(Storable, stored="fwhm resolution diameter depth_of_field depth_of_focus: [Å]"):
    """The probe at the specimen, without aberrations but defocus. Lengths in Å.

    Attributes
    ----------
    fwhm : float
        In focus, 0.51 λ/α.
    resolution : float
        0.61 λ/α.
    diameter : float
        Of the area that it lights: 1.22 λ/α in focus, and with the cone of the defocus √((1.22 λ/α)² + (2 |Δf| α)²).
    depth_of_field : float
        1.7 λ/α²: thickness up to which a specimen counts as a projection (pitfall 3).
    depth_of_focus : float
        λ/α².
    """

    fwhm: float
    resolution: float
    diameter: float
    depth_of_field: float
    depth_of_focus: float


@dataclass(frozen=True)
class Dose(Storable, stored="scan probe most: [e/Å²]"):
    """Electrons that the specimen gets.

    Attributes
    ----------
    electrons : float
        In a pattern.
    scan : float or None
        e/Å²: electrons in a pattern over the square of the step. It is the mean over the field, and what each place gets where probes
        overlap.
    probe : float or None
        e/Å²: electrons in a pattern over the area of the probe. It is what a place gets in one exposure.
    most : float or None
        e/Å²: the larger of both. Where the probe is larger than the step it is `scan`, because exposures add; else it is `probe`.
    """

    electrons: float
    scan: float | None
    probe: float | None
    most: float | None


def probe_of(acquisition: Acquisition) -> Probe | None:
    """Compute the size of the probe. None without energy and semi-angle.

    Examples
    --------
    >>> a = Acquisition(scan_shape=(4, 4), detector_shape=(8, 8), energy=300e3, semiangle=20.0)
    >>> p = probe_of(a)
    >>> round(p.fwhm, 3), round(p.resolution, 3), round(p.depth_of_field, 1)
    (0.502, 0.6, 83.7)
    """
    k0, alpha = acquisition.disk_frequency, acquisition.semiangle
    if k0 is None or alpha is None or acquisition.energy is None:
        return None
    focus = depth_of_focus(alpha, acquisition.energy)
    cone = 2 * abs(acquisition.defocus) * alpha * 1e-3
    return Probe(PROBE_WIDTH / k0, RESOLUTION / k0, math.hypot(2 * RESOLUTION / k0, cone), DEPTHS * focus, focus)


def dose_of(acquisition: Acquisition, probe: Probe | None) -> Dose | None:
    """Compute the dose. None if neither a current with a dwell time, nor electrons, nor a dose with a step are known.

    Examples
    --------
    >>> a = Acquisition(scan_shape=(4, 4), detector_shape=(8, 8), step=2.0, current=16.02176634, dwell=1e-3)
    >>> d = dose_of(a, None)
    >>> round(d.electrons), round(d.scan)
    (100000, 25000)
    """
    electrons = acquisition.electrons_of_pattern
    if electrons is None:
        return None
    scan = None if acquisition.step is None else electrons / acquisition.step**2
    once = None if probe is None else electrons / (math.pi / 4 * probe.diameter**2)
    known = [value for value in (scan, once) if value is not None]
    return Dose(electrons, scan, once, max(known, default=None))
