"""What is known of the experiment, in which units, and how it came to be known."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import physics
from gpu4d.arrays import Array
from gpu4d.data.calibration_fields import FIELDS, Cut
from gpu4d.errors import InputError

FieldValue = Any  # a number, a bool, a tuple or an array: each field has a type of its own, and packages may add fields


@dataclass(frozen=True)
class Measurement:
    """One line of a calibration's history."""

    field: str
    value: FieldValue
    how: str
    when: str


class Calibration:
    """Calibration of a scan. Every field is None until it is known; every change is written into `history`.

    Order of use: origin → ellipse → rotation → pixel size. Raw peak positions and patterns are never changed by it:
    calibrated views are computed.

    Parameters
    ----------
    q_pixel : float, optional
        Detector pixel, 1/Å.
    r_pixel : float, optional
        Scan step, Å.
    energy : float, optional
        eV.
    semiangle : float, optional
        mrad.
    probe_radius : float, optional
        Radius of the bright-field disk, detector pixels.
    origin : (2,) or (Rx, Ry, 2) array, optional
        Centre of the unscattered beam, detector pixels.
    origin_measured : (Rx, Ry, 2) array, optional
        Pixels, as measured; `origin` may be a surface fitted to it.
    ellipse : (float, float, float), optional
        (a, b, theta): semi-axes (only a / b matters) and angle in radians.
    rotation : float, optional
        QR rotation, radians.
    transpose : bool, optional

    Examples
    --------
    >>> c = Calibration(q_pixel=0.02, energy=200e3)
    >>> c.set(semiangle=3.0, how="microscope log")
    >>> round(c.wavelength, 5), c.history[-1].how
    (0.02508, 'microscope log')
    """

    def __init__(self, **values: FieldValue):
        self._values: dict[str, Any] = dict.fromkeys(FIELDS)
        self.history: list[Measurement] = []
        if values:
            self.set(**values, how="given")

    def set(self, *, how: str, **values: FieldValue) -> None:
        """Set fields and write down how they came to be known.

        Parameters
        ----------
        how : str
            "given on the command line", "fit to the bright-field disk", …
        **values
            Fields of the class; None forgets one.
        """
        for field, value in values.items():
            if field not in FIELDS:
                raise InputError(f"calibration has no field {field!r}; it has {', '.join(FIELDS)}")
            checked: Any = None if value is None else FIELDS[field].check(FIELDS[field], value)
            self._values[field] = checked
            short = checked if np.ndim(checked) == 0 or np.size(checked) <= 3 else f"array {np.shape(checked)}"
            self.history.append(Measurement(field, short, how, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")))

    def __getattr__(self, field: str) -> FieldValue:
        if field in FIELDS and "_values" in self.__dict__:
            return self._values[field]
        raise AttributeError(f"calibration has no field {field!r}; it has {', '.join(FIELDS)}")

    def __setattr__(self, field: str, value: FieldValue) -> None:
        if field in FIELDS:
            self.set(**{field: value}, how="set")
        elif field in ("_values", "history"):
            super().__setattr__(field, value)
        else:
            raise InputError(f"calibration has no field {field!r}; it has {', '.join(FIELDS)}")

    def copy(self) -> Calibration:
        other = Calibration()
        other._values = dict(self._values)
        other.history = list(self.history)
        return other

    def override(self, better: Calibration) -> None:
        """Take over every field that `better` knows, with its history."""
        self._values.update(better.known())
        self.history.extend(better.history)

    def cropped(self, cut: Cut) -> Calibration:
        """Return the calibration of a part of the scan and of the detector."""
        return self._changed("cropped", cut)

    def binned(self, detector: int, scan: int) -> Calibration:
        """Return the calibration after pixels and positions were summed in squares."""
        return self._changed("binned", (detector, scan))

    def swapped(self, detector: bool, scan: bool) -> Calibration:
        """Return the calibration after the detector axes, or the scan axes, were exchanged.

        v_scan = R(θ) Sᵗ v_det, S the swap. S on the detector flips t; S on the scan gives S R(θ) = R(−θ) S, so it flips both.
        """
        other = self._changed("swapped", (detector, scan))
        if detector != scan and (self.rotation is not None or self.transpose is not None):
            other._values["transpose"] = not self.transpose
        return other

    def _changed(self, how: str, by: Any) -> Calibration:
        other = self.copy()
        for field, value in self.known().items():
            change = getattr(FIELDS[field], how)
            if change is not None:
                other._values[field] = change(value, by)
        return other

    def known(self) -> dict[str, FieldValue]:
        """Fields that have a value."""
        return {field: value for field, value in self._values.items() if value is not None}

    @property
    def wavelength(self) -> float:
        """Å; needs `energy`."""
        return physics.wavelength(self.require("energy"))

    def require(self, field: str) -> FieldValue:
        """The value of a field, or an error that says how to give it."""
        value = self._values[field]
        if value is None:
            units, what = FIELDS[field].units, FIELDS[field].what
            flag = "--" + field.replace("_", "-")
            raise InputError(f"{what} is not known: set calibration.{field} ({units}), or {flag} on the command line")
        return value

    def complete(self) -> None:
        """Fill in what follows from the rest: energy + semi-angle + disk radius give `q_pixel` (and the radius from q_pixel)."""
        have = self._values
        if have["energy"] and have["semiangle"]:
            if have["q_pixel"] is None and have["probe_radius"]:
                q = physics.pixel_from_disk(have["probe_radius"], have["semiangle"], have["energy"])
                self.set(q_pixel=q, how=f"semi-angle {have['semiangle']:g} mrad over a disk radius of {have['probe_radius']:.2f} px")
            elif have["probe_radius"] is None and have["q_pixel"]:
                radius = physics.angle_to_frequency(have["semiangle"], have["energy"]) / have["q_pixel"]
                self.set(probe_radius=radius, how=f"semi-angle {have['semiangle']:g} mrad over a pixel of {have['q_pixel']:.4g} 1/Å")

    def origin_at(self, positions: Array) -> np.ndarray | None:
        """Origin for positions (n, 2), as (n, 2) in pixels; None where it is not known."""
        origin = self._values["origin"]
        if origin is None:
            return None
        if origin.ndim == 1:
            return np.broadcast_to(origin, (len(positions), 2))
        return origin[positions[:, 0], positions[:, 1]]

    @property
    def origin_mean(self) -> np.ndarray | None:
        """One origin (2,) for the whole scan: the mean over positions where it varies."""
        origin = self._values["origin"]
        return origin if origin is None or origin.ndim == 1 else np.nanmean(origin, axis=(0, 1))

    def __repr__(self) -> str:
        def show(v: Any) -> str:
            if np.ndim(v) > 1:
                return "×".join(map(str, np.shape(v)))
            return f"{v:.5g}" if isinstance(v, float) else str(v)

        return f"Calibration({', '.join(f'{k}={show(v)} {FIELDS[k].units}'.strip() for k, v in self.known().items())})"
