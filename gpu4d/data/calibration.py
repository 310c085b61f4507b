"""Hold the calibration of a scan: values, units, and how each value was found."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import physics
from gpu4d.arrays import Array
from gpu4d.data.arguments import mean_place
from gpu4d.data.calibration_fields import ERRORS, FIELDS, CalibrationFields, Choice, Cut, SetKeywords, takes_keywords_of
from gpu4d.data.calibration_order import MEASURED, Measurement, outdated, warn_out_of_order
from gpu4d.data.storable import Part, Storable
from gpu4d.errors import InputError, did_you_mean

FieldValue = Any  # a number, a bool, a tuple or an array: each field has a type of its own, and packages may add fields

LEAST_RADIUS = 3.0  # px: blur and pixels move the measured edge of a smaller disk by more than a few per cent of its radius


class Calibration(CalibrationFields, Storable):
    """Calibration of a scan. A field is None until it is known. Every change is written into `history`.

    Order: origin → ellipse → rotation → pixel size. Values that were measured are set by `measured`. If a value is set after others
    that rest on it were measured, `CalibrationOrderWarning` says what must be measured again, and `outdated` names it. A calibration
    never changes patterns or measured positions of disks. Calibrated values are computed from them.

    Parameters
    ----------
    q_pixel, q_pixel_error : float, optional
        Size of a detector pixel and its standard error, 1/Å. A new size without an error removes the old error.
    r_pixel : float, optional
        Distance of scan positions, Å.
    positions : (Rx, Ry, 2) array, optional
        Where each pattern was taken on the specimen, Å in scan axes, if it is not on the regular grid: as `gpu4d.scan_drift` measures it.
    energy : float, optional
        Beam energy, eV.
    semiangle : float, optional
        Convergence semi-angle, mrad.
    probe_radius, probe_radius_error : float, optional
        Radius of the bright-field disk and its standard error, detector pixels. As for the pixel, they go together.
    origin : (2,) or (Rx, Ry, 2) array, optional
        Position of the unscattered beam, detector pixels.
    origin_measured : (Rx, Ry, 2) array, optional
        Origin as measured at every position, pixels. `origin` may be a surface fitted to it.
    origin_error : float, optional
        Standard error of the origin along one axis, mean over the scan, pixels.
    ellipse : (float, float, float), optional
        (a, b, theta): semi-axes, of which only a / b matters, and angle in radians.
    ellipse_error : (float, float), optional
        Standard errors of a / b, and of theta in radians.
    rotation, rotation_error : float, optional
        Rotation from detector to scan axes and its standard error, radians.
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
    def set(self, *, how: str = "given", **values: FieldValue) -> None:
        """Set fields, and write into the history how their values were found.

        Parameters
        ----------
        how : str
            How the values were found: "given on the command line", "fit to the bright-field disk", …
        **values
            Fields of the class. None removes the value of a field. A number may be a text with a unit, as "200 keV".

        Raises
        ------
        InputError
            A field that does not exist, or a value out of its range, such as an energy in keV. Then no field is set.

        Examples
        --------
        >>> c = Calibration()
        >>> c.set(energy=200e3, semiangle=3.0)
        >>> c.energy, c.history[0].how
        (200000.0, 'given')
        """
        have = self._values
        values.update(
            {error: None for value, error in ERRORS.items() if value in values and error not in values and have[error] is not None}
        )
        checks: dict[str, Any] = {}
        for field, value in values.items():
            if field not in FIELDS:
                raise InputError(f"calibration has no field {field!r}{did_you_mean(field, FIELDS)}; it has {', '.join(FIELDS)}")
            checks[field] = None if value is None else FIELDS[field].check(FIELDS[field], value)
        for field, checked in checks.items():
            self._values[field] = checked
            short = checked if np.ndim(checked) == 0 or np.size(checked) <= 3 else f"array {np.shape(checked)}"
            self.history.append(Measurement(field, short, how, datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")))
        warn_out_of_order(checks, self.history)

    @takes_keywords_of(SetKeywords)
    def measured(self, *, how: str, **values: FieldValue) -> None:
        """Set fields that were measured in these data, so that the order of measurements is watched.

        Parameters
        ----------
        how : str
            How, and from what: "seven rings of Au".
        **values
            Fields of the class, with their standard errors.

        Warns
        -----
        CalibrationOrderWarning
            Others that rest on one of them were measured before.

        Examples
        --------
        >>> c = Calibration()
        >>> c.measured(q_pixel=0.02, q_pixel_error=1e-5, how="rings of Au")
        >>> c.history[0].how, c.outdated
        ('measured: rings of Au', ())
        """
        self.set(**values, how=MEASURED + how)

    @property
    def outdated(self) -> tuple[str, ...]:
        """Fields that must be measured again, because what they rest on was set after they had been measured."""
        return outdated(self.history)

    if not TYPE_CHECKING:  # fields that a package added. A type checker that sees these two methods lets any name pass

        def __getattr__(self, field: str) -> FieldValue:
            if field in FIELDS and "_values" in self.__dict__:
                return self._values[field]
            raise AttributeError(f"calibration has no field {field!r}{did_you_mean(field, FIELDS)}; it has {', '.join(FIELDS)}")

        def __setattr__(self, field: str, value: FieldValue) -> None:
            if field in FIELDS:
                self.set(**{field: value}, how="set")
            elif field in ("_values", "history"):
                super().__setattr__(field, value)
            else:
                raise InputError(f"calibration has no field {field!r}{did_you_mean(field, FIELDS)}; it has {', '.join(FIELDS)}")

    def __dir__(self) -> list[str]:
        """Return the names that editors complete: the methods, and all fields, also those that a package added."""
        return sorted({*super().__dir__(), *FIELDS})

    def how_known(self, field: str) -> str | None:
        """Return how the latest value of a field was found. None if the history does not say.

        Examples
        --------
        >>> Calibration(energy=200e3).how_known("energy"), Calibration().how_known("energy")
        ('given', None)
        """
        return next((entry.how for entry in reversed(self.history) if entry.field == field), None)

    def copy(self) -> Calibration:
        other = Calibration()
        other._values = dict(self._values)
        other.history = list(self.history)
        return other

    def to_parts(self) -> dict[str, Part]:
        """Return the fields that have a value, and the history, as `Calibration.from_parts` takes them."""
        return {"fields": self.known(), "history": [(m.field, m.value, m.how, m.when) for m in self.history]}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Part]) -> Calibration:
        """Make a calibration of what `to_parts` gave. A field that only another package knows is left out."""
        made = cls()
        made._values.update({name: FIELDS[name].check(FIELDS[name], value) for name, value in parts["fields"].items() if name in FIELDS})
        made.history = [Measurement(*entry) for entry in parts["history"]]
        return made

    def override(self, better: Calibration) -> None:
        """Replace every field that has a value in `better`, and take over its history. Errors of replaced values go with them."""
        self._values.update({error: None for field, error in ERRORS.items() if field in better.known()})
        if better.origin is not None:
            self._values["origin_measured"] = None  # it was measured for the old one
        self._values.update(better.known())
        self.history.extend(better.history)

    def only(self, fields: Iterable[str]) -> Calibration:
        """Return a calibration that knows these fields alone, with their history."""
        other, kept = Calibration(), set(fields)
        other._values.update({field: value for field, value in self._values.items() if field in kept})
        other.history = [entry for entry in self.history if entry.field in kept]
        return other

    def cropped(self, cut: Cut) -> Calibration:
        """Return the calibration of a part of the scan and of the detector."""
        return self._changed("cropped", cut)

    def binned(self, detector: float, scan: float) -> Calibration:
        """Return the calibration after binning pixels and positions. With ½, each becomes two along each axis."""
        return self._changed("binned", (detector, scan))

    def chosen(self, choice: Choice) -> Calibration:
        """Return the calibration of some positions, in their order. Their distance is not known if they are no grid."""
        return self._changed("chosen", choice)

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
        """Compute `q_pixel` from energy, semi-angle and disk radius, or the disk radius from `q_pixel`, if one of them is missing.

        A radius of less than 3 px gives no `q_pixel`: it would be wrong by more than the radius is. The standard error of `q_pixel` is
        that of the radius. Energy and semi-angle count as exact.
        """
        have = self._values
        if have["energy"] and have["semiangle"]:
            if have["q_pixel"] is None and have["probe_radius"] and have["probe_radius"] >= LEAST_RADIUS:
                q = physics.pixel_from_disk(have["probe_radius"], have["semiangle"], have["energy"])
                self.set(q_pixel=q, how=f"semi-angle {have['semiangle']:g} mrad over a disk radius of {have['probe_radius']:.2f} px")
                if have["probe_radius_error"]:
                    self.set(q_pixel_error=q * have["probe_radius_error"] / have["probe_radius"], how="standard error of the disk radius")
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
        return origin if origin is None or origin.ndim == 1 else mean_place(origin)

    def __repr__(self) -> str:
        def show(v: Any) -> str:
            if np.ndim(v) > 1:
                return "×".join(map(str, np.shape(v)))
            return f"{v:.5g}" if isinstance(v, float) else str(v)

        return f"Calibration({', '.join(f'{k}={show(v)} {FIELDS[k].units}'.strip() for k, v in self.known().items())})"
