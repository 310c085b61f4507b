"""Arrays far larger than memory, for offsets behind 2³¹ elements."""

import mmap

import numpy as np


def huge_array(shape, dtype):
    """An array far larger than memory: only the pages that are touched exist."""
    dtype = np.dtype(dtype)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which mmap names from Python 3.13 on
    return np.frombuffer(mmap.mmap(-1, int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, flags=flags), dtype).reshape(shape)
