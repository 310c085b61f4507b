"""Hold the calibration of a scan: values, units, and how each value was found."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import physics
from gpu4d.arrays import Array
from gpu4d.data.calibration_fields import FIELDS, CalibrationFields, Cut, SetKeywords, takes_keywords_of
from gpu4d.errors import InputError

FieldValue = Any  # a number, a bool, a tuple or an array: each field has a type of its own, and packages may add fields


@dataclass(frozen=True)
class Measurement:
    """One entry in the history of a calibration."""

    field: str
    value: FieldValue
    how: str
    when: str


class Calibration(CalibrationFields):
    """Calibration of a scan. A field is None until it is known. Every change is written into `history`.

    Order of use: origin → ellipse → rotation → pixel size. A calibration never changes patterns or measured positions of disks.
    Calibrated values are computed from them.

    Parameters
    ----------
    q_pixel : float, optional
        Size of a detector pixel, 1/Å.
    r_pixel : float, optional
        Distance of scan positions, Å.
    energy : float, optional
        Beam energy, eV.
    semiangle : float, optional
        Convergence semi-angle, mrad.
    probe_radius : float, optional
        Radius of the bright-field disk, detector pixels.
    origin : (2,) or (Rx, Ry, 2) array, optional
        Position of the unscattered beam, detector pixels.
    origin_measured : (Rx, Ry, 2) array, optional
        Origin as measured at every position, pixels. `origin` may be a surface fitted to it.
    ellipse : (float, float, float), optional
        (a, b, theta): semi-axes, of which only a / b matters, and angle in radians.
    rotation : float, optional
        Rotation from detector to scan axes, radians.
    transpose : bool, optional
        Whether the detector axes are exchanged before the rotation.

    Examples
    --------
    >>> c = Calibration(q_pixel=0.02, energy=200e3)
    >>> c.set(semiangle=3.0, how="microscope log")
    >>> round(c.wavelength, 5), c.history[-1].how
    (0.02508, 'microscope log')
    """

    @takes_keywords_of(CalibrationFields)
    def __init__(self, **values: FieldValue):
        self._values: dict[str, Any] = dict.fromkeys(FIELDS)
        self.history: list[Measurement] = []
        if values:
            self.set(**values, how="given")

    @takes_keywords_of(SetKeywords)
    def set(self, *, how: str, **values: FieldValue) -> None:
        """Set fields, and write into the history how their values were found.

        Parameters
        ----------
        how : str
            How the values were found: "given on the command line", "fit to the bright-field disk", …
        **values
            Fields of the class. None removes the value of a field.
        """
        for field, value in values.items():
            if field not in FIELDS:
                raise InputError(f"calibration has no field {field!r}; it has {', '.join(FIELDS)}")
            checked: Any = None if value is None else FIELDS[field].check(FIELDS[field], value)
            self._values[field] = checked
            short = checked if np.ndim(checked) == 0 or np.size(checked) <= 3 else f"array {np.shape(checked)}"
            self.history.append(Measurement(field, short, how, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")))

    if not TYPE_CHECKING:  # fields that a package added. A type checker that sees these two methods lets any name pass

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
        """Replace every field that has a value in `better`, and take over its history."""
        self._values.update(better.known())
        self.history.extend(better.history)

    def cropped(self, cut: Cut) -> Calibration:
        """Return the calibration of a part of the scan and of the detector."""
        return self._changed("cropped", cut)

    def binned(self, detector: int, scan: int) -> Calibration:
        """Return the calibration after binning pixels and positions."""
        return self._changed("binned", (detector, scan))

    def swapped(self, detector: bool, scan: bool) -> Calibration:
        """Return the calibration after the detector axes, or the scan axes, were exchanged.

        v_scan = R(θ) Sᵗ v_det, where S exchanges two axes and t is 1 if `transpose` is set. Exchanging the detector axes changes t.
        Exchanging the scan axes gives S R(θ) = R(−θ) S: it changes t and the sign of θ.
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
        """Return the fields that have a value."""
        return {field: value for field, value in self._values.items() if value is not None}

    @property
    def wavelength(self) -> float:
        """Wavelength of the beam electrons, Å. Needs `energy`."""
        return physics.wavelength(self.require("energy"))

    def require(self, field: str) -> FieldValue:
        """Return the value of a field. Raise an error that says how to set it if it is not known."""
        value = self._values[field]
        if value is None:
            units, what = FIELDS[field].units, FIELDS[field].what
            flag = "--" + field.replace("_", "-")
            raise InputError(f"{what} is not known: set calibration.{field} ({units}), or {flag} on the command line")
        return value

    def complete(self) -> None:
        """Compute `q_pixel` from energy, semi-angle and disk radius, or the disk radius from `q_pixel`, if one of them is missing."""
        have = self._values
        if have["energy"] and have["semiangle"]:
            if have["q_pixel"] is None and have["probe_radius"]:
                q = physics.pixel_from_disk(have["probe_radius"], have["semiangle"], have["energy"])
                self.set(q_pixel=q, how=f"semi-angle {have['semiangle']:g} mrad over a disk radius of {have['probe_radius']:.2f} px")
            elif have["probe_radius"] is None and have["q_pixel"]:
                radius = physics.angle_to_frequency(have["semiangle"], have["energy"]) / have["q_pixel"]
                self.set(probe_radius=radius, how=f"semi-angle {have['semiangle']:g} mrad over a pixel of {have['q_pixel']:.4g} 1/Å")

    def origin_at(self, positions: Array) -> np.ndarray | None:
        """Return the origin for positions (n, 2), as (n, 2) in pixels. None if it is not known."""
        origin = self._values["origin"]
        if origin is None:
            return None
        if origin.ndim == 1:
            return np.broadcast_to(origin, (len(positions), 2))
        return origin[positions[:, 0], positions[:, 1]]

    @property
    def origin_mean(self) -> np.ndarray | None:
        """One origin (2,) for the whole scan: the mean over positions if it varies."""
        origin = self._values["origin"]
        return origin if origin is None or origin.ndim == 1 else np.nanmean(origin, axis=(0, 1))

    def __repr__(self) -> str:
        def show(v: Any) -> str:
            if np.ndim(v) > 1:
                return "×".join(map(str, np.shape(v)))
            return f"{v:.5g}" if isinstance(v, float) else str(v)

        return f"Calibration({', '.join(f'{k}={show(v)} {FIELDS[k].units}'.strip() for k, v in self.known().items())})"
