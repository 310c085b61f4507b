"""One quantity of a result or of a truth, and how two of them are compared: bias, rms, correlation, slope, errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gpu4d.errors import InputError
from gpu4d.workflow.comparing.freedoms import Fitted, fitted, on_grid, turned, words

VALUE, CONSTANT, LABEL, ROTATION, CURVE = "value", "up to a constant", "label", "rotation", "curve"
SHARE = "share of a class"  # compared as a value, after the classes of both were matched
PHASE = "complex, up to a phase"  # transmission of the specimen by a method whose probe is known
OBJECT = "up to a constant, a ramp and a shift"  # phase or transmission by a method that finds the probe, too
WITHIN = 2.0  # standard errors that are counted as agreement: 95 % of honest ones lie within
RELATIVE = ("strain/", "amorphous_strain/")  # quantities that are relative to a reference
SURE = 5.0  # standard errors of the mean from which on a bias is one
LEAST = 3  # values from which on a correlation and a slope mean something


@dataclass(frozen=True, eq=False)
class Quantity:
    """One map, curve or number.

    Attributes
    ----------
    name : str
        As in result files: "strain/e_xx".
    values : array
        (Rx, Ry) for maps over the scan, (Rx, Ry, 3, 3) for rotations, any shape for others.
    unit : str
    kind : str
        One of the constants of this module: how the quantity is compared.
    errors : array or None
        Standard errors of the values.
    at : (n,) array or None
        Where a curve was taken.
    pixel : float
        Of an object: its sampling in Å. 0 if unknown.
    corner : (float, float)
        Of an object: where its pixel [0, 0] lies among the positions of the scan, Å.
    """

    name: str
    values: np.ndarray
    unit: str = ""
    kind: str = VALUE
    errors: np.ndarray | None = None
    at: np.ndarray | None = None
    pixel: float = 0.0
    corner: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Row:
    """How one quantity agrees.

    Attributes
    ----------
    name, unit, kind : str
    count : int
        Values that both have.
    missing, more : int
        Values that only the second has, and that only the first has.
    bias : float
        Mean difference, first minus second. Of rotations: the median angle, degrees. 0 for quantities that are known up to a constant.
    rms : float
        Root mean square of the difference: this is what a tolerance is compared with. Of labels: the share that differs.
    scatter : float
        The same without the bias.
    correlation, slope : float
        Of the first against the second. NaN where they mean nothing.
    worst : tuple of int
        Index of the largest difference.
    largest : float
        That difference.
    within : float or None
        Share of the values within two standard errors of each other; None if no error is known.
    remark : str
    difference, values : array
        In the shape of the map: first minus second, NaN where one of both is not known, and the first itself. Of complex maps, the
        modulus of the difference and the phase of the first.
    """

    name: str
    unit: str
    kind: str
    count: int
    bias: float
    rms: float
    scatter: float
    correlation: float
    slope: float
    worst: tuple[int, ...]
    largest: float
    within: float | None
    remark: str
    difference: np.ndarray
    values: np.ndarray
    missing: int = 0
    more: int = 0

    def as_dict(self) -> dict[str, object]:
        """Return the row for JSON. Numbers that are not finite are null there."""
        plain: dict[str, object] = {name: getattr(self, name) for name in ("name", "unit", "kind", "count", "missing", "more")}
        for name in ("bias", "rms", "scatter", "correlation", "slope", "largest", "within"):
            value = getattr(self, name)
            plain[name] = value if value is not None and math.isfinite(value) else None
        return {**plain, "worst": list(self.worst), "remark": self.remark}


def compared(first: Quantity, second: Quantity, rotations: np.ndarray | None = None) -> Row:
    """Compare two quantities of the same name.

    Parameters
    ----------
    first, second : Quantity
    rotations : (P, 3, 3) float, optional
        Proper rotations of the crystal, for orientations.

    Raises
    ------
    InputError
        Their shapes differ.
    """
    row = _row_of(first, second, np.eye(3)[None] if rotations is None else rotations)
    one, other = (_known(values) for values in (first.values, second.values))
    if first.kind in (CURVE, OBJECT) or one.shape != other.shape:  # these end at different places, which is no loss
        return row
    return replace(row, missing=int((other & ~one).sum()), more=int((one & ~other).sum()))


def _row_of(first: Quantity, second: Quantity, rotations: np.ndarray) -> Row:
    """Compare as the kind of the quantity asks for."""
    if first.kind == CURVE and first.at is not None and second.at is not None:
        second = _at_the_same_places(first, second)
    if first.kind == OBJECT and second.kind == OBJECT:
        return _objects(first, second)
    if first.values.shape != second.values.shape:
        raise InputError(
            f"{_size(first.values)} in the first and {_size(second.values)} in the second: only results of the same scan, with the same "
            "binning, can be compared"
        )
    if first.kind == LABEL:
        return _labels(first, second)
    if first.kind == ROTATION:
        return _turned(first, second, rotations)
    if np.iscomplexobj(first.values) or np.iscomplexobj(second.values):
        found = turned(first.values, second.values) if first.kind == PHASE else Fitted(second.values, 0.0)
        remark = f"without a global phase of {found.constant:.3g} rad" if first.kind == PHASE else ""
        return _complex(first, found.second, remark)
    a, b = np.asarray(first.values, np.float64), np.asarray(second.values, np.float64)
    constant = 0.0
    if first.kind == CONSTANT:
        known = np.isfinite(a) & np.isfinite(b)
        constant = float((a - b)[known].mean()) if known.any() else 0.0
    errors, difference = _errors(first, second), a - b - constant
    remark = "without the mean difference" if first.kind == CONSTANT else _of_references(first.name, difference, errors)
    return _row(first, difference, (a, b), errors, remark)


def _known(values: np.ndarray) -> np.ndarray:
    """Say where a map has values: a rotation has all of its elements."""
    good = np.isfinite(values)
    return good.all(axis=(-2, -1)) if values.ndim == 4 else good


def _objects(first: Quantity, second: Quantity) -> Row:
    """Compare objects on the grid of the first, without what ptychography leaves open."""
    if first.pixel and second.pixel:
        values = on_grid(second.values, (second.pixel, second.corner), (first.pixel, first.corner), first.values.shape)
    elif first.values.shape == second.values.shape:
        values = second.values
    else:
        raise InputError(f"{_size(first.values)} in the first and {_size(second.values)} in the second, of unknown pixels")
    found = fitted(first.values, values)
    remark = words(found, first.pixel or 1.0, "Å" if first.pixel else "px")
    if np.iscomplexobj(first.values):
        return _complex(first, found.second, remark)
    return _row(first, first.values - found.second, (first.values, found.second), None, remark)


def _complex(first: Quantity, second: np.ndarray, remark: str) -> Row:
    """Compare complex maps by the modulus of their difference. Correlation and slope are those without their means."""
    away = np.abs(first.values - second)
    good = np.isfinite(away)
    row = _row(replace(first, kind=PHASE), away, (np.angle(first.values), np.angle(second)), None, remark)
    if not good.any():
        return row
    a, b = first.values[good], second[good]
    a, b = a - a.mean(), b - b.mean()
    together, own, other = np.vdot(b, a).real, np.vdot(a, a).real, np.vdot(b, b).real
    fits = own > 0 and other > 0
    correlation, slope = (float(together / math.sqrt(own * other)), float(together / other)) if fits else (math.nan, math.nan)
    return replace(row, bias=math.nan, scatter=math.nan, correlation=correlation, slope=slope)


def _of_references(name: str, difference: np.ndarray, errors: np.ndarray | None) -> str:
    """Say if two strains differ by a constant, as strains do that are relative to different references."""
    known = difference[np.isfinite(difference)]
    if not name.startswith(RELATIVE) or known.size < LEAST or not abs(known.mean()) > SURE * known.std() / math.sqrt(known.size):
        return ""
    said = "the bias is that of the references, which differ"
    if errors is None:
        return said
    left = np.abs(difference - known.mean()) <= WITHIN * errors
    return f"{said}; without it, {100 * float(np.mean(left[np.isfinite(difference)])):.0f} % are within two standard errors"


def _row(like: Quantity, difference: np.ndarray, both: tuple[np.ndarray, np.ndarray], errors: np.ndarray | None, remark: str) -> Row:
    good = np.isfinite(difference)
    count = int(good.sum())
    if not count:
        nothing = (math.nan,) * 5
        return Row(like.name, like.unit, like.kind, 0, *nothing, (), math.nan, None, "no value that both have", difference, both[0])
    d, a, b = difference[good], both[0][good], both[1][good]
    bias, rms = float(d.mean()), float(np.sqrt(np.mean(d**2)))
    correlation, slope = _regression(a, b)
    worst = np.unravel_index(int(np.nanargmax(np.abs(difference))), difference.shape) if difference.shape else ()
    within = None
    if errors is not None and (known := good & np.isfinite(errors) & (errors > 0)).any():
        within = float(np.mean(np.abs(difference[known]) <= WITHIN * errors[known]))
    place = tuple(int(i) for i in worst)
    largest = float(difference[place]) if place else float(difference)
    scatter = float(d.std())
    return Row(
        like.name, like.unit, like.kind, count, bias, rms, scatter, correlation, slope, place, largest, within, remark, difference, both[0]
    )


def _regression(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return correlation and slope of a against b. NaN where one of them does not vary."""
    if a.size < LEAST or not a.std() > 0 or not b.std() > 0:
        return math.nan, math.nan
    together = float(np.mean((a - a.mean()) * (b - b.mean())))
    return together / float(a.std() * b.std()), together / float(b.var())


def _errors(first: Quantity, second: Quantity) -> np.ndarray | None:
    """Return the standard error of the difference, from the errors that are known."""
    known = [np.asarray(one.errors, np.float64) for one in (first, second) if one.errors is not None]
    known = [errors for errors in known if errors.shape == first.values.shape]
    return np.sqrt(np.sum(np.square(known), axis=0)) if known else None


def _at_the_same_places(first: Quantity, second: Quantity) -> Quantity:
    """Return the second curve at the places of the first, NaN outside of it."""
    assert first.at is not None and second.at is not None
    values = np.interp(first.at, second.at, second.values, left=np.nan, right=np.nan)
    errors = None if second.errors is None else np.interp(first.at, second.at, second.errors, left=np.nan, right=np.nan)
    return Quantity(second.name, values, second.unit, second.kind, errors, first.at)


def _labels(first: Quantity, second: Quantity) -> Row:
    """Compare classes: numbers are matched so that most positions agree, because each run numbers its own."""
    from scipy.optimize import linear_sum_assignment

    a, b = np.asarray(first.values, np.float64), np.asarray(second.values, np.float64)
    good = np.isfinite(a) & np.isfinite(b) & (a >= 0) & (b >= 0)
    if not good.any():
        return _row(first, np.full(a.shape, np.nan), (a, b), None, "")
    one, other = (np.unique(values[good].astype(int), return_inverse=True) for values in (a, b))
    table = np.zeros((len(one[0]), len(other[0])))
    np.add.at(table, (one[1], other[1]), 1)
    rows, columns = linear_sum_assignment(-table)
    matched = {int(one[0][i]): int(other[0][j]) for i, j in zip(rows, columns)}
    same = np.array([matched.get(int(value), -1) for value in a[good]]) == b[good].astype(int)
    difference = np.full(a.shape, np.nan)
    difference[good] = ~same
    share = float(1 - same.mean())
    named = ", ".join(f"{i} = {j}" for i, j in matched.items())
    remark = f"classes are matched ({named}); rms is the share of positions that differ"
    worst = tuple(int(i) for i in np.argwhere(difference == 1)[0]) if share else ()
    nan = math.nan
    return Row(first.name, first.unit, LABEL, int(good.sum()), nan, share, nan, nan, nan, worst, nan, None, remark, difference, a)


def _turned(first: Quantity, second: Quantity, rotations: np.ndarray) -> Row:
    """Compare orientations by the smallest angle between them, degrees."""
    between = np.swapaxes(first.values, -1, -2) @ second.values
    trace = np.einsum("...ij,mji->...m", between, rotations).max(axis=-1)
    angle = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0)))
    good = np.isfinite(angle)
    errors = None if first.errors is None else np.degrees(first.errors)
    row = _row(Quantity(first.name, angle, "°", ROTATION), angle, (angle, np.zeros(angle.shape)), errors, "")
    if not good.any():
        return row
    middle = float(np.median(angle[good]))
    remark = f"angle between orientations; bias is its median; {100 * float(np.mean(angle[good] < 1)):.0f} % within 1°"
    numbers = (row.count, middle, row.rms, row.scatter, math.nan, math.nan)
    return Row(row.name, row.unit, ROTATION, *numbers, row.worst, row.largest, row.within, remark, angle, angle)


def _size(values: np.ndarray) -> str:
    return "×".join(map(str, values.shape)) or "one number"
