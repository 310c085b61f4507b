"""Pixel types kernels are instantiated for, and how launchers meet them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

# Pixels a side: a lane's first moment, 8 counts of 2³² times a place, stays below the 2⁵¹ that a warp adds exactly.
LONGEST_OF_U32 = 1 << 16
SUFFIX = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "float32": "f32"}


def suffix(array: Any) -> str:
    """Ending of the kernel instance for this array's dtype."""
    return SUFFIX[np.dtype(array.dtype).name]


def unsupported(patterns: Any, *_: Any, **__: Any) -> str | None:
    """Why no kernel instance takes these patterns, or None: the `cuda_unsupported` of operations on frames."""
    if prod(patterns.shape[-2:]) >= 2**31:
        return "a frame has 2³¹ pixels or more"
    name = str(patterns.dtype).removeprefix("torch.")
    return None if name in SUFFIX else f"the kernels take {', '.join(SUFFIX)}, not {name}"


def moments_unsupported(patterns: Any, *_: Any, **__: Any) -> str | None:
    """Give the reason why frame_reductions.cu would not add the first moments of these patterns exactly, or None."""
    if (reason := unsupported(patterns)) is None and str(patterns.dtype).endswith("uint32") and max(patterns.shape[-2:]) > LONGEST_OF_U32:
        reason = f"first moments of uint32 are exact on detectors of up to {LONGEST_OF_U32} pixels a side, not {max(patterns.shape[-2:])}"
    return reason


def contiguous(array: Any) -> Any:
    """The array itself where it is C-contiguous, else a copy on its own device."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def as_bytes(mask: Any) -> Any:
    """A mask as the bytes kernels read, not 0 where it holds: a view of bools, which are bytes already."""
    return contiguous(mask if mask.dtype.kind == "b" else mask.astype(np.bool_)).view(np.uint8)
