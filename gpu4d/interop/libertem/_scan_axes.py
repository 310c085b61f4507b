"""Convert the orientation of detector and scan from and to LiberTEM's words."""

from __future__ import annotations

import math
from typing import TypedDict

from gpu4d.real_arrays import real_number


class ScanAxes(TypedDict):
    """How detector and scan lie to each other: fields of `gpu4d.Calibration`, and arguments of `gpu4d.dpc` and `gpu4d.ssb`."""

    rotation: float
    transpose: bool


class LiberTEMAxes(TypedDict):
    """The same for LiberTEM: arguments of `CoMUDF.with_params` and `apply_correction`."""

    scan_rotation: float
    flip_y: bool


def from_libertem(scan_rotation: float = 0.0, flip_y: bool = False) -> ScanAxes:
    """Return rotation and transpose that do to a centre of mass what LiberTEM does with its two numbers.

    What LiberTEM 0.16 does is taken, not what its documentation says: there `scan_rotation` turns clockwise with y down, but
    ``apply_correction(y=-1, x=0, scan_rotation=90)`` gives (0, +1), a turn the other way (its issue 1775). So a number that gave a
    right field in LiberTEM gives the same field here. A number that comes from the microscope, or that was found for a LiberTEM
    whose sign is corrected, needs the opposite sign.

    Parameters
    ----------
    scan_rotation : float
        Degrees.
    flip_y : bool
        Whether the first detector axis is mirrored before.

    Returns
    -------
    dict
        rotation (radians) and transpose, for ``gpu4d.Calibration(**…)``, ``gpu4d.dpc(…, **…)``. v_scan = R(rotation) v_det, after
        (qx, qy) are exchanged if transpose is set. A mirrored axis is an exchange and a quarter turn.

    Examples
    --------
    >>> from_libertem(30.0)["rotation"], from_libertem(30.0)["transpose"]
    (-0.5235987755982988, False)
    >>> round(from_libertem(30.0, flip_y=True)["rotation"], 6), from_libertem(30.0, flip_y=True)["transpose"]
    (1.047198, True)
    """
    angle = math.radians(real_number(scan_rotation, "scan_rotation"))
    return {"rotation": _turn(math.pi / 2 - angle if flip_y else 0.0 - angle), "transpose": bool(flip_y)}


def to_libertem(rotation: float | None = 0.0, transpose: bool | None = False) -> LiberTEMAxes:
    """Return the numbers with which LiberTEM does to a centre of mass what gpu4d does with these: the inverse of `from_libertem`.

    Parameters
    ----------
    rotation : float or None
        Radians, as `Calibration.rotation`. None is 0.
    transpose : bool or None
        As `Calibration.transpose`. None is False.

    Returns
    -------
    dict
        scan_rotation (degrees, −180 … 180) and flip_y, for ``CoMUDF.with_params(**…)`` of LiberTEM 0.16.

    Examples
    --------
    >>> to_libertem(-0.5235987755982988)
    {'scan_rotation': 30.0, 'flip_y': False}
    """
    angle = 0.0 if rotation is None else real_number(rotation, "rotation")
    turned = math.degrees(_turn(math.pi / 2 - angle if transpose else 0.0 - angle))
    return {"scan_rotation": round(turned, 12), "flip_y": bool(transpose)}


def _turn(angle: float) -> float:
    """Return an angle between −π and π that is the same turn."""
    return angle if -math.pi < angle <= math.pi else math.remainder(angle, 2 * math.pi)
