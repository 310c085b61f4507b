"""Open raw files that `gpu4d convert` wrote: values alone, and a file NAME.json beside them that says what they are."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats import carried
from gpu4d.io.formats.records import refuse_dataset
from gpu4d.io.sources.layout import ACCEPTED, check_scan_shape, is_usable
from gpu4d.io.sources.mapped import MappedSource

MOST_VALUES = 1 << 60  # of a scan: no computer addresses more


class Described(Format):
    """Raw values with a description beside them."""

    name: ClassVar = "described"
    accepts: ClassVar = "raw files of gpu4d convert"
    facts: ClassVar = Facts(
        endings=(".raw",),
        reading="mapped",
        covers="raw files that `gpu4d convert` wrote, with NAME.json beside them",
        tried_on="files of gpu4d",
        writes=True,
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return carried.beside(path) is not None

    def open(self, path: str, options: OpenOptions) -> Opened:
        where, known = shown(path), carried.beside(path) or {}
        refuse_dataset(options, path, "a raw file")
        shape = known.get("shape")
        if (
            not isinstance(shape, list)
            or len(shape) != 4
            or not all(type(n) is int and n > 0 for n in shape)
            or math.prod(shape) > MOST_VALUES
        ):
            raise InputError(f"{where}{carried.ENDING} says no shape (Rx, Ry, Qx, Qy): it is damaged; copy it again")
        try:
            dtype = np.dtype(str(known.get("dtype")))
        except (TypeError, ValueError, SyntaxError):
            dtype = np.dtype(object)
        if not is_usable(dtype):
            raise InputError(f"{where}{carried.ENDING} says values of type {shown(str(known.get('dtype')))[:40]}; accepted are {ACCEPTED}")
        scan = (shape[0], shape[1]) if options.scan_shape is None else check_scan_shape(options.scan_shape, shape[0] * shape[1], where)
        source = MappedSource(path, 0, (*scan, shape[2], shape[3]), dtype, "raw")
        found = carried.opened(known, source.shape, where)
        return Opened(source) if found is None else Opened(source, *found)
