"""Write calibrated values with their standard errors and units, for people."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import ERRORS, FIELDS
from gpu4d.workflow.record import measured

ROUND_ENOUGH = 3.0  # standard errors: a smaller ellipse is none that the data show


def shown(c: Calibration, name: str, value: Any) -> str:
    """Write a value with its standard error and unit."""
    error, units = getattr(c, ERRORS[name]) if name in ERRORS else None, FIELDS[name].units
    if name == "ellipse":
        a, b, theta = value
        ratio, turn = error or (math.nan, math.nan)
        round_enough = "" if not error or a / b - 1 > ROUND_ENOUGH * ratio else ", round within its error"
        return f"a/b = {measured(a / b, ratio)}, angle {measured(math.degrees(theta), math.degrees(turn))}°{round_enough}"
    if name == "rotation":
        return f"{measured(math.degrees(value), math.degrees(error or math.nan))}°"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if np.ndim(value) == 0:
        return f"{measured(float(value), math.nan if error is None else float(error))} {units}"
    place = np.asarray(value) if np.ndim(value) == 1 else np.nanmean(value, axis=(0, 1))
    text = f"({place[0]:.3f}, {place[1]:.3f})" + (f" ± {error:.2g}" if error else "")
    if np.ndim(value) == 3:
        moved = np.ptp(np.asarray(value), axis=(0, 1))
        text += f", varies by {moved[0]:.2f}, {moved[1]:.2f}"
    return f"{text} px"
