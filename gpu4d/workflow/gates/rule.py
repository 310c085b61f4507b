"""Define a quality gate: which number it compares, its limits for "warn" and "fail", and what to do then."""

from __future__ import annotations

import math
from dataclasses import dataclass

Band = tuple[float | None, float | None]  # lowest and highest value that is accepted; None: no limit on this side

PASS, WARN, FAIL = "pass", "warn", "fail"
AFTER_PREPROCESSING, AFTER_CALIBRATION, AFTER_DETECTION = "after preprocessing", "after calibration", "after detection"
AFTER_STRAIN, AFTER_ORIENTATIONS, AFTER_DPC = "after strain", "after orientations", "after DPC"
ACQUISITION, GLASS, PHASE = "acquisition", "glass", "phase retrieval"


@dataclass(frozen=True)
class GateRule:
    """One gate.

    Attributes
    ----------
    key : str
        Its name in the recipe's section [gates].
    name : str
        Its name in the report.
    place : str
        Where in the work it is.
    quantity : str
        Which number it compares.
    unit : str
        Of the number and of its limits.
    warn, fail : (lowest, highest)
        A value outside of `warn` should be looked at. One outside of `fail` is wrong.
    action : str
        What to do then: the guide's advice where it has one.
    reason : str
        Why the limits have these values.
    source : str
        Section of the guide. Empty for a gate that the guide has not.
    set_aside : bool
        True if what fails this gate is not used, so that no result of the run rests on it.
    """

    key: str
    name: str
    place: str
    quantity: str
    unit: str
    warn: Band
    fail: Band
    action: str
    reason: str
    source: str = ""
    set_aside: bool = False

    @property
    def two_sided(self) -> bool:
        """Whether both a lowest and a highest value are accepted."""
        return None not in self.warn

    def band(self, given: float | list[float]) -> Band:
        """Return the limits that a recipe's value means."""
        if isinstance(given, list):
            return given[0], given[1]
        return (given, None) if self.warn[1] is None else (None, given)


def judged(value: float, warn: Band, fail: Band) -> str:
    """Return "pass", "warn" or "fail". A value that is no number should be looked at.

    Examples
    --------
    >>> judged(7.0, (5.0, 30.0), (3.0, 200.0)), judged(4.0, (5.0, 30.0), (3.0, 200.0)), judged(0.4, (0.8, None), (0.5, None))
    ('pass', 'warn', 'fail')
    """
    if math.isnan(value):
        return WARN
    return FAIL if not _inside(value, fail) else PASS if _inside(value, warn) else WARN


def _inside(value: float, band: Band) -> bool:
    low, high = band
    return (low is None or value >= low) and (high is None or value <= high)


def in_words(band: Band, unit: str) -> str:
    """Return limits in words: "at most 1 %", "5 to 30 disks"."""
    low, high = band
    behind = "°" if unit == "°" else f" {unit}" if unit else ""
    if low is not None and high is not None:
        return f"within ±{high:g}{behind}" if low == -high else f"{low:g} to {high:g}{behind}"
    return f"at least {low:g}{behind}" if low is not None else f"at most {high:g}{behind}" if high is not None else "any"
