"""Attributes of HDF5 groups and datasets, as they are. Text is read when it is asked for, because damaged text can stop HDF5 for ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.sources import hdf5_text
from gpu4d.io.sources.hdf5_file import open_file, reading
from gpu4d.io.sources.links import follow, names
from gpu4d.io.units import log

MOST_NODES = 4000  # groups and datasets whose attributes are looked at: some 0.2 ms each
DEEPEST = 40  # groups inside each other
IN_PLACE = (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)  # kinds of values that lie in the attribute itself


class Attributes(Mapping[str, Any]):
    """Attributes of one group or dataset.

    Numbers and text of fixed length are read at once. Text of any length lies elsewhere in the file, and is read when it is asked for.
    An attribute that cannot be read is None.

    Parameters
    ----------
    node : h5py.Group or h5py.Dataset
    file, path : str
        Where it is found again.
    """

    def __init__(self, node: h5py.Group | h5py.Dataset, file: str, path: str):
        self._file, self._path = file, path
        self._names = [_text(name) for name in node.attrs]
        self._read = {name: _value(node, name) for name in self._names if _lies_in_place(node, name)}

    def __getitem__(self, name: str) -> Any:
        if name in self._names and name not in self._read:
            with open_file(self._file) as file, reading(self._file, f"the attribute {name} of {self._path}"):
                self._read[name] = _value(follow(file, self._path), name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __repr__(self) -> str:
        return f"Attributes({', '.join(self._names)})"


def attributes_above(file: h5py.File, path: str) -> dict[str, Attributes]:
    """Return the attributes of all groups from the root of a file down to a dataset, by their paths. Those without any are left out."""
    parts = path.strip("/").split("/")
    paths = ["/", *("/" + "/".join(parts[: n + 1]) for n in range(len(parts)))]
    found = {path: Attributes(follow(file, path), file.filename, path) for path in paths}
    return {path: attributes for path, attributes in found.items() if attributes}


def attributes_below(file: h5py.File, path: str) -> dict[str, Attributes]:
    """Return the attributes of a group and of all groups and datasets in it, by their paths. Those without any are left out.

    Links are not followed. Of more than `MOST_NODES` groups and datasets, the first ones are looked at, with a warning.
    """
    found: dict[str, Attributes] = {}
    waiting, seen = [path], 0
    while waiting and seen < MOST_NODES:
        place = waiting.pop()
        seen += 1
        try:
            node = follow(file, place)
            attributes = Attributes(node, file.filename, place)
            inside = [] if not isinstance(node, h5py.Group) else [name for name in names(node) if _is_hard(node, name)]
        except FOREIGN as error:
            log.info("%s: what is in %s is left out: %s", shown(file.filename), shown(place), reason(error))
            continue
        if attributes:
            found[place] = attributes
        waiting += [f"{place}/{name}" for name in reversed(inside[:MOST_NODES])] if place.count("/") < DEEPEST else []
    if waiting:
        log.warning("%s: %s holds more than %d groups and datasets: the rest is left out", shown(file.filename), shown(path), MOST_NODES)
    return found


def _is_hard(group: h5py.Group, name: str) -> bool:
    return group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type == h5py.h5l.TYPE_HARD


def _lies_in_place(node: Any, name: str) -> bool:
    try:
        kind = node.attrs.get_id(name).get_type()
    except FOREIGN:
        return True  # it is read at once, as None
    return kind.get_class() in IN_PLACE or (isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str())


def _value(node: Any, name: str) -> Any:
    try:
        value = hdf5_text.attribute(node, name)
    except FOREIGN:
        return None
    return _text(value) if isinstance(value, bytes | np.bytes_) else value


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value
