"""Convert patterns of any pixel type to float32 planes. One compiled function reads all types."""

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

KINDS = ("u1", "u2", "u4", "i2", "i4", "f4", "f8")  # that the compiled code reads; others are cast to float64 first
LARGEST = np.float32(3e38)


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
def _bytes_at(typing, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint8)(types.intp), generate


@njit(nogil=True, cache=True)
def read_pattern(frames, number, plane, ny):
    """Write pattern `number` as float32 to `plane`, and return whether it is finite. `frames` is the second part of `by_address`."""
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
    broken = 0
    for i in range(plane.shape[0]):
        source, target = pixels[i * ny : (i + 1) * ny], plane[i]
        for j in range(ny):
            v = np.float32(source[j])
            target[j] = v
            broken += not abs(v) <= LARGEST
    return broken == 0


@njit(nogil=True, cache=True)
def zero_masked(plane, mask):
    """Set pixels outside the mask to 0, and return whether the others are finite."""
    broken = 0
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            plane[i, j] = plane[i, j] if mask[i, j] else np.float32(0)
            broken += not abs(plane[i, j]) <= LARGEST
    return broken == 0
