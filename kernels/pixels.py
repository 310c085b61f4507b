"""Pixel types kernels are instantiated for, and how launchers meet them."""

from __future__ import annotations

from typing import Any

import numpy as np

SUFFIX = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "float32": "f32"}


def suffix(array: Any) -> str:
    """Ending of the kernel instance for this array's dtype."""
    return SUFFIX[np.dtype(array.dtype).name]


def contiguous(array: Any) -> Any:
    """The array itself where it is C-contiguous, else a copy on its own device."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def as_bytes(mask: Any) -> Any:
    """A mask as the bytes kernels read, not 0 where it holds: a view of bools, which are bytes already."""
    return contiguous(mask if mask.dtype.kind == "b" else mask.astype(np.bool_)).view(np.uint8)
