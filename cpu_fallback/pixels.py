"""Patterns of any kind of pixel as float32 planes: one compiled function reads all of them."""

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

KINDS = ("u1", "u2", "u4", "i2", "i4", "f4", "f8")  # what the compiled code reads; others are cast before
LARGEST = np.float32(3e38)


def raw(frames):
    """Patterns (n, Qx, Qy) as compiled code takes them: the array that must live as long, and its address, bytes a pattern and kind.

    An address, because an array that may not be written to would be another type, and compiled again.
    """
    kind = "u1" if frames.dtype.kind == "b" else frames.dtype.str[1:]
    if kind not in KINDS or not frames.dtype.isnative:
        kind, frames = "f8", frames.astype(np.float64)
    frames = np.ascontiguousarray(frames)
    return frames, (frames.ctypes.data, frames.nbytes // max(len(frames), 1), KINDS.index(kind))


@intrinsic
def _bytes_at(typing, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.intp), generate


@njit(nogil=True, cache=True)
def take(frames, number, plane, ny):
    """Pattern `number` of the last part of `raw` as float32 into `plane`; whether it is finite."""
    address, size, kind = frames
    pixels = carray(_bytes_at(address + number * size), size, np.uint8)
    if kind == 0:
        return _cast(pixels, plane, ny)
    if kind == 1:
        return _cast(pixels.view(np.uint16), plane, ny)
    if kind == 2:
        return _cast(pixels.view(np.uint32), plane, ny)
    if kind == 3:
        return _cast(pixels.view(np.int16), plane, ny)
    if kind == 4:
        return _cast(pixels.view(np.int32), plane, ny)
    if kind == 5:
        return _cast(pixels.view(np.float32), plane, ny)
    return _cast(pixels.view(np.float64), plane, ny)


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


@njit(nogil=True, cache=True)
def clear(plane, mask):
    """Pixels outside the mask become 0; whether the others are finite."""
    strange = 0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            plane[i, j] = plane[i, j] if mask[i, j] else np.float32(0)
            strange += not abs(plane[i, j]) <= LARGEST
    return strange == 0
