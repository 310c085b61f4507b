"""Open `.npy` files: read the header, and map the patterns."""

from __future__ import annotations

import math
from tokenize import TokenError  # NumPy takes the header apart as Python does its sources
from typing import Any, ClassVar

import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import FOREIGN, reason
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats import carried
from gpu4d.io.formats.records import refuse_dataset, stem
from gpu4d.io.sources.layout import ACCEPTED, check_scan_shape, is_usable, without_unit_axes
from gpu4d.io.sources.mapped import MappedSource

MAGIC = b"\x93NUMPY"
READERS = {  # by the version of the format; 3.0 is 2.0 with names of fields in UTF-8, which no scan has
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


class Npy(Format):
    """The `.npy` format: one NumPy array in a file."""

    name: ClassVar = "npy"
    accepts: ClassVar = ".npy"
    facts: ClassVar = Facts(
        endings=(".npy",),
        reading="mapped",
        covers="arrays of four dimensions, or of three with a scan shape, in C order",
        tried_on="files of NumPy",
        writes=True,
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "a .npy file")
        source = open_npy(path, options.scan_shape)
        known = carried.opened(carried.beside(path), source.shape, path)
        return Opened(source, name=stem(path)) if known is None else Opened(source, *known)


def read_header(path: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, Fortran order, dtype, and the offset of the first value."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in READERS:
                raise ValueError(f"version {version[0]}.{version[1]} of the format, need 1.0 to 3.0")
            shape, fortran, dtype = READERS[version](file)
            offset = file.tell()
    except (*FOREIGN, EOFError, SyntaxError, TokenError, MemoryError) as error:
        raise InputError(f"{path}: not a readable .npy file ({reason(error)}): it is truncated or damaged, copy it again") from error
    if any(isinstance(n, bool) or n < 0 for n in shape) or math.prod(shape) * dtype.itemsize >= 1 << 63:
        raise InputError(f"{path}: not a readable .npy file (its header gives the shape {shape}): it is damaged, copy it again")
    return shape, fortran, dtype, offset


def open_npy(path: str, scan_shape: Any) -> MappedSource:
    """Return the source of a scan in a `.npy` file, (Rx, Ry, Qx, Qy) or (frames, Qx, Qy) with `scan_shape`."""
    shape, fortran, dtype, offset = read_header(path)
    words = "×".join(map(str, shape)) or "a single value"
    dimensions, shape = len(shape), without_unit_axes(shape)
    if len(shape) not in (3, 4) or 0 in shape:
        raise InputError(
            f"{path}: the array is {words} ({dimensions}D): a scan has four dimensions (Rx, Ry, Qx, Qy), "
            "or three (frames, Qx, Qy) and a scan shape"
        )
    if not is_usable(dtype):
        raise InputError(f"{path}: the array has values of type {dtype}; accepted are {ACCEPTED}")
    if fortran:
        raise InputError(f"{path}: the array is stored in Fortran order, whose frames are scattered: rewrite it with np.ascontiguousarray")
    if len(shape) == 3 and scan_shape is None:
        raise InputError(
            f"{path}: the array is {words} (3D, frames first): give the scan's shape with --scan-shape Rx,Ry or scan_shape=(Rx, Ry), "
            f'with Rx·Ry = {shape[0]}; for another number, scan_shape="frames" and gpu4d.preprocess.reshape'
        )
    scan = (shape[0], shape[1]) if scan_shape is None else check_scan_shape(scan_shape, math.prod(shape[:-2]), path)
    return MappedSource(path, offset, (*scan, shape[-2], shape[-1]), dtype, ".npy")
