"""What programs and detectors that write HDF5 have in common: one look at a file says whose it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import h5py

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import Source
from gpu4d.io.foreign import FOREIGN, shown
from gpu4d.io.format import Format, Opened, OpenOptions
from gpu4d.io.formats import emd, known_formats
from gpu4d.io.formats.attributes import attributes_above
from gpu4d.io.formats.choose_dataset import choose, value_type
from gpu4d.io.sources import hdf5_text
from gpu4d.io.sources.hdf5_dataset import files_of, source_of
from gpu4d.io.sources.hdf5_file import open_file, opening, reading
from gpu4d.io.sources.layout import is_usable
from gpu4d.io.sources.links import dataset_at
from gpu4d.io.units import log

SIGNATURE = b"\x89HDF\r\n\x1a\n"
USER_BLOCK = 512  # bytes of the smallest user block; HDF5's signature is at byte 0 or at 1, 2, 4, … times this
SHORT_TEXT = 4096  # bytes: longer attributes and values are no marks, units or names
MOST_ENTRIES = 20_000  # values and groups of metadata that are read
SMALL_VALUE = 1 << 20  # bytes: larger arrays among the metadata are left where they are; only their names are told
OTHERS = 3  # other files with the patterns of a scan that its description names
NAMED = 8  # values left out that a line in the log names
MOST_BYTES = 64 << 20  # bytes of metadata that are read: opening must not load a scan


class _Look(threading.local):
    """The last look of a thread at a file. The same head means the same look: `gpu4d.open` asks every format about one."""

    head: bytes | None = None
    path = ""
    writer: type[Format] | None = None


_look = _Look()


class Hdf5Dialect(Format):
    """The base of formats that are HDF5. The file is opened once, and asked for the marks of all of them."""

    def claims(self, file: h5py.File) -> bool:
        """Say whether a file is of this dialect, by names in it. Nothing large is read."""
        raise NotImplementedError

    def open_file(self, file: h5py.File, path: str, options: OpenOptions) -> Opened:
        """Open the scan of a file."""
        raise NotImplementedError

    def recognise(self, path: str, head: bytes) -> bool:
        return writer_of(path, head) is type(self)

    def open(self, path: str, options: OpenOptions) -> Opened:
        with opening(path), open_file(path) as file:
            return self.open_file(file, path, options)


def writer_of(path: str, head: bytes) -> type[Format] | None:
    """Return the dialect that claims an HDF5 file: `Format` itself for HDF5 of any other program, None for a file that is no HDF5."""
    if _look.head is head and _look.path == path and head:
        return _look.writer
    writer = _claimant(path) if has_signature(path) else None
    _look.head, _look.path, _look.writer = head, path, writer
    return writer


def _claimant(path: str) -> type[Format]:
    try:
        with open_file(path) as file:
            for known in known_formats():
                if isinstance(known, Hdf5Dialect) and _claims(known, file):
                    return type(known)
    except (*FOREIGN, MemoryError):
        pass  # opening it says what is wrong
    return Format


def _claims(known: Hdf5Dialect, file: h5py.File) -> bool:
    """Say whether a dialect claims a file. What one cannot read must not hide the file from the others."""
    try:
        return known.claims(file)
    except (*FOREIGN, MemoryError):
        return False


def has_signature(path: str) -> bool:
    """Say whether a file is HDF5, also behind a user block."""
    with open(path, "rb") as file:
        size, at = file.seek(0, 2), 0
        while at < size:
            file.seek(at)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            at = max(USER_BLOCK, 2 * at)
    return False


def has(node: Any, *path: str) -> bool:
    """Say whether names lead to something in a file, step by step, without following links into other files."""
    for name in path:
        key = name.encode("utf-8", "surrogateescape")
        if not isinstance(node, h5py.Group) or not node.id.links.exists(key):
            return False
        if node.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            return False
        node = node[key]
    return True


def short_text(node: Any, key: str) -> str:
    """Return a text attribute; "" if there is none, or if it is long or no text."""
    value = attribute(node, key)
    return emd.text(value) if isinstance(value, str | bytes) else ""


def attribute(node: Any, key: str) -> Any:
    """Return an attribute; None if there is none, or if it is longer than a name, a unit or a number."""
    try:
        if key not in node.attrs or node.attrs.get_id(key).get_storage_size() > SHORT_TEXT:
            return None
        return hdf5_text.attribute(node, key)
    except FOREIGN:
        return None


def number(value: Any) -> float | None:
    """Return a positive number that a file holds as a number, an array of one, or text; None for anything else."""
    try:
        found = float(value.reshape(()) if hasattr(value, "reshape") else value)
    except FOREIGN:
        return None
    return found if 0 < found < float("inf") else None


def chosen_scan(file: h5py.File, candidates: Sequence[str], options: OpenOptions) -> tuple[str, h5py.Dataset]:
    """Return the dataset that is asked for, or the only one of some that can be the scan. Else the error lists those of the file.

    Parameters
    ----------
    file : h5py.File
    candidates : sequence of str
        Paths where this dialect keeps scans.
    options : OpenOptions
    """
    if options.dataset is None:
        found = {path: dataset for path in candidates if (dataset := dataset_at(file, path)) is not None}
        scans = {path: dataset for path, dataset in found.items() if can_be_scan(dataset)}
        if len(scans) == 1:
            return next(iter(scans.items()))
    return choose(file, options.dataset, options.scan_shape)


def can_be_scan(dataset: h5py.Dataset) -> bool:
    """Say whether a dataset has three or four axes of real numbers."""
    dtype = value_type(dataset)
    return dataset.shape is not None and dataset.ndim in (3, 4) and 0 not in dataset.shape and dtype is not None and is_usable(dtype)


def described_scan(
    file: h5py.File, path: str, options: OpenOptions, found: tuple[str, h5py.Dataset], axes: Sequence[emd.Axis], stated: Calibration
) -> Opened:
    """Open a dataset (Rx, Ry, Qx, Qy) or (frames, Qx, Qy), with the attributes above it as metadata.

    Parameters
    ----------
    file, path : h5py.File, str
    options : OpenOptions
    found : (str, h5py.Dataset)
        Path of the dataset, and the dataset.
    axes : sequence of (str, str, float or None)
        Name, units and step of every axis of the dataset, as the dialect describes them.
    stated : Calibration
        What the file states beside the axes. Steps of the axes are added to it.
    """
    name, dataset = found
    with reading(path, name):
        source = source_of(file, name, dataset, options.scan_shape)
        name_other_files(source, dataset, path)
    if len(axes) == dataset.ndim and dataset.ndim in (3, 4):  # an axis that counts frames says nothing of the scan
        four = list(axes) if dataset.ndim == 4 and source.shape == dataset.shape else [("", "", None), ("", "", None), *axes[-2:]]
        emd.from_axes(stated, four, stated.energy or options.energy)
    return Opened(source, stated, {"attributes": attributes_above(file, name)}, emd.cube_name(path, name))


def name_other_files(source: Source, dataset: h5py.Dataset, path: str) -> None:
    """Add the files that the patterns lie in to the description of a source: a reader must see what a file makes a scan of."""
    others = [other for other in files_of(dataset) if os.path.realpath(other) != os.path.realpath(path)]
    if others:
        more = f" and {len(others) - OTHERS} more files" if len(others) > OTHERS else ""
        source.description += f", in {', '.join(map(shown, others[:OTHERS]))}{more}"


def values_below(group: h5py.Group, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """Read the small values in a group and the groups in it, by names. Links into other files are not followed.

    Larger arrays, and what cannot be read, are left out with a line in the log. `wanted` are names in the group, by default all.
    """
    values = _Values()
    found = values.read(group, (), 0, emd.names(group) if wanted is None else [name for name in wanted if has(group, name)])
    if values.missed:
        names = ", ".join(map(shown, values.missed[:NAMED])) + ", …" * (len(values.missed) > NAMED)
        log.info("%s: not among the metadata, because large or damaged: %s", shown(group.file.filename), names)
    return found


class _Values:
    """Reads values until there are too many of them."""

    def __init__(self) -> None:
        self.entries, self.bytes = MOST_ENTRIES, MOST_BYTES
        self.missed: list[str] = []

    def read(self, group: h5py.Group, above: tuple[int, ...], depth: int, names: Sequence[str]) -> dict[str, Any]:
        """Return the values in a group. Groups that it lies in itself are not entered again."""
        found: dict[str, Any] = {}
        for name in names:
            self.entries -= 1
            try:
                link = group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type
                node = None if self.entries < 0 or link == h5py.h5l.TYPE_EXTERNAL else emd.follow(group, name)
                if isinstance(node, h5py.Group) and hash(node) not in above and depth < emd.DEEPEST:
                    found[name] = self.read(node, (*above, hash(group)), depth + 1, emd.names(node))
                elif isinstance(node, h5py.Dataset) and node.shape is not None and node.nbytes <= min(SMALL_VALUE, self.bytes):
                    self.bytes -= node.nbytes
                    found[name] = plain_value(hdf5_text.value(node))
                else:
                    self.missed.append(name)
            except (*FOREIGN, MemoryError):
                self.missed.append(name)
        return found


def plain_value(value: Any) -> Any:
    """Return a value of a file as Python has it: text as str, one number as int or float, arrays as they are."""
    if getattr(value, "shape", None) == (1,):
        value = value[0]
    if isinstance(value, bytes):  # NumPy's text is bytes, too
        return value.decode("utf-8", errors="replace")
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
