"""Write results as EMD 1.0 nodes, and make them again: a group for the result, arrays and slices in it, the rest as metadata.

The group names the class in `RESULT`. Its metadata `parts` have numbers, texts and small arrays, and `units` their units. Each group in it
that has the attribute `PART` is one more part; others are for programs that know no classes of gpu4d, and are not read back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import h5py

from gpu4d import arrays
from gpu4d.data.datacube import DataCube
from gpu4d.data.named_axes import Axis, array_axes, known_axes
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import Slice
from gpu4d.data.storable import Layout, Storable, class_named
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.formats.emd import label, read_metadata
from gpu4d.io.formats.emd_nodes import node, write_axes, write_metadata
from gpu4d.io.formats.emd_values import decoded, encoded, is_small
from gpu4d.io.sources.links import dataset_at, group_at, names, path_of

RESULT = "gpu4d_result"  # attribute: the class of a result
CONTAINER = "gpu4d_container"  # attribute: tuple, list or dict
PART = "gpu4d_part"  # attribute: name of the part that a group is
ARRAY = "gpu4d_array"  # attribute, 1: an array without a name of its own
DEEPEST = 32  # groups inside each other
PLAIN = (Slice, DataCube, PointListArray, PointList)  # have nodes of their own kind

WriteItem = Callable[[h5py.Group, str, Any], None]
ReadItem = Callable[[h5py.Group], Any]


def write_result(parent: h5py.Group, name: str, result: Storable, write_item: WriteItem, around: dict[str, Axis] | None = None) -> None:
    """Write a result as a group.

    Parameters
    ----------
    parent : h5py.Group
    name : str
    result : Storable
        If it has a method ``to_emd``, the item "" of that is what other programs see under the name of the result, and the other items
        stand beside the parts.
    write_item : callable
        Writes what has a node of its own kind: slices, lists of points, scans.
    around : dict of str to Axis, optional
        Axes of the result that this one is a part of.
    """
    shown_items: dict[str, Any] = dict(result.to_emd()) if hasattr(result, "to_emd") else {}
    main = shown_items.pop("", None)
    if main is None:
        node(parent, name, "node", "Node")
    else:
        write_item(parent, name, main)
    group = parent[name]
    group.attrs[RESULT] = result.stored_name()
    parts = result.to_parts()
    stored = {part: result.stored_as(part) for part in parts}
    _write_parts(group, parts, stored, {**(around or {}), **known_axes(result)}, write_item)
    for key, item in shown_items.items():
        if key not in group:
            write_item(group, key, item)


def _write_parts(
    group: h5py.Group, parts: Mapping[str, Any], stored: Mapping[str, Layout | None], known: dict[str, Axis], write_item: WriteItem
) -> None:
    entries: dict[str, Any] = {}
    for part, value in parts.items():
        if not _has_arrays(value, stored[part]):
            entries[part] = encoded(value, part)
            continue
        name = part.replace("/", "_").replace(".", "_") or "_"
        while name in group or name == "metadatabundle":
            name += "_"
        _write_node(group, name, value, stored[part], known, write_item)
        group[name].attrs[PART] = part
    if entries:
        write_metadata(group, "parts", entries)
    units = {part: how.unit for part, how in stored.items() if how is not None and how.unit and part in entries}
    if units:
        write_metadata(group, "units", units)


def _write_node(group: h5py.Group, name: str, value: Any, stored: Layout | None, known: dict[str, Axis], write_item: WriteItem) -> None:
    if isinstance(value, PLAIN):
        write_item(group, name, value)
    elif isinstance(value, Storable):
        write_result(group, name, value, write_item, known)
    elif arrays.is_array(value):
        values = arrays.to_numpy(value)
        made = write_axes(group, name, values, array_axes(values, name, stored, known), "" if stored is None else stored.unit)
        made.attrs[ARRAY] = 1
    else:
        members = value if isinstance(value, Mapping) else {str(i): held for i, held in enumerate(value)}
        if not all(isinstance(key, str) for key in members):
            raise InputError(f"{name!r} is a dictionary of arrays with keys that are no texts, which cannot be saved")
        made = node(group, name, "node", "Node")
        made.attrs[CONTAINER] = "dict" if isinstance(value, Mapping) else "list" if isinstance(value, list) else "tuple"
        _write_parts(made, members, dict.fromkeys(members, stored), known, write_item)


def _has_arrays(value: Any, stored: Layout | None) -> bool:
    """Say whether a part needs a group: it is, or has in it, something that is no metadata."""
    if isinstance(value, PLAIN):
        return True
    if isinstance(value, Storable):
        return any(_has_arrays(held, value.stored_as(part)) for part, held in value.to_parts().items())
    if arrays.is_array(value):
        values = arrays.to_numpy(value)
        described = stored is not None and bool(stored.axes) and values.ndim > 0 and values.size > 0 and values.dtype.kind in "biufc"
        return described or not is_small(values)
    if isinstance(value, Mapping):
        return any(_has_arrays(held, stored) for held in value.values())
    return isinstance(value, tuple | list) and any(_has_arrays(held, stored) for held in value)


# ---------------------------------------------------------------- reading


def is_result(group: h5py.Group) -> bool:
    """Say whether a group is a result that gpu4d wrote."""
    return bool(label(group, RESULT))


def read_result(group: h5py.Group, read_item: ReadItem) -> Any:
    """Make a result again.

    Parameters
    ----------
    group : h5py.Group
        `is_result` says that it is one.
    read_item : callable
        Reads what has a node of its own kind.

    Raises
    ------
    InputError
        Its class is not known, or it lies in itself. A damaged group may raise any error of `gpu4d.io.foreign.FOREIGN`.
    """
    return _Reader(read_item).result(group)


class _Reader:
    """Reads the parts of one result. A group that several names lead to is read once: more than once it would be without end."""

    def __init__(self, read_item: ReadItem):
        self.read_item = read_item
        self.seen: set[int] = set()

    def result(self, group: h5py.Group) -> Any:
        return class_named(label(group, RESULT)).from_parts(self.parts(group))

    def parts(self, group: h5py.Group) -> dict[str, Any]:
        if hash(group) in self.seen or path_of(group).count("/") > DEEPEST:
            raise InputError(f"{shown(path_of(group))}: results inside themselves, or too deep")
        self.seen.add(hash(group))
        held = group_at(group, "metadatabundle/parts")
        parts: dict[str, Any] = {} if held is None else {key: decoded(value) for key, value in read_metadata(held).items()}
        for name in names(group):
            child = group_at(group, name)
            part = "" if child is None else label(child, PART)
            if child is not None and part:
                parts[part] = self.part(child)
        return parts

    def part(self, child: h5py.Group) -> Any:
        if is_result(child):
            return self.result(child)
        kind = label(child, CONTAINER)
        if kind:
            parts = self.parts(child)
            members = parts if kind == "dict" else [parts[str(i)] for i in range(len(parts))]
            return tuple(members) if kind == "tuple" else members
        if ARRAY in child.attrs:
            data = dataset_at(child, "data")
            if data is None:
                raise InputError(f"{shown(path_of(child))}: an array without values")
            return data[()]
        return self.read_item(child)
