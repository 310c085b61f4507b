"""Patterns of any kind of pixel as float32 planes: one compiled function reads all of them."""

import numpy as np
from numba import njit

KINDS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")  # what the compiled code reads; others are cast before
LARGEST = np.float32(3e38)


def raw(frames):
    """Bytes of patterns (n, Qx, Qy), one row each, and the number of their kind."""
    kind = "u1" if frames.dtype.kind == "b" else frames.dtype.str[1:]
    if kind not in KINDS or not frames.dtype.isnative:
        kind, frames = "f8", frames.astype(np.float64)
    return np.ascontiguousarray(frames).view(np.uint8).reshape(len(frames), -1), KINDS.index(kind)


@njit(nogil=True, cache=True)
def take(raw, kind, plane, ny):
    """The pattern as float32 into `plane`; whether it is finite."""
    if kind == 0:
        return _cast(raw, plane, ny)
    if kind == 1:
        return _cast(raw.view(np.uint16), plane, ny)
    if kind == 2:
        return _cast(raw.view(np.uint32), plane, ny)
    if kind == 3:
        return _cast(raw.view(np.uint64), plane, ny)
    if kind == 4:
        return _cast(raw.view(np.int8), plane, ny)
    if kind == 5:
        return _cast(raw.view(np.int16), plane, ny)
    if kind == 6:
        return _cast(raw.view(np.int32), plane, ny)
    if kind == 7:
        return _cast(raw.view(np.int64), plane, ny)
    if kind == 8:
        return _cast(raw.view(np.float32), plane, ny)
    return _cast(raw.view(np.float64), plane, ny)


@njit(nogil=True, cache=True)
def _cast(pixels, plane, ny):
    strange = 0
    for i in range(plane.shape[0]):
        source, target = pixels[i * ny : (i + 1) * ny], plane[i]
        for j in range(ny):
            v = np.float32(source[j])
            target[j] = v
            strange += not abs(v) <= LARGEST
    return strange == 0
