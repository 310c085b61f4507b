"""Tests of what every result must do: come back from a file as it was, and have names for its axes. Other packages can inherit them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.storable import Layout, Storable, known_classes
from gpu4d.io import read_emd, save
from gpu4d.io.formats.emd_results import PLAIN
from gpu4d.io.formats.emd_values import SMALL

SIZES = {"Rx": 3, "Ry": 4, "Qx": 6, "Qy": 5, "xy": 2, "hk": 2, "row": 2, "column": 2, "lab": 3, "crystal": 3}  # elements of axes
TYPES = ("f8", "f4", "i8", "u2", "c16", "?")  # of arrays whose annotation does not say it
WORDS = ("", "Å", "a/b", "two lines\nof text", "1 → 2")


class ResultTests:
    """Tests of one class of results, for pytest. A subclass gives a result.

    Examples
    --------
    >>> from gpu4d.rings import Ring
    >>> class TestRing(ResultTests):
    ...     def make(self):
    ...         return Ring(12.0, 1.5, 0.1)
    >>> TestRing().test_its_parts_make_it_again()
    """

    def make(self) -> Storable:
        """Return a result. By default one whose parts are filled at random (`filled`)."""
        raise NotImplementedError

    def test_its_parts_make_it_again(self) -> None:
        """Test that `from_parts` is the inverse of `to_parts`."""
        made = self.make()
        if not isinstance(made, PLAIN):
            assert differences(type(made).from_parts(made.to_parts()), made) == []

    def test_every_array_has_named_axes(self) -> None:
        """Test that every array of the result that is not small says what its axes are."""
        unnamed = [f"{part}{shape}" for part, shape in unnamed_arrays(self.make())]
        assert not unnamed, f"axes without names: {', '.join(unnamed)}; say them with stored="

    def test_it_comes_back_from_a_file(self, tmp_path: Path) -> None:
        """Test that a file gives back the class, the numbers, the units and the pixel sizes, whosever classes the file names."""
        made = self.make()
        for classes in ("py4DSTEM", "emdfile"):
            path = tmp_path / f"{classes}.h5"
            name = "calibration" if isinstance(made, Calibration) else "result"  # a file has one, under this name
            save(path, {name: made}, classes=classes)
            assert differences(read_emd(path)[name], made) == []


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Return where two results, or parts of them, differ: in type, values, units, axes or names.

    Examples
    --------
    >>> differences({"a": 1.0, "b": "x"}, {"a": 2.0, "b": "x"})
    ["['a']: 1.0 instead of 2.0"]
    """
    if arrays.is_array(expected):
        return _array_differences(found, arrays.to_numpy(expected), name)
    expected = expected.item() if isinstance(expected, np.generic) else expected
    if type(found) is not type(expected):
        return [f"{name}: a {type(found).__name__} instead of a {type(expected).__name__}"]
    if isinstance(expected, PLAIN):
        return differences(_contents(found), _contents(expected), name)
    if isinstance(expected, Storable):
        return differences(found.to_parts(), expected.to_parts(), name)
    if isinstance(expected, Mapping):
        if set(found) != set(expected):
            return [f"{name}: {sorted(map(str, found))} instead of {sorted(map(str, expected))}"]
        return [line for key, value in expected.items() for line in differences(found[key], value, f"{name}[{key!r}]")]
    if isinstance(expected, list | tuple):
        if len(found) != len(expected):
            return [f"{name}: {len(found)} instead of {len(expected)}"]
        return [line for i, value in enumerate(expected) for line in differences(found[i], value, f"{name}[{i}]")]
    same = found == expected or (found != found and expected != expected)
    return [] if same else [f"{name}: {found!r} instead of {expected!r}"]


def _array_differences(found: Any, expected: np.ndarray, name: str) -> list[str]:
    if not isinstance(found, np.ndarray) or found.shape != expected.shape:
        return [f"{name}: {np.shape(found)} {type(found).__name__} instead of {expected.shape}"]
    text = expected.dtype.kind == "U"
    if found.dtype != expected.dtype and not (text and found.dtype.kind == "U"):
        return [f"{name}: {found.dtype} instead of {expected.dtype}"]
    same = np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fc")
    return [] if same else [f"{name}: other values"]


def _contents(item: Any) -> dict[str, Any]:
    """Return everything that a slice, a scan or lists of points hold."""
    if isinstance(item, Slice):
        kept = ("name", "units", "pixel_size", "pixel_units", "labels")
        return {"data": arrays.to_numpy(item.data), **{key: getattr(item, key) for key in kept}}
    if isinstance(item, DataCube):
        return {"patterns": np.asarray(item), "calibration": item.calibration, "mask": item.detector_mask, "name": item.name}
    fields = {name: item.flat(name) if isinstance(item, PointListArray) else item[name] for name in item.fields}
    lists = {"offsets": item.offsets, "shape": item.shape} if isinstance(item, PointListArray) else {}
    return {**lists, "fields": fields, "order": item.fields, "units": item.units}


def unnamed_arrays(result: Storable) -> list[tuple[str, tuple[int, ...]]]:
    """Return the larger arrays of a result, and of results in it, whose axes have no names."""
    found: list[tuple[str, tuple[int, ...]]] = []
    for part, value in () if isinstance(result, PLAIN) else result.to_parts().items():
        stored = result.stored_as(part)
        for member in value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else [value]:
            if isinstance(member, Storable):
                found += [(f"{part}.{inner}", shape) for inner, shape in unnamed_arrays(member)]
            elif arrays.is_array(member) and member.dtype.kind != "U":
                axes = () if stored is None else stored.axes
                named = len(axes) >= len(member.shape) or axes[:1] in (("...",), ("*",))
                small = len(member.shape) == 0 or arrays.to_numpy(member).size <= SMALL
                found += [] if named or (small and not axes) else [(part, tuple(member.shape))]
    return found


# ---------------------------------------------------------------- a result of random parts


def filled(kind: type[Storable], seed: int = 0, **given: Any) -> Any:
    """Return a result of a class whose parts are random, as its annotations and its `stored` say.

    Parameters
    ----------
    kind : class
        A dataclass, a named tuple, or a class of slices, scans, lists of points or calibrations.
    seed : int
    **given
        Parts that are not filled, because the class does not take any value.

    Examples
    --------
    >>> from gpu4d.rings import Ring
    >>> isinstance(filled(Ring).radius, float)
    True
    """
    rng = np.random.default_rng([seed, *kind.__name__.encode()])
    if not dataclasses.is_dataclass(kind) and not hasattr(kind, "_fields"):
        return _value(kind.__name__, kind, kind.__module__, None, rng)
    made = {name: _filled(held, kind, kind.stored_as(name), rng) for name, held in _annotations(kind) if name not in given}
    for name, value in made.items():
        stored = kind.stored_as(name)
        if stored is not None and stored.axes == (name,):  # values along an axis grow
            made[name] = np.linspace(0.1, 2.0, len(value))
    return kind.from_parts({**made, **given})


def _annotations(kind: type) -> list[tuple[str, tuple[ast.expr, str]]]:
    """Return the parsed annotation of every field, and the module that its names belong to."""
    wanted = [f.name for f in dataclasses.fields(kind) if f.init] if dataclasses.is_dataclass(kind) else list(kind._fields)  # type: ignore[attr-defined]
    if hasattr(kind, "to_parts") and dataclasses.is_dataclass(kind):
        wanted = [name for name in wanted if name != "_details"]
    found = {}
    for base in reversed(kind.__mro__):
        for name, annotation in inspect.get_annotations(base).items():
            text = str(getattr(annotation, "__forward_arg__", annotation))
            found[name] = (ast.parse(text, mode="eval").body, base.__module__)
    return [(name, found[name]) for name in wanted]


def _filled(annotation: tuple[ast.expr, str], kind: type, stored: Layout | None, rng: np.random.Generator) -> Any:
    node, module = annotation
    fill = lambda part: _filled((part, module), kind, stored, rng)  # noqa: E731
    if isinstance(node, ast.BinOp):  # a union: its first member that is no None
        return fill(node.right if ast.unparse(node.left) == "None" else node.left)
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value)
        members = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "dict":
            keys = [True, False] if ast.unparse(members[0]) == "bool" else ["C10", "Cu-Zr"]
            return {key: fill(members[1]) for key in keys}
        if outer == "list" or (outer == "tuple" and ast.unparse(members[-1]) == "..."):
            held = [fill(members[0]) for _ in range(2)]
            return held if outer == "list" else tuple(held)
        assert outer == "tuple", f"{ast.unparse(node)} of {kind.__name__}"
        return tuple(fill(member) for member in members)
    return _value(ast.unparse(node), kind, module, stored, rng)


def _value(name: str, kind: type, module: str, stored: Layout | None, rng: np.random.Generator) -> Any:
    if name in ("np.ndarray", "ReturnedArray", "Array", "ArrayLike", "Any"):
        return random_array(stored or Layout(), rng)
    simple: dict[str, Any] = {
        "float": float(rng.choice([rng.normal(), np.nan, 1e30])),
        "int": int(rng.integers(-5, 1 << 40)),
        "bool": bool(rng.integers(2)),
        "str": str(rng.choice(WORDS)),
    }
    if name in simple:
        return simple[name]
    if name in ("RealSlice", "DiffractionSlice", "Slice"):
        made = {"RealSlice": RealSlice, "DiffractionSlice": DiffractionSlice}.get(name, Slice)
        stack = bool(rng.integers(2))
        data = rng.normal(size=(2, 3, 4) if stack else (3, 4))
        title = str(rng.choice(WORDS[1:]))  # without one it takes the name that it has in the file
        return made(data, title, "rad", float(rng.uniform(0.1, 9)), made.CALIBRATED, ("a", "b") if stack else ())
    if name == "Calibration":
        return Calibration(q_pixel=0.02, energy=200e3, origin=rng.normal(size=(3, 4, 2)), transpose=True, ellipse=(1.1, 1.0, 0.2))
    if name == "DataCube":
        mask = rng.random((6, 5)) > 0.2
        return DataCube(rng.integers(0, 9, (3, 4, 6, 5)).astype("u2"), Calibration(r_pixel=2.0), detector_mask=mask, name="of a test")
    if name == "PointList":
        return PointList({"x": rng.random(5), "n": np.arange(5), "f": rng.random(5).astype("f4")}, {"x": "Å"})
    if name == "PointListArray":
        fields = {"intensity": rng.random(24).astype("f4"), "qx": rng.random(24), "qy": rng.random(24), "order": rng.integers(0, 9, 24)}
        return PointListArray(np.arange(0, 26, 2)[:13], fields, (3, 4), {"qx": "px"})
    here = getattr(sys.modules[module], name, None)
    if here is not None and not inspect.isclass(here):  # another name of a type
        return _filled((ast.parse(str(here), mode="eval").body, module), kind, stored, rng)
    other = here if inspect.isclass(here) else next((c for n, c in known_classes().items() if n.endswith(f".{name}")), None)
    assert other is not None and issubclass(other, Storable), f"{kind.__name__} holds a {name}, which is no result"
    return filled(other, int(rng.integers(1 << 30)))


def random_array(stored: Layout, rng: np.random.Generator) -> np.ndarray:
    """Return a random array with the axes of a part, of a random type. NaN among its values if the type has it."""
    axes = stored.axes
    if axes[:1] in (("...",), ("*",)):
        axes = ("Rx", "Ry", *axes[1:])
    shape = tuple(SIZES.get(axis, 2 + sum(axis.encode()) % 4) for axis in axes) if stored.axes else (2, 2)
    values = rng.normal(size=shape) * 10
    values.flat[0] = np.nan if values.size > 1 else 1.0
    kind = np.dtype(str(rng.choice(TYPES)))
    return (np.nan_to_num(values) if kind.kind in "iu?" else values + 1j * values if kind.kind == "c" else values).astype(kind)
