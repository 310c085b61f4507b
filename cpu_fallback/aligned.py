"""Allocate arrays that begin at a line of the cache.

NumPy's arrays begin at any multiple of 16 bytes. Then three of four loads of a vector of 64 bytes touch two lines of the cache.
"""

import numpy as np

LINE = 64  # bytes


def zeros(*shape: int) -> np.ndarray:
    """Return float32 zeros of a shape, whose address is a multiple of 64 bytes."""
    size = 4 * int(np.prod(shape))
    room = np.zeros(size + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + size].view(np.float32).reshape(shape)
