"""List the pixel types for which kernels are instantiated, and convert arrays to the form that launchers need."""

from __future__ import annotations

from typing import Any

import numpy as np

SUFFIX = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "float32": "f32"}


def suffix(array: Any) -> str:
    """Return the ending of the kernel instance for this array's dtype."""
    return SUFFIX[np.dtype(array.dtype).name]


def contiguous(array: Any) -> Any:
    """Return the array itself if it is C-contiguous, else a copy on its own device."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def as_bytes(mask: Any) -> Any:
    """Return a mask as the bytes that kernels read, not 0 where it is True. Bools are viewed, not copied."""
    return contiguous(mask if mask.dtype.kind == "b" else mask.astype(np.bool_)).view(np.uint8)


def kind(array: Any) -> int:
    """Return the number of this array's dtype for kernels that take all of them (any_pixels.cuh)."""
    return list(SUFFIX).index(np.dtype(array.dtype).name)
