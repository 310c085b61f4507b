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

from gpu4d import arrays
from gpu4d.arrays import Array
from gpu4d.data.arguments import OriginLike, origins
from gpu4d.errors import InputError


@dataclass(frozen=True)
class Cut:
    """Ranges of a scan that are kept by cropping: half-open slices in steps of one."""

    rx: slice
    ry: slice
    qx: slice
    qy: slice


@dataclass(frozen=True)
class GivenAs:
    """How a user gives a field in a recipe and on the command line.

    Attributes
    ----------
    name : str
        Name in the recipe's section [calibration].
    units : str
    low, high : float or None
        Accepted range, ends included.
    automatic : str
        What happens if it is not given.
    explain : str
        Explanation for the recipe.
    flag : str
        Placeholder of the value after ``--name`` on the command line, "EV". Empty if there is no flag.
    per_unit : float
        Factor from the given unit to the field's unit: π/180 for degrees.
    kind : str
        "number" or "switch".
    """

    name: str
    units: str = ""
    low: float | None = None
    high: float | None = None
    automatic: str = "as the file says"
    explain: str = ""
    flag: str = ""
    per_unit: float = 1.0
    kind: str = "number"


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
    cropped : callable (value, Cut) -> value, optional
    binned : callable (value, (detector, scan)) -> value, optional
    swapped : callable (value, (detector, scan)) -> value, optional
        How the value changes with the data. Without a function it stays.
    """

    name: str
    units: str
    what: str
    check: Callable[[Field[Any, Kept], Any], Kept]
    emd: tuple[str, ...] = ()
    given: GivenAs | None = None
    cropped: Change | None = None
    binned: Change | None = None
    swapped: Change | None = None

    @overload
    def __get__(self, calibration: None, owner: type) -> Field[Given, Kept]: ...
    @overload
    def __get__(self, calibration: HasValues, owner: type) -> Kept | None: ...
    def __get__(self, calibration: HasValues | None, owner: type) -> Field[Given, Kept] | Kept | None:
        return self if calibration is None else calibration._values[self.name]

    if TYPE_CHECKING:  # `Calibration.__setattr__` sets fields, also those that a package added while it runs

        def __set__(self, calibration: HasValues, value: Given | None) -> None: ...


def positive(field: Field[Any, Any], value: Any) -> float:
    """Accept a positive finite number."""
    value = float(value)
    if not (value > 0 and np.isfinite(value)):
        raise InputError(f"{field.name} is {value}, need a positive number in {field.units}")
    return value


def number(field: Field[Any, Any], value: Any) -> float:
    """Accept a number."""
    return float(value)


def switch(field: Field[Any, Any], value: Any) -> bool:
    """Accept yes or no."""
    return bool(value)


def axes_of_ellipse(field: Field[Any, Any], value: Any) -> tuple[float, float, float]:
    """Accept (a, b, theta) with a ≥ b > 0."""
    a, b, theta = arrays.floats(value)
    if not a >= b > 0:
        raise InputError(f"ellipse is (a={a:g}, b={b:g}, theta={theta:g}), need a ≥ b > 0")
    return (a, b, theta)


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
        value = value[: rx * scan, : ry * scan].reshape(rx, scan, ry, scan, 2).mean((1, 3))
    return (value - (detector - 1) / 2) / detector


def _places_swapped(value: np.ndarray, swap: tuple[bool, bool]) -> np.ndarray:
    detector, scan = swap
    value = value[..., ::-1] if detector else value
    return value.swapaxes(0, 1) if scan and value.ndim == 3 else value


def _ellipse_swapped(value: tuple[float, float, float], swap: tuple[bool, bool]) -> tuple[float, float, float]:
    return (*value[:2], math.pi / 2 - value[2]) if swap[0] else value


_PLACES: Mapping[str, Any] = {"check": places, "cropped": _places_cropped, "binned": _places_binned, "swapped": _places_swapped}

# Types of rows.
Number = Field[SupportsFloat, float]
Places = Field[OriginLike, np.ndarray]
Axes = Field[Array | Sequence[float], tuple[float, float, float]]
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
        given=GivenAs("q_pixel", "1/Å", 1e-7, 10, "as the file says, else from energy and semi-angle", "Detector pixel, g = 1/d.",
                      flag="1/Å"))
    r_pixel: Number = Field(
        "r_pixel", "Å", "distance of scan positions", positive, binned=lambda v, by: v * by[1],
        given=GivenAs("r_pixel", "Å", 1e-4, 1e7, explain="Distance of scan positions.", flag="Å"))
    energy: Number = Field(
        "energy", "eV", "beam energy", positive, ("energy",),
        GivenAs("energy", "eV", 1e3, 3e6, explain="Beam energy.", flag="EV"))
    semiangle: Number = Field(
        "semiangle", "mrad", "convergence semi-angle", positive, ("semiangle", "convergence_semiangle_mrad"),
        GivenAs("semiangle", "mrad", 1e-3, 200, flag="MRAD",
                explain="Convergence semi-angle. With the energy and the measured disk radius it gives the detector pixel."))
    probe_radius: Number = Field(
        "probe_radius", "px", "radius of the bright-field (vacuum) disk on the detector", positive, ("probe_semiangle",),
        binned=lambda v, by: v * (1 / by[0]))
    origin: Places = Field(
        "origin", "px", "centre of the unscattered beam: (2,) for all, or (Rx, Ry, 2)", **_PLACES)
    origin_measured: Places = Field(
        "origin_measured", "px", "origin as measured at every position, before a surface was fitted, (Rx, Ry, 2)", **_PLACES)
    ellipse: Axes = Field(
        "ellipse", "px, px, rad", "semi-axes a ≥ b of what should be a circle, and the angle of a from qx towards qy", axes_of_ellipse,
        swapped=_ellipse_swapped)
    rotation: Number = Field(
        "rotation", "rad", "rotation θ of detector axes: v_scan = R(θ) v_det, after the exchange if transpose is set", number,
        swapped=lambda v, swap: -v if swap[1] else v,
        given=GivenAs("rotation_degrees", "degrees", -360, 360, "as the file says; for DPC, from the least curl",
                      "Rotation from detector to scan axes: v_scan = R(θ) v_det.", per_unit=math.pi / 180))
    transpose: Switch = Field(
        "transpose", "", "detector axes are exchanged, (qx, qy) -> (qy, qx), before the rotation", switch,
        given=GivenAs("transpose", automatic="as the file says; for DPC, from the least curl", kind="switch",
                      explain="Detector axes are exchanged before the rotation."))
# fmt: on


@keywords
class SetKeywords(CalibrationFields):
    """Keywords of `Calibration.set`, for type checkers: any fields, and how their values were found."""

    how: str


FIELDS: dict[str, Field[Any, Any]] = {row.name: row for row in vars(CalibrationFields).values() if isinstance(row, Field)}
