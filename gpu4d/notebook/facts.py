"""Collect the facts of any result: what it is made of, with units, and never by reading a scan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_fields import ERRORS, FIELDS
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import Slice
from gpu4d.data.source import below_views
from gpu4d.data.storable import Storable
from gpu4d.notebook.pieces import Fact
from gpu4d.sizes import format_bytes

MOST = 16  # lines of a table
FEW = 6  # numbers of an array that are written out
MUCH = 4_000_000  # values: the range of a larger array is not looked for
OF_A_CUBE = ("energy", "semiangle", "q_pixel", "r_pixel", "rotation", "origin", "probe_radius")  # what most analyses need
NAMES = {
    "q_pixel": "detector pixel",
    "r_pixel": "scan step",
    "semiangle": "semi-angle",
    "probe_radius": "disk radius",
    "origin_measured": "origin, measured",
}


def facts_of(result: Any) -> list[Fact]:
    """Return the lines of the table of a result."""
    if isinstance(result, DataCube):
        return _cube(result)
    if isinstance(result, Calibration):
        return calibration(result, tuple(name for name in FIELDS if name not in ERRORS.values()))
    if isinstance(result, Slice):
        return _slice(result)
    if isinstance(result, PointListArray | PointList):
        return _points(result)
    return _parts(result)


def _cube(cube: DataCube) -> list[Fact]:
    rx, ry, qx, qy = cube.shape
    found = [
        Fact("scan", f"{rx} × {ry} positions"),
        Fact("detector", f"{qx} × {qy} px", _masked(cube.detector_mask)),
        Fact("values", f"{cube.dtype}, {format_bytes(cube.nbytes)}", "not loaded" if not cube.source.resident else ""),
    ]
    path = getattr(below_views(cube.source), "path", None)
    found.append(Fact("source", str(path) if path else cube.source.description, cube.source.description if path else ""))
    if cube.corrections:
        found.append(Fact("corrections", cube.corrections.description))
    return found + calibration(cube.calibration, OF_A_CUBE)


def _masked(mask: np.ndarray | None) -> str:
    return "" if mask is None else f"{int((~mask).sum()):,} masked"


def calibration(known: Calibration, fields: Sequence[str]) -> list[Fact]:
    """Return a line for each field, with its standard error and how it is known. Fields without a value are there too."""
    found = []
    for field in fields:
        row, value = FIELDS[field], getattr(known, field)
        name = NAMES.get(field, field.replace("_", " "))
        if value is None:
            found.append(Fact(name, ""))
            continue
        error = getattr(known, ERRORS[field]) if field in ERRORS else None
        how = known.how_known(field) or ""
        found.append(Fact(name, _quantity(value, row.units, error), "" if how == "given" else how))
    if known.outdated:
        found.append(Fact("outdated", ", ".join(known.outdated), "something they were measured with has changed"))
    return found


def _quantity(value: Any, units: str, error: Any = None) -> str:
    """Write a value of a calibration with its unit: an angle in degrees, a field of places by its mean."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    host = np.asarray(value, dtype=float)
    if host.ndim > 1:
        middle = ", ".join(f"{float(np.nanmean(host[..., i])):.2f}" for i in range(host.shape[-1]))
        return f"{' × '.join(map(str, host.shape[:-1]))} positions, mean ({middle}) {units}"
    if units == "rad" and host.ndim == 0:
        return f"{np.degrees(float(host)):.2f}°" + (f" ± {np.degrees(float(error)):.2f}°" if error is not None else "")
    if host.ndim == 0:
        return f"{float(host):.6g}" + (f" ± {float(error):.2g}" if error is not None and np.ndim(error) == 0 else "") + f" {units}".rstrip()
    plus = f" ± {float(error):.2g}" if error is not None and np.ndim(error) == 0 else ""
    return f"({', '.join(f'{v:.4g}' for v in host)}){plus} {units}".rstrip()


def _slice(item: Slice) -> list[Fact]:
    found = [Fact("shape", " × ".join(map(str, item.shape)), str(item.dtype))]
    if item.labels:
        found.append(Fact("planes", ", ".join(item.labels)))
    found.append(Fact("values", _range(item.data, item.units)))
    found.append(Fact("pixel", "" if item.pixel_units == "px" else f"{item.pixel_size:.6g} {item.pixel_units}"))
    return found


def _points(points: PointListArray | PointList) -> list[Fact]:
    units = ", ".join(f"{name} ({points.units[name]})" if points.units.get(name) else name for name in points.fields)
    found = [Fact("points", f"{len(points):,}"), Fact("fields", units)]
    if isinstance(points, PointListArray):
        counts = arrays.to_numpy(points.counts)
        found.insert(0, Fact("positions", " × ".join(map(str, points.shape))))
        if counts.size:
            text = f"median {np.median(counts):.0f}, {counts.min()} … {counts.max()}"
            found.insert(2, Fact("per position", text, f"none at {int((counts == 0).sum()):,}" if (counts == 0).any() else ""))
    return found


def _parts(result: Storable) -> list[Fact]:
    """Return a line for each part of a result that stores itself, short ones first."""
    found, warnings = [], []
    for name, value in result.to_parts().items():
        if name.startswith("_") or (isinstance(value, str | list | tuple | dict) and not len(value)):
            continue
        if name == "warnings" and not isinstance(value, str):
            warnings = [Fact("warning", str(line)) for line in value]
            continue
        layout = result.stored_as(name)
        unit = layout.unit if layout is not None and layout.unit != "1" else ""
        found.append(Fact(name.replace("_", " "), text_of(value, unit)))
    if len(found) > MOST:
        found = [*found[: MOST - 1], Fact("…", f"{len(found) - MOST + 1} more", ", ".join(fact.name for fact in found[MOST - 1 :]))]
    return found + warnings


def text_of(value: Any, unit: str = "") -> str:
    """Write a part of a result in one line. None is empty, which is shown as not known."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | complex | np.number):
        return _number(value, unit)
    if isinstance(value, Slice):
        return f"{' × '.join(map(str, value.shape))}, {_range(value.data, value.units)}"
    if arrays.is_array(value):
        return _array(value, unit)
    if isinstance(value, list | tuple):
        texts = [text_of(one, unit if one is value[-1] else "") for one in value[:FEW]]
        return ", ".join(texts) if len(value) <= FEW and sum(map(len, texts)) < 120 else f"{len(value)} of {type(value[0]).__name__}"
    if isinstance(value, Mapping):
        return ", ".join(map(str, value)) if len(value) <= FEW else f"{len(value)} entries"
    if dataclasses.is_dataclass(value) or not isinstance(value, str):
        return repr(value)
    return value


def _number(value: Any, unit: str) -> str:
    if unit == "rad":
        return f"{np.degrees(float(value)):.4g}°"
    text = f"{value:.5g}" if isinstance(value, float | complex | np.inexact) else f"{value:,}"
    return f"{text} {unit}".rstrip()


def _array(value: Any, unit: str) -> str:
    shape = tuple(value.shape)
    if int(np.prod(shape)) <= FEW and len(shape) <= 1:
        host = arrays.to_numpy(value)
        return f"({', '.join(f'{v:.5g}' for v in host)}) {unit}".rstrip() if len(shape) else _number(host[()], unit)
    return f"{' × '.join(map(str, shape))}, {_range(value, unit)}"


def _range(data: Any, unit: str) -> str:
    """Write the range of the finite values, and how many have none; the type alone for arrays that are large or on a device."""
    unit = "" if unit == "1" else unit
    host = data if isinstance(data, np.ndarray) else arrays.to_numpy(data) if int(np.prod(tuple(data.shape))) <= MUCH // 4 else None
    if host is None or host.size > MUCH:
        return f"{data.dtype} {f'in {unit}' if unit else ''}".rstrip()
    if host.dtype == bool:
        return f"{int(host.sum()):,} of {host.size:,} are True"
    if host.dtype.kind not in "iufc":
        return str(host.dtype)
    if host.dtype.kind == "c":
        host = np.abs(host)
        unit = f"{unit} (modulus)".strip()
    values = host[np.isfinite(host)]
    if not values.size:
        return "no finite values"
    missing = host.size - values.size
    text = f"{values.min():.4g} … {values.max():.4g} {unit}".rstrip()
    return text + (f", {missing:,} without a value" if missing else "")
