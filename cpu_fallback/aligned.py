"""Memory whose vectors lie within lines of the cache: NumPy's begins at any sixteen bytes, and three of four such loads touch two."""

import numpy as np

LINE = 64  # bytes


def zeros(*shape: int) -> np.ndarray:
    """Zeros float32 of a shape, from a multiple of 64 bytes on."""
    size = 4 * int(np.prod(shape))
    room = np.zeros(size + LINE, np.uint8)
    first = -room.ctypes.data % LINE
    return room[first : first + size].view(np.float32).reshape(shape)
