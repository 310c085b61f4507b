"""Open LiberTEM's raw_csr: events in three files of plain numbers, and a TOML file that names them and states the shapes.

The three are the offsets of every position (`indptr`), and the pixel and the value of every event (`indices`, `data`): the parts of a
sparse matrix of positions × pixels, row by row.
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.events import largest
from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason, shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import check_inside, refuse_dataset, stem
from gpu4d.io.sources.event_file import Column, FileEventSource
from gpu4d.io.sources.layout import decide_scan_shape

MARK = re.compile(rb"filetype\s*=\s*[\"']raw_csr[\"']", re.IGNORECASE)
MOST_BYTES = 1 << 20  # of the TOML file; real ones have some hundred
MOST_PIXELS = 1 << 31  # of a detector


class RawCsr(Format):
    """raw_csr of LiberTEM. The TOML file is given."""

    name: ClassVar = "raw_csr"
    accepts: ClassVar = "raw_csr (.toml)"
    facts: ClassVar = Facts(
        endings=(".toml",),
        reading="events",
        covers="events with whole numbers as values, of any integer types and byte orders. Not: values that are no whole numbers",
        tried_on="files made from the description, which LiberTEM reads alike",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return MARK.search(head) is not None and b"\0" not in head

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a raw_csr file")
        said = _toml(path)
        params, section = said.get("params"), _section(said)
        nav, detector = _shape(params, "nav_shape", path), _shape(params, "sig_shape", path)
        if detector is None or len(detector) != 2 or math.prod(detector) > MOST_PIXELS:
            raise InputError(f"{shown(path)}: sig_shape is {shown(str(detector))}: need the two sizes of the detector")
        columns = {name: _column(section, name, path) for name in ("indptr", "indices", "data")}
        if columns["indices"].size != columns["data"].size:
            raise InputError(
                f"{shown(path)}: {columns['indices'].size} indices and {columns['data'].size} values: a file is truncated, copy them again"
            )
        offsets = _offsets(columns["indptr"], columns["indices"].size, path)
        stated = (nav[0], nav[1]) if nav is not None and len(nav) == 2 else (1, math.prod(nav)) if nav else None
        scan = decide_scan_shape(options.scan_shape, stated, len(offsets) - 1, shown(path))
        dtype = columns["data"].dtype.newbyteorder("=")
        try:
            largest(dtype)
            source = FileEventSource(offsets, columns["indices"], columns["data"], (*scan, *detector), dtype)
        except FOREIGN as error:
            raise InputError(f"{shown(path)}: its events cannot be read ({reason(error)})") from error
        return Opened(source, metadata={"toml": said}, name=stem(path))


def _toml(path: str) -> dict[str, Any]:
    """Read the TOML file."""
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise InputError(f"{shown(path)}: the TOML file is larger than {MOST_BYTES >> 20} MiB: no description is so long")
        return tomllib.loads(data.decode())
    except (*FOREIGN, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown(path)}: no readable TOML ({reason(error)}): it is damaged, copy it again") from error


def _section(said: dict[str, Any]) -> dict[str, Any]:
    """Return the section that names the files, whose name may be written in capitals."""
    found = next((value for key, value in said.items() if key.lower() == "raw_csr"), None)
    return found if isinstance(found, dict) else {}


def _shape(params: Any, name: str, path: str) -> tuple[int, ...] | None:
    """Return a shape of the section [params]; None if it is not there."""
    value = params.get(name) if isinstance(params, dict) else None
    if value is None:
        return None
    if not isinstance(value, list) or not value or len(value) > 4 or not all(type(n) is int and 1 <= n < 1 << 40 for n in value):
        raise InputError(f"{shown(path)}: {name} is {shown(str(value)[:80])}: need a list of whole numbers of at least 1")
    return tuple(value)


def _column(section: dict[str, Any], name: str, path: str) -> Column:
    """Return one of the three files of numbers. It must lie in the folder of the TOML file, or below."""
    file, text = section.get(f"{name}_file"), section.get(f"{name}_dtype")
    if not isinstance(file, str) or not file or "\0" in file or not isinstance(text, str):
        raise InputError(
            f"{shown(path)}: its section [raw_csr] has no {name}_file and {name}_dtype: they name a file and the type of its numbers"
        )
    inside = os.path.normpath(file.replace("\\", "/"))
    if os.path.isabs(inside) or inside.split("/")[0] == ".." or re.match(r"[A-Za-z]:", inside):
        raise InputError(f"{shown(path)}: {name}_file is {shown(file)}: accepted are files in the folder of the TOML file, or below")
    found = os.path.join(os.path.dirname(path), inside)
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        dtype = np.dtype(object)
    if dtype.kind not in "iu" or dtype.shape:
        raise InputError(f"{shown(path)}: {name}_dtype is {shown(text[:80])}: accepted are whole numbers of up to 64 bits, as <i4")
    if not os.path.isfile(found):
        raise InputError(f"{shown(path)}: {shown(inside)}, its file of {name}, is not there: copy it too")
    check_inside(found, path)
    size, rest = divmod(os.path.getsize(found), dtype.itemsize)
    if rest:
        raise InputError(f"{shown(found)}: {rest} bytes behind {size} numbers of type {dtype}: it is truncated, or of another type")
    return Column(found, os.path.basename(found), dtype, size, 0)


def _offsets(column: Column, events: int, path: str) -> np.ndarray:
    """Return the offsets of all positions."""
    if column.size < 2:
        raise InputError(f"{shown(path)}: {column.size} offsets: need one more than positions: the file is truncated, copy it again")
    found = column.read(0, column.size)
    if found.dtype.kind == "u" and int(found.max()) >= 1 << 62:
        raise InputError(
            f"{shown(path)}: offsets run up to {int(found.max())}, there are {events} events: the file is damaged, copy it again"
        )
    found = found.astype(np.int64)
    if found[0] != 0 or found[-1] != events or (np.diff(found) < 0).any():
        raise InputError(
            f"{shown(path)}: offsets run from {found[0]} to {found[-1]} over {events} events, or fall: a file is damaged or cut"
        )
    return found
