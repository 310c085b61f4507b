"""Table of the fields of a calibration. A new field is a new row. Files, recipes, the command line and the report use the rows.

Type checkers and editors read the rows too: from them come the attributes of a calibration and the keywords that set them.
The functions in a row are called with known values, never with None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, SupportsFloat, TypeVar, dataclass_transform, overload

import numpy as np

from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import OriginLike, origins, real_values
from gpu4d.data.quantities import ANGLES, DEGREES, ENERGIES, FREQUENCIES, LENGTHS, GivenAs
from gpu4d.errors import InputError
from gpu4d.real_arrays import floats


@dataclass(frozen=True)
class Cut:
    """Ranges of a scan that are kept by cropping: half-open slices in steps of one."""

    rx: slice
    ry: slice
    qx: slice
    qy: slice


@dataclass(frozen=True)
class Choice:
    """Positions of a scan that are kept, in a shape of their own.

    Attributes
    ----------
    index : (Rx, Ry) int64
        Number rx · Ry + ry, in the scan that is chosen from, of each position.
    step : float or None
        Distance of neighbours in steps of that scan. None if they are not neighbours on a grid.
    """

    index: np.ndarray
    step: float | None


Change = Callable[[Any, Any], Any]
Given = TypeVar("Given")  # type of what a field takes
Kept = TypeVar("Kept")  # type of its value, which the check returns
Keywords = ParamSpec("Keywords")
Class = TypeVar("Class")


class HasValues(Protocol):
    """Holds the values of fields by name, as a calibration does."""

    _values: dict[str, Any]


@dataclass(frozen=True)
class Field(Generic[Given, Kept]):
    """One quantity of a calibration. Read from a calibration, it gives the value, or None if the value is not known.

    The type of a row, ``Field[Given, Kept]``, says what the field takes and what its value is.

    Attributes
    ----------
    name, units, what : str
        Name in code, units, and a description.
    check : callable (Field, value) -> value
        Returns the value in its own type. Raises an error for values that are impossible.
    emd : tuple of str
        Keys of the value in an EMD file. The first one present is read, and all are written. Empty for fields that are stored in
        another form (`gpu4d.io.formats.emd`).
    given : GivenAs or None
        How a user gives it. None for fields that can only be measured.
    error_of : str
        Name of the field whose standard error this one is. Empty for values. A new value without an error removes the old error.
    cropped : callable (value, Cut) -> value, optional
    binned : callable (value, (detector, scan)) -> value, optional
    swapped : callable (value, (detector, scan)) -> value, optional
    chosen : callable (value, Choice) -> value or None, optional
        How the value changes with the data. Without a function it stays.
    """

    name: str
    units: str
    what: str
    check: Callable[[Field[Any, Kept], Any], Kept]
    emd: tuple[str, ...] = ()
    given: GivenAs | None = None
    error_of: str = ""
    cropped: Change | None = None
    binned: Change | None = None
    swapped: Change | None = None
    chosen: Change | None = None

    @overload
    def __get__(self, calibration: None, owner: type) -> Field[Given, Kept]: ...
    @overload
    def __get__(self, calibration: HasValues, owner: type) -> Kept | None: ...
    def __get__(self, calibration: HasValues | None, owner: type) -> Field[Given, Kept] | Kept | None:
        return self if calibration is None else calibration._values[self.name]

    if TYPE_CHECKING:  # `Calibration.__setattr__` sets fields, also those that a package added while it runs

        def __set__(self, calibration: HasValues, value: Given | None) -> None: ...


def number(field: Field[Any, Any], value: Any) -> float:
    """Accept a number in the range that `given` states, or a text such as "200 keV"."""
    how = field.given
    if isinstance(value, str) and how is not None:
        value = how.read(value) * how.per_unit
    host = real_values(value, field.name, f"a number in {field.units}")
    if host.ndim != 0 or host.dtype == bool:
        raise InputError(f"{field.name} is {value!r}: need a number in {field.units}")
    found = float(host)
    if how is not None and (problem := how.problem(found / how.per_unit)) is not None:
        shown = f"{found:g} {field.units}" if how.per_unit == 1 else f"{found:g} {field.units}, {found / how.per_unit:g} {how.units}"
        raise InputError(f"{field.name} is {shown}: {problem}")
    return found


def positive(field: Field[Any, Any], value: Any) -> float:
    """Accept a positive number."""
    found = number(field, value)
    if not 0 < found < math.inf:
        raise InputError(f"{field.name} is {found}, need a positive number in {field.units}")
    return found


def angle(field: Field[Any, Any], value: Any) -> float:
    """Accept an angle in radians of up to one turn: more is one in degrees."""
    if not isinstance(value, str):
        _check_turn(field.name, real_values(value, field.name, "a number in rad"))
    return number(field, value)


def _check_turn(name: str, value: np.ndarray) -> None:
    """Raise InputError for an angle of more than one turn."""
    if value.ndim == 0 and np.isfinite(value) and abs(value) > 2 * math.pi:
        turns = f"{value / (2 * math.pi):.1f} turns"
        raise InputError(f"{name} is {value:g} rad, {turns}: need radians (did you mean numpy.deg2rad({value:g})?)")


def switch(field: Field[Any, Any], value: Any) -> bool:
    """Accept yes or no: a bool, or 0 and 1."""
    if isinstance(value, bool | int | float | np.generic | np.ndarray) and np.ndim(value) == 0 and value in (0, 1):
        return bool(value)
    raise InputError(f"{field.name} is {value!r}: need True or False")


def axes_of_ellipse(field: Field[Any, Any], value: Any) -> tuple[float, float, float]:
    """Accept (a, b, theta) with a ≥ b > 0."""
    a, b, theta = floats(value, 3, field.name, "(a, b, theta): two semi-axes and an angle in rad")
    if not (math.inf > a >= b > 0 and math.isfinite(theta)):
        raise InputError(f"ellipse is (a={a:g}, b={b:g}, theta={theta:g}), need a ≥ b > 0")
    _check_turn("theta of the ellipse", np.asarray(theta))
    return (a, b, theta)


def two_errors(field: Field[Any, Any], value: Any) -> tuple[float, float]:
    """Accept two standard errors, not negative. The angle of a circle has an infinite one."""
    first, second = floats(value, 2, field.name, "two standard errors")
    if not (0 <= first < math.inf and second >= 0):
        raise InputError(f"{field.name} is ({first:g}, {second:g}): need two standard errors that are not negative")
    return (first, second)


def places(field: Field[Any, Any], value: Any) -> np.ndarray:
    """Accept detector positions: (2,) for all patterns, or (Rx, Ry, 2)."""
    return origins(value, name=field.name)


def _places_cropped(value: np.ndarray, cut: Cut) -> np.ndarray:
    moved = value - (cut.qx.start, cut.qy.start)
    return moved if moved.ndim == 1 else moved[cut.rx, cut.ry]


def _places_binned(value: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    """Return positions in binned pixels. Pixel centres are integers, so the first n pixels have their centre at (n − 1) / 2."""
    detector, scan = by
    if value.ndim == 3 and scan > 1:
        rx, ry = (n // scan for n in value.shape[:2])
        cells = value[: rx * scan, : ry * scan].reshape(rx, scan, ry, scan, 2)
        known = np.isfinite(cells)  # a position that was not measured does not make its neighbours unknown
        count = known.sum((1, 3))
        value = np.where(count > 0, np.where(known, cells, 0.0).sum((1, 3)) / np.maximum(count, 1), np.nan)
    return (value - (detector - 1) / 2) / detector


def _places_swapped(value: np.ndarray, swap: tuple[bool, bool]) -> np.ndarray:
    detector, scan = swap
    value = value[..., ::-1] if detector else value
    return value.swapaxes(0, 1) if scan and value.ndim == 3 else value


def _places_chosen(value: np.ndarray, choice: Choice) -> np.ndarray:
    return value if value.ndim == 1 else value.reshape(-1, 2)[choice.index]


def _ellipse_swapped(value: tuple[float, float, float], swap: tuple[bool, bool]) -> tuple[float, float, float]:
    return (*value[:2], math.pi / 2 - value[2]) if swap[0] else value


def scan_places(field: Field[Any, Any], value: Any) -> np.ndarray:
    """Accept places of the beam on the specimen: (Rx, Ry, 2), finite."""
    found = real_values(value, field.name, "(Rx, Ry, 2) in Å").astype(np.float64, copy=False)
    if found.ndim != 3 or found.shape[-1] != 2 or not found.size or not np.isfinite(found).all():
        raise InputError(f"{field.name} has shape {found.shape}: need (Rx, Ry, 2), finite, in Å")
    return found


def _scan_places_binned(value: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    scan = by[1]
    rx, ry = (n // scan for n in value.shape[:2])
    return value[: rx * scan, : ry * scan].reshape(rx, scan, ry, scan, 2).mean((1, 3))


def _scan_places_swapped(value: np.ndarray, swap: tuple[bool, bool]) -> np.ndarray:
    return np.ascontiguousarray(value.swapaxes(0, 1)[..., ::-1]) if swap[1] else value


_PLACES: Mapping[str, Any] = {
    "check": places,
    "cropped": _places_cropped,
    "binned": _places_binned,
    "swapped": _places_swapped,
    "chosen": _places_chosen,
}

SMALLEST_ANGLE = 0.01  # mrad: no lens makes a smaller cone, so a smaller number is one in radians

# Types of rows.
Number = Field[SupportsFloat | str, float]
Places = Field[OriginLike, np.ndarray]
ScanPlaces = Field[ArrayLike, np.ndarray]
Axes = Field[Array | Sequence[float], tuple[float, float, float]]
Pair = Field[Array | Sequence[float], tuple[float, float]]
Switch = Field[bool | np.bool_, bool]


@dataclass_transform(kw_only_default=True, eq_default=False)
def keywords(rows: type[Class]) -> type[Class]:
    """Return the class unchanged. Type checkers take its rows as keywords of its constructor."""
    return rows


def takes_keywords_of(rows: Callable[Keywords, Any]) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, Keywords], None]]:
    """Return a decorator that changes nothing. Type checkers let the method take the keywords of the class."""
    return lambda method: method


# fmt: off
@keywords
class CalibrationFields:
    """Table of the fields. One row is one field, and its name stands on both sides of the row."""

    q_pixel: Number = Field(
        "q_pixel", "1/Å", "size of a detector pixel, g = 1/d", positive, binned=lambda v, by: v * by[0],
        given=GivenAs("q_pixel", "1/Å", 1e-7, 10, "as the file says, else from energy and semi-angle", "Size of a detector pixel, g = 1/d.",
                      flag="1/Å", known=FREQUENCIES,
                      tune="Measure it on a standard of the same session: nominal camera lengths are wrong by 5 to 10 %. Give the pixel "
                      "as it is after binning."))
    q_pixel_error: Number = Field(
        "q_pixel_error", "1/Å", "standard error of the detector pixel", positive, ("Q_pixel_size_error",),
        error_of="q_pixel", binned=lambda v, by: v * by[0])
    r_pixel: Number = Field(
        "r_pixel", "Å", "distance of scan positions", positive, binned=lambda v, by: v * by[1],
        chosen=lambda v, choice: v * choice.step if choice.step else None,
        given=GivenAs("r_pixel", "Å", 1e-4, 1e7, explain="Distance between scan positions.", flag="Å", known=LENGTHS,
                      tune="Take the step of the scan, not the field of view. Give it as it is after positions are binned."))
    positions: ScanPlaces = Field(
        "positions", "Å", "where each pattern was taken on the specimen, in scan axes, (Rx, Ry, 2), as gpu4d.scan_drift measures it",
        scan_places, ("positions",), cropped=lambda v, cut: v[cut.rx, cut.ry], binned=_scan_places_binned, swapped=_scan_places_swapped,
        chosen=_places_chosen)
    energy: Number = Field(
        "energy", "eV", "beam energy", positive, ("energy",),
        GivenAs("energy", "eV", 1e3, 3e6, explain="Beam energy.", flag="EV", known=ENERGIES,
                tune="Give the high tension in eV: 300 kV are 300e3. All lengths and angles rest on it."))
    semiangle: Number = Field(
        "semiangle", "mrad", "convergence semi-angle", positive, ("semiangle", "convergence_semiangle_mrad"),
        GivenAs("semiangle", "mrad", SMALLEST_ANGLE, 200, flag="MRAD", known=ANGLES,
                explain="Convergence semi-angle. With the energy and the measured disk radius it gives the detector pixel.",
                tune="Give half of the angle of the cone, as it was measured for this aperture. An error of 5 % is one of 5 % in every "
                "distance, unless q_pixel is given."))
    probe_radius: Number = Field(
        "probe_radius", "px", "radius of the bright-field (vacuum) disk on the detector", positive, ("probe_semiangle",),
        binned=lambda v, by: v * (1 / by[0]))
    probe_radius_error: Number = Field(
        "probe_radius_error", "px", "standard error of that radius", positive, ("probe_semiangle_error",), error_of="probe_radius",
        binned=lambda v, by: v * (1 / by[0]))
    origin: Places = Field(
        "origin", "px", "centre of the unscattered beam: (2,) for all, or (Rx, Ry, 2)", **_PLACES)
    origin_measured: Places = Field(
        "origin_measured", "px", "origin as measured at every position, before a surface was fitted, (Rx, Ry, 2)", **_PLACES)
    origin_error: Number = Field(
        "origin_error", "px", "standard error of the origin, along one axis, mean over the scan", positive, ("qx0_error",),
        error_of="origin", binned=lambda v, by: v * (1 / by[0]))
    ellipse: Axes = Field(
        "ellipse", "px, px, rad", "semi-axes a ≥ b of what should be a circle, and the angle of a from qx towards qy", axes_of_ellipse,
        swapped=_ellipse_swapped)
    ellipse_error: Pair = Field(
        "ellipse_error", "1, rad", "standard errors of a/b of the ellipse and of its angle", two_errors, ("ellipse_error",),
        error_of="ellipse")
    rotation: Number = Field(
        "rotation", "rad", "rotation θ of detector axes: v_scan = R(θ) v_det, after the exchange if transpose is set", angle,
        swapped=lambda v, swap: -v if swap[1] else v,
        given=GivenAs("rotation_degrees", "degrees", -360, 360, "as the file says; for DPC, from the least curl",
                      "Rotation from detector to scan axes: v_scan = R(θ) v_det.", per_unit=math.pi / 180, known=DEGREES,
                      tune="Measure it with shadow images or a standard: `gpu4d calibrate`. It changes with the camera length and the "
                      "rotation of the scan."))
    rotation_error: Number = Field(
        "rotation_error", "rad", "standard error of the rotation", positive, ("QR_rotation_error",), error_of="rotation")
    transpose: Switch = Field(
        "transpose", "", "detector axes are exchanged, (qx, qy) -> (qy, qx), before the rotation", switch,
        given=GivenAs("transpose", automatic="as the file says; for DPC, from the least curl", kind="switch",
                      explain="Detector axes are exchanged before the rotation.",
                      tune="It belongs to the detector and its file format. Once it is known, it is so for all scans of this microscope."))
# fmt: on


@keywords
class SetKeywords(CalibrationFields):
    """Keywords of `Calibration.set`, for type checkers: any fields, and how their values were found."""

    how: str = "given"


FIELDS: dict[str, Field[Any, Any]] = {row.name: row for row in vars(CalibrationFields).values() if isinstance(row, Field)}
ERRORS = {row.error_of: row.name for row in FIELDS.values() if row.error_of}  # field -> field of its standard error
