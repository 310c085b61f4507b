"""Say how large a measured strain is: its range over the scan, its uncertainty, and the gate of its magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d.workflow.record import Record

COMPONENTS = ("exx", "eyy", "exy")
LABELS = ("ε_xx", "ε_yy", "ε_xy")
TWO_DIGITS = 9.95  # percent: larger values are written as whole numbers
RANGE = (1, 99)  # percentiles over the scan that are given as the range of strain


def range_figures(record: Record, name: str, strain: Any, whose: str) -> None:
    """Record the range of a strain's components as a key figure of this name, and the error of one position.

    Parameters
    ----------
    record : Record
    name : str
    strain : gpu4d.crystal.Strain or gpu4d.amorphous.AmorphousStrain
    whose : str
        What the error comes from, as the end of a sentence.
    """
    ranges = [range_of(np.asarray(getattr(strain, part))) for part in COMPONENTS]
    each = ", ".join(f"{label} {low:+.2f} to {high:+.2f}" for label, (low, high) in zip(LABELS, ranges))
    value = f"{percent(min(low for low, _ in ranges), '+')} to {percent(max(high for _, high in ranges), '+')} %"
    record.figure(name, value, f"{each} %; {RANGE[0]} to {RANGE[1]} percentile over the scan")
    error = 100 * np.asarray(strain.uncertainty)[:3]
    if np.isfinite(error).any():
        remark = f"median standard error of a component at one position, from {whose}"
        record.figure("Uncertainty of strain", f"± {np.nanmedian(error):.3f} %", remark)


def magnitude_gate(record: Record, strain: Any, limit: float, *, name: str = "", advice: str = "") -> None:
    """Check that few positions have a strain of a larger magnitude than `limit`."""
    parts = np.stack([np.asarray(getattr(strain, part), dtype=np.float64) for part in COMPONENTS])
    seen = np.isfinite(parts).all(axis=0)
    beyond = float((np.abs(parts).max(axis=0) > limit)[seen].mean()) if seen.any() else 1.0
    largest = float(np.abs(parts[:, seen]).max()) if seen.any() else float("nan")
    said = f"{percent(100 * beyond)} % of positions beyond ±{100 * limit:g} %, largest {percent(100 * largest)} %"
    record.measure("strain_magnitude", 100 * beyond, said, name=name, advice=advice)


def percent(value: float, sign: str = "") -> str:
    """Write a percentage with two digits, and never with an exponent because it is large. `sign` "+" writes that of positive ones, too."""
    return f"{value:{sign}.2g}" if abs(value) < TWO_DIGITS else f"{value:{sign}.0f}"


def range_of(part: np.ndarray) -> tuple[float, float]:
    """Return the range of a component in percent, without the few largest and smallest values. NaN if it has no value."""
    values = 100 * part[np.isfinite(part)]
    low, high = np.percentile(values, RANGE) if values.size else (np.nan, np.nan)
    return float(low), float(high)
