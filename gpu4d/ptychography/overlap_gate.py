"""Check before direct ptychography whether the disks overlap enough, and say it with numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d import arrays, physics
from gpu4d.errors import InputError
from gpu4d.ptychography.experiment import Experiment
from gpu4d.ptychography.overlap_geometry import Overlaps

LEAST_OVERLAP = 0.1  # of a disk's area: the guide's least overlap for SSB
GOOD_OVERLAP = 0.3  # the guide's upper value
OUTSTANDING = 30.0  # times the median power: noise, whose power is distributed exponentially, exceeds it once in 1e9 frequencies
LEAST_PROBE_OVERLAP = 0.5  # of the probe's diameter: with less, neighbouring positions see different places


def overlap_fraction(frequency: Any) -> Any:
    """Return the part of a disk's area that a second disk covers, which is shifted by `frequency` in units of the disk's radius.

    Examples
    --------
    >>> overlap_fraction(np.array([0.0, 1.0, 2.0])).round(3).tolist()
    [1.0, 0.391, 0.0]
    """
    u = np.clip(np.asarray(frequency, float) / 2, 0, 1)
    return 2 / math.pi * (np.arccos(u) - u * np.sqrt(1 - u * u))


def frequency_of_overlap(fraction: float) -> float:
    """Return the shift of two disks, in units of their radius, at which they overlap by a part of their area.

    Examples
    --------
    >>> round(frequency_of_overlap(0.1), 2)
    1.61
    """
    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if overlap_fraction(middle) > fraction else (low, middle)
    return low


def check_overlap(known: Experiment, scan_shape: tuple[int, int]) -> None:
    """Add what geometry alone allows to the decisions and warnings of an experiment.

    Raises
    ------
    InputError
        No scan frequency shifts the disks by less than their diameter, so that nothing interferes.
    """
    k0 = known.radius * known.q_pixel
    lowest = 1 / (max(scan_shape) * known.r_pixel)
    if lowest >= 2 * k0:
        raise InputError(
            f"the disks of the lowest scan frequency, {lowest:.3g} 1/Å, do not overlap: the disk's diameter is {2 * k0:.3g} 1/Å; "
            f"need a step below {1 / (4 * k0):.3g} Å or a larger field, or a larger semi-angle"
        )
    alpha = physics.frequency_to_angle(k0, known.energy)
    nyquist = 1 / (2 * known.r_pixel * k0)
    finest = [min(frequency_of_overlap(part), nyquist) * k0 for part in (GOOD_OVERLAP, LEAST_OVERLAP)]
    known.decisions.append(
        f"step {known.r_pixel:.4g} Å; λ/4α = {1 / (4 * k0):.4g} Å for α = {alpha:.4g} mrad. Disks overlap by {GOOD_OVERLAP:g} of "
        f"their area or more for details down to {1 / finest[0]:.3g} Å, by {LEAST_OVERLAP:g} down to {1 / finest[1]:.3g} Å"
    )
    diameter = 1.22 / k0  # of the Airy disk; aberrations make the probe larger, never smaller
    overlap = 1 - known.r_pixel / diameter
    if overlap < LEAST_PROBE_OVERLAP:
        shown = f"overlap by {overlap:.0%}" if overlap > 0 else "do not overlap"
        known.warnings.append(
            f"neighbouring probes of {diameter:.3g} Å diameter in focus {shown} at a step of {known.r_pixel:.4g} Å: "
            f"need {LEAST_PROBE_OVERLAP:.0%}, and {1 - 1 / (4 * 1.22):.0%} for all frequencies"
        )


def check_strongest(spectrum: Any, weight: Any, overlaps: Overlaps, known: Experiment) -> None:
    """Say by how much the disks of the strongest frequency of the phase overlap; warn if it is less than the guide asks.

    Parameters
    ----------
    spectrum, weight : (Rx, Ry // 2 + 1) array
        Spectrum of the phase, and the sum of weights that it rests on. A frequency counts if it stands out of what is usual for its
        weight, which is noise.
    """
    power, weight = np.abs(arrays.to_numpy(spectrum)) ** 2, arrays.to_numpy(weight)
    shift = np.hypot(*np.moveaxis(overlaps.rows[:, None] + overlaps.columns, -1, 0)) / overlaps.radius
    inside = (shift > 0) & (weight > 0)
    if not inside.any():
        return
    white = power * weight
    clear = inside & (white > OUTSTANDING * np.median(white[inside]))
    if not clear.any():
        known.decisions.append("no scan frequency stands out: overlap of disks not judged")
        return
    at = np.unravel_index(int(np.argmax(np.where(clear, power, 0))), power.shape)
    fraction, detail = float(overlap_fraction(shift[at])), 1 / (float(shift[at]) * overlaps.radius * known.q_pixel)
    words = f"disks of the strongest frequency, {detail:.3g} Å, overlap by {fraction:.2g} of their area"
    if fraction < LEAST_OVERLAP:
        known.warnings.append(f"{words}: less than {LEAST_OVERLAP:g}. The phase rests on few pixels; need a larger semi-angle")
    else:
        known.decisions.append(words)
