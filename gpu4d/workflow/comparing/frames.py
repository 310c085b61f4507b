"""Bring two sides to one frame before they are compared: region of the scan, axes of the strain, numbers of classes, units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpu4d.workflow.comparing.quantity import CURVE, OBJECT, SHARE, Quantity
from gpu4d.workflow.comparing.units import factor

Region = tuple[int, int, int, int]  # rows from, to, columns from, to: of the scan as the file has it
TENSOR = ("strain/e_xx", "strain/e_yy", "strain/e_xy")  # their axes can be turned; θ does not depend on them


@dataclass(frozen=True)
class Side:
    """What was read of one side.

    Attributes
    ----------
    path : str
    quantities : dict of str to Quantity
    settings : mapping
        Of the run. Empty of a truth, or if the file has none.
    truth : bool
    gates : mapping or None
        Names and status of the quality gates of the run.
    remark : str
        What is to be told about this side.
    """

    path: str
    quantities: dict[str, Quantity]
    settings: Mapping[str, Any]
    truth: bool
    gates: Any = None
    remark: str = ""

    def setting(self, section: str, name: str) -> Any:
        """Return a setting. None if it was automatic, or is not known."""
        held = self.settings.get(section)
        return held.get(name) if isinstance(held, Mapping) else None


def brought_together(one: Side, other: Side) -> tuple[Side, Side, list[str], dict[str, str]]:
    """Return both sides in one frame, sentences on what was done for it, and why some quantities cannot be compared, by name."""
    said = [side.remark for side in (one, other) if side.remark]
    one, other = _of_one_region(one, other, said)
    other, refused = _of_one_axis(one, other, said)
    other = _with_classes_of(one, other, said)
    other, units = _in_units_of(one, other)
    return one, other, said, refused | units


def _of_one_region(one: Side, other: Side, said: list[str]) -> tuple[Side, Side]:
    """Cut maps to the positions that both have, if one of them is of a part of the scan."""
    regions = [_region(side) for side in (one, other)]
    if regions[0] == regions[1]:
        return one, other
    held = [region for region in regions if region is not None]
    common = (max(r[0] for r in held), min(r[1] for r in held), max(r[2] for r in held), min(r[3] for r in held))
    if common[0] >= common[1] or common[2] >= common[3]:
        said.append("the two are of parts of the scan that have no position in common")
        nothing = [replace(side, quantities={n: q for n, q in side.quantities.items() if not _is_map(q, r, side)})
                   for side, r in zip((one, other), regions)]  # fmt: skip
        return nothing[0], nothing[1]
    cut = [
        replace(side, quantities={name: _cut(q, region, common, side) for name, q in side.quantities.items()})
        for side, region in zip((one, other), regions)
    ]
    said.append(f"maps are compared at rows {common[0]} to {common[1] - 1} and columns {common[2]} to {common[3] - 1} of the scan")
    return cut[0], cut[1]


def _region(side: Side) -> Region | None:
    given = side.setting("input", "crop_scan")
    return None if given is None else (int(given[0]), int(given[1]), int(given[2]), int(given[3]))


def _is_map(quantity: Quantity, region: Region | None, side: Side) -> bool:
    """Say whether a quantity has a value for every position of the scan."""
    shape = quantity.values.shape
    if quantity.kind in (CURVE, OBJECT) or len(shape) < 2:
        return False
    return _scan_shape(side) == shape[:2] if region is None else (region[1] - region[0], region[3] - region[2]) == shape[:2]


def _scan_shape(side: Side) -> tuple[int, ...]:
    """Return the shape that most maps have."""
    shapes = [q.values.shape[:2] for q in side.quantities.values() if q.kind not in (CURVE, OBJECT) and q.values.ndim >= 2]
    return max(set(shapes), key=shapes.count, default=())


def _cut(quantity: Quantity, region: Region | None, common: Region, side: Side) -> Quantity:
    if not _is_map(quantity, region, side):
        return quantity
    first, second = (0, 0) if region is None else (region[0], region[2])
    rows, columns = slice(common[0] - first, common[1] - first), slice(common[2] - second, common[3] - second)
    errors = quantity.errors
    if errors is not None and errors.shape[:2] == quantity.values.shape[:2]:
        errors = errors[rows, columns]
    return replace(quantity, values=quantity.values[rows, columns], errors=errors)


def _of_one_axis(one: Side, other: Side, said: list[str]) -> tuple[Side, dict[str, str]]:
    """Turn the strain of the second to the axes of the first. Standard errors of turned components are not known."""
    axes = [0.0 if side.truth else side.setting("strain", "axis") or 0.0 for side in (one, other)]
    shared = [name for name in TENSOR if name in one.quantities and name in other.quantities]
    if axes[0] == axes[1] or not shared:
        return other, {}
    if any(isinstance(axis, str) for axis in axes):
        words = [f"along {axis}" if isinstance(axis, str) else f"at {axis:g}°" for axis in axes]
        why = f"x is {words[0]} in the first and {words[1]} in the second: give both the same strain.axis, in degrees"
        return other, dict.fromkeys(shared, why)
    held = [other.quantities.get(name) for name in TENSOR]
    if any(part is None for part in held):
        return other, dict.fromkeys(shared, f"x is at {axes[0]:g}° and {axes[1]:g}°, and the second has not all components")
    xx, yy, xy = (part.values for part in held if part is not None)
    angle = math.radians(axes[0] - axes[1])
    c, s = math.cos(angle), math.sin(angle)
    turned = (
        c * c * xx + 2 * c * s * xy + s * s * yy,
        s * s * xx - 2 * c * s * xy + c * c * yy,
        (c * c - s * s) * xy - c * s * (xx - yy),
    )
    found = dict(other.quantities)
    for name, values in zip(TENSOR, turned):
        found[name] = replace(found[name], values=values, errors=None)
    said.append(f"strain of the second is turned to the axes of the first: from x at {axes[1]:g}° to x at {axes[0]:g}°")
    return replace(other, quantities=found), {}


def _with_classes_of(one: Side, other: Side, said: list[str]) -> Side:
    """Give the classes of the second the numbers of those of the first that their shares are nearest to."""
    from scipy.optimize import linear_sum_assignment

    sides = [{name: q for name, q in side.quantities.items() if q.kind == SHARE} for side in (one, other)]
    shapes = {q.values.shape for side in sides for q in side.values()}
    if not sides[0] or not sides[1] or len(shapes) != 1:
        return other
    (first, second), names = ([q.values for q in side.values()] for side in sides), [list(side) for side in sides]
    apart = np.array([[_away(a, b) for b in second] for a in first])
    rows, columns = linear_sum_assignment(apart)
    matched = {names[1][j]: names[0][i] for i, j in zip(rows, columns)}
    new = {name: matched.get(name, f"{name} of the second") for name in names[1]}
    found = {name: q for name, q in other.quantities.items() if q.kind != SHARE}
    for name, q in sides[1].items():
        found[new[name]] = replace(q, name=new[name])
    pairs = ", ".join(f"{a.rpartition(' ')[2]} = {b.rpartition(' ')[2]}" for b, a in sorted(matched.items(), key=lambda pair: pair[1]))
    said.append(f"class_fractions: classes are matched by their maps (first = second: {pairs})")
    return replace(other, quantities=found)


def _away(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean square difference of two maps; the largest that shares can have where no position has both."""
    good = np.isfinite(a) & np.isfinite(b)
    return float(np.mean((a[good] - b[good]) ** 2)) if good.any() else 1.0


def _in_units_of(one: Side, other: Side) -> tuple[Side, dict[str, str]]:
    """Convert the second to the units of the first."""
    found, refused = dict(other.quantities), {}
    alone = one.truth or other.truth
    todo = "give the run its calibration (--energy, --q-pixel, --r-pixel)" if alone else "give both runs the same calibration"
    for name, q in other.quantities.items():
        like = one.quantities.get(name)
        if like is None or like.unit == q.unit:
            continue
        scale = factor(q.unit, like.unit)
        if scale is None:
            refused[name] = f"in {like.unit} in the first and in {q.unit} in the second: {todo}"
        elif scale != 1:
            found[name] = replace(q, values=q.values * scale, errors=None if q.errors is None else q.errors * scale, unit=like.unit)
    return replace(other, quantities=found), refused
