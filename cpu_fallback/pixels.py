"""Convert patterns of any pixel type to float32 planes. One compiled function reads all types."""

import numpy as np
from numba import types
from numba.extending import intrinsic

from gpu4d.compiled import NOTHING, helper, part

KINDS = ("u1", "u2", "u4", "i2", "i4", "f4", "f8")  # that the compiled code reads; others are cast to float64 first
MAGNITUDE = np.int32(0x7FFFFFFF)  # a float's bits without its sign: of two numbers, the larger has the larger bits
LARGEST = np.float32(3e38).view(np.int32)  # a pixel above it is no number. Bits are compared: callers assume that no NaN exists


def by_address(frames):
    """Return patterns (n, Qx, Qy) in the form that compiled code takes: (array, (address, bytes of a pattern, number in KINDS)).

    The caller must keep the array as long as the address is used. An address is passed, because read-only arrays are another type
    for numba, which would compile everything a second time.
    """
    kind = "u1" if frames.dtype.kind == "b" else frames.dtype.str[1:]
    if kind not in KINDS or not frames.dtype.isnative:
        kind, frames = "f8", frames.astype(np.float64)
    frames = np.ascontiguousarray(frames)
    return frames, (frames.ctypes.data, frames.nbytes // max(len(frames), 1), KINDS.index(kind))


@intrinsic
def bits(typing, value):
    """Return the 32 bits of a float as an integer."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@intrinsic
def _pointer(typing, address, kind):
    """Return a pointer to numbers of a kind, for example np.uint16."""

    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.intp, kind), generate


@helper(NOTHING)
def read_pattern(frames, number, plane, ny):
    """Write pattern `number` as float32 to `plane`, and return whether it is finite. `frames` is the second part of `by_address`."""
    address, size, kind = frames
    at = address + number * size
    if kind == 0:
        return _cast(at, np.uint8, plane, ny)
    if kind == 1:
        return _cast(at, np.uint16, plane, ny)
    if kind == 2:
        return _cast(at, np.uint32, plane, ny)
    if kind == 3:
        return _cast(at, np.int16, plane, ny)
    if kind == 4:
        return _cast(at, np.int32, plane, ny)
    if kind == 5:
        return _cast(at, np.float32, plane, ny)
    return _cast(at, np.float64, plane, ny)


@part
def _cast(at, kind, plane, ny):
    broken = 0
    pixels = _pointer(at, kind)
    for i in range(plane.shape[0]):
        target, start = plane[i], i * ny
        for j in range(ny):
            v = np.float32(pixels[start + j])
            target[j] = v
            broken += bits(v) & MAGNITUDE > LARGEST
    return broken == 0


@helper(NOTHING)
def zero_masked(plane, mask):
    """Set pixels outside the mask to 0, and return whether the others are finite."""
    broken = 0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            plane[i, j] = plane[i, j] if mask[i, j] else np.float32(0)
            broken += bits(plane[i, j]) & MAGNITUDE > LARGEST
    return broken == 0
