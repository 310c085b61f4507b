"""Say how the times of events become scan positions, for detectors that record events instead of patterns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gpu4d.errors import InputError

STARTS = ("position", "row", "scan")


@dataclass(frozen=True)
class ScanTiming:
    """How the times of events become scan positions.

    Parameters
    ----------
    dwell : float, optional
        Seconds at a position. Needed if triggers start a row or the scan, unless each trigger lasts as long as its row.
    starts : {"position", "row", "scan"}, optional
        What a trigger starts. By default it follows from the number of triggers: one for each position, each row, or one in all.
        Several scans of the same area are added up: 2 · Rx triggers start the rows of two scans.
    channel : {1, 2}, optional
        Input of the triggers (TDC 1 or 2), where both have some.
    flyback : float
        Seconds between the end of a row and the next one, if a trigger starts the whole scan.
    start : float, optional
        Seconds from the first event in the file to the first position, for a recording without triggers; negative if events began later.

    Raises
    ------
    InputError
        A time that is negative or not finite, or another word or number than those above.

    Examples
    --------
    >>> ScanTiming(dwell=1e-6)
    ScanTiming(dwell=1e-06, starts=None, channel=None, flyback=0.0, start=None)
    """

    dwell: float | None = None
    starts: Literal["position", "row", "scan"] | None = None
    channel: Literal[1, 2] | None = None
    flyback: float = 0.0
    start: float | None = None

    def __post_init__(self) -> None:
        for name in ("dwell", "flyback", "start"):
            value = getattr(self, name)
            if value is None:
                continue
            if (
                not isinstance(value, int | float)
                or not math.isfinite(value)
                or (name == "dwell" and value <= 0)
                or (name == "flyback" and value < 0)
            ):
                raise InputError(f"{name} of the scan is {value!r}: need seconds, such as 1e-6")
        if self.starts not in (None, *STARTS):
            raise InputError(f"starts is {self.starts!r}: accepted are {', '.join(STARTS)}")
        if self.channel not in (None, 1, 2):
            raise InputError(f"channel of the triggers is {self.channel!r}: accepted are 1 and 2")


def timing_given(dwell: float | None, starts: Literal["position", "row", "scan"] | None, pause: float | None) -> ScanTiming | None:
    """Return the timing that flags or a recipe describe; None if they describe none.

    Parameters
    ----------
    dwell, starts
        As for `ScanTiming`; None where it is not given.
    pause : float or None
        Seconds between rows: the fly-back of `ScanTiming`.

    Examples
    --------
    >>> timing_given(1e-6, None, None).dwell, timing_given(None, None, 0.0)
    (1e-06, None)
    """
    return ScanTiming(dwell, starts, flyback=pause or 0.0) if dwell or starts or pause else None
