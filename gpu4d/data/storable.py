"""What all results share: they are saved, read back as what they were, and given to other libraries.

A result says what it is made of (`to_parts`) and is made from that again (`from_parts`). Dataclasses and named tuples need no more than
the base class `Storable`. Files name a class by its room, as "gpu4d.crystal.Strain", so that reading one imports this room alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from gpu4d.errors import InputError

if TYPE_CHECKING:
    from hyperspy.signal import BaseSignal
    from xarray import DataArray, Dataset

PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".pdf", ".tif", ".tiff")  # endings of names of pictures
PACKAGE = __name__.partition(".")[0]
NO_ROOMS = ("kernels", "cpu_fallback", "benchmarks", "testing")  # no results there: a file has no reason to name them
# What saves and converts lies in rooms above this one, and in optional libraries: module:function, imported when it is called.
METHODS = {
    "file": "gpu4d.io.saving:save_result",
    "picture": "gpu4d.plot.slice_files:save_slice",
    "xarray": "gpu4d.interop._to_xarray:to_xarray",
    "hyperspy": "gpu4d.interop._to_hyperspy:to_hyperspy",
    "html": "gpu4d.notebook.card:card",
}

_classes: dict[str, type[Storable]] = {}  # by the names in files


Part = Any  # of a result: an array, a slice, a number, a text, another result, or a list or dictionary of these


class Layout(NamedTuple):
    """How one part of a result is described in files: the names of its axes, and its unit. "..." are the axes of what was given."""

    axes: tuple[str, ...] = ()
    unit: str = ""

    def names(self, ndim: int, name: str) -> tuple[str, ...]:
        """Return one name for each axis of the part `name`.

        Examples
        --------
        >>> Layout(("Rx", "Ry", "xy")).names(1, "origin"), Layout(("...", "r")).names(2, "reduced"), Layout(("*",)).names(1, "truth")
        (('xy',), ('group', 'r'), ('truth_0',))
        """
        axes = self.axes
        if axes[:1] == ("...",):
            leading = max(ndim - len(axes) + 1, 0)
            axes = ({1: ("group",), 2: ("Rx", "Ry")}.get(leading, tuple(f"group_{i}" for i in range(leading)))) + axes[1:]
        if len(axes) < ndim or axes == ("*",):
            return tuple(f"{name}_{i}" for i in range(ndim))
        return axes[len(axes) - ndim :]


class Storable:
    """Base class of results: `save`, `to_xarray`, `to_hyperspy`, and how notebooks show them.

    A dataclass or named tuple is stored field by field. Other classes write `to_parts` and `from_parts` themselves.

    Parameters
    ----------
    stored : str, as keyword of the class
        Axes and units of parts: ``"measured fitted: Rx Ry xy [px]; error: [px]"``. Arrays with axes become arrays of the file. Other
        arrays are small, and become metadata. "..." are the leading axes of what was given, "*" any axes.
    room : str, as keyword of the class
        Room whose import brings the class, if it is not the one that the class is written in.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass
    ... class Profile(Storable, stored="counts: radius; radius: radius [px]; width: [px]"):
    ...     radius: np.ndarray
    ...     counts: np.ndarray
    ...     width: float
    >>> Profile.stored_as("counts").axes, Profile.stored_as("width").unit
    (('radius',), 'px')
    """

    __slots__ = ()
    _stored: ClassVar[Mapping[str, Layout]] = {}
    _stored_name: ClassVar[str] = ""

    def __init_subclass__(cls, stored: str = "", room: str = "", **options: Any):
        super().__init_subclass__(**options)
        cls._stored = {**cls._stored, **dict(_described(stored))}
        parts = cls.__module__.split(".")
        ours = parts[0] == PACKAGE and len(parts) > 1
        cls._stored_name = ".".join((PACKAGE, room or parts[1], cls.__name__) if ours else (cls.__module__, cls.__qualname__))
        _classes[cls._stored_name] = cls

    @classmethod
    def stored_name(cls) -> str:
        """Return the name by which files know this class."""
        return cls._stored_name

    @classmethod
    def stored_as(cls, part: str) -> Layout | None:
        """Return the axes and the unit of a part. None if nothing is said of it."""
        return cls._stored.get(part)

    def to_parts(self) -> dict[str, Part]:
        """Return what the result is made of, by names: arrays, slices, numbers, texts, results, and lists and dictionaries of these."""
        if dataclasses.is_dataclass(self):
            return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.init}
        fields: tuple[str, ...] | None = getattr(self, "_fields", None)
        if fields is None or not isinstance(self, tuple):
            raise InputError(f"{type(self).__name__} is neither a dataclass nor a named tuple: it needs to_parts() to be saved")
        return {name: getattr(self, name) for name in fields}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Part]) -> Self:
        """Make a result of its parts, as `to_parts` gave them."""
        return cls(**parts)

    def save(self, path: str | os.PathLike[str], *, name: str = "", overwrite: bool = False) -> None:
        """Write the result into a file of its own: EMD 1.0, or a picture if the name of the file ends as one.

        Parameters
        ----------
        path : str or path
            `gpu4d.io.read_emd` reads EMD files back. A slice is also written as .png and .svg, pictures with a scale bar, and as
            .tif, its values as float32 with the size of a pixel, for ImageJ.
        name : str
            Name of the result in the file. By default that of the slice, or of the class.
        overwrite : bool
            Replace an existing file.

        Raises
        ------
        InputError
            The file exists or cannot be written, or the result is no picture.
        """
        ending = os.path.splitext(os.fspath(path))[1].lower() if isinstance(path, str | os.PathLike) else ""
        call("picture" if ending in PICTURES else "file")(self, path, name=name, overwrite=overwrite)

    def to_xarray(self) -> Dataset | DataArray:
        """Return the result with named axes, for xarray: a DataArray for a slice or a scan, else a Dataset.

        Coordinates are in real units where pixel sizes are known. Numbers and texts are attributes. Patterns of a scan are read when they
        are needed, if Dask is installed; without it they are loaded. It needs the extra `interop`.

        Raises
        ------
        InputError
            xarray is not installed.
        """
        return call("xarray")(self)

    def to_hyperspy(self) -> BaseSignal | dict[str, BaseSignal]:
        """Return the result as a signal of HyperSpy, or a dictionary of them by name if it has several parts.

        Axes have names, sizes and units. A scan becomes a lazy signal. HyperSpy (GPL) must be installed beside gpu4d.

        Raises
        ------
        InputError
            HyperSpy is not installed, or the result has no arrays.
        """
        return call("hyperspy")(self)

    def _repr_html_(self) -> str | None:
        """Return a table of facts with a small picture, for notebooks. None, after which they show the text, if that fails."""
        return call("html")(self)


def call(method: str) -> Any:
    """Return the function that does the work of a method of `Storable`."""
    module, _, name = METHODS[method].partition(":")
    return getattr(importlib.import_module(module), name)


def class_named(name: str) -> type[Storable]:
    """Return the class that a file names. Of gpu4d's own its room is imported; others must have been imported before.

    Raises
    ------
    InputError
        There is no such class.
    """
    room = re.fullmatch(rf"{PACKAGE}\.([a-z]\w*)\.\w+", name)
    if name not in _classes and room is not None and room[1] not in NO_ROOMS:
        from importlib.util import find_spec  # importing gpu4d is cheap: only files that name a class need it

        spec = find_spec(f"{PACKAGE}.{room[1]}")
        if spec is not None and spec.submodule_search_locations is not None:
            getattr(importlib.import_module(f"{PACKAGE}.{room[1]}"), name.rpartition(".")[2], None)  # a room may import it only now
    if name not in _classes:
        what = (
            f"read it with the version of {PACKAGE} that wrote it" if room else f"import {name.rpartition('.')[0] or 'its package'} first"
        )
        raise InputError(f"the file has a result of the class {name!r}, which is not known here: {what}")
    return _classes[name]


def known_classes() -> dict[str, type[Storable]]:
    """Return all classes of results of the rooms that were imported, by the names in files."""
    return dict(_classes)


def _described(text: str) -> list[tuple[str, Layout]]:
    """Read "measured fitted: Rx Ry xy [px]; error: [px]"."""
    found = []
    for clause in filter(None, map(str.strip, text.split(";"))):
        names, _, what = clause.partition(":")
        axes, _, unit = what.partition("[")
        stored = Layout(tuple(axes.split()), unit.strip().removesuffix("]"))
        found += [(name, stored) for name in names.split()]
    return found
