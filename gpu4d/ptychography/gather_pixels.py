"""Chosen detector pixels of many patterns: what a stack of bright-field images is filled with."""

from __future__ import annotations

from typing import Any

from gpu4d import arrays
from gpu4d.errors import InputError
from gpu4d.operation import DETECTOR_PIXELS, KERNEL_FRAME, KERNEL_PIXELS, Twin, operation


@operation(
    cpu=Twin("gpu4d.cpu_fallback.gather_pixels", DETECTOR_PIXELS),
    cuda=Twin("gpu4d.kernels.gather_pixels", KERNEL_PIXELS, frame=KERNEL_FRAME),
)
def gather_pixels(frames: Any, index: Any, /, *, real: bool = False) -> Any:
    """Copy chosen pixels of every pattern, ordered by pixel.

    Parameters
    ----------
    frames : (n, Qx, Qy) real
    index : (P,) int
        Pixel numbers qx · Qy + qy, each inside the detector.
    real : bool
        Give float32 instead of the native dtype.

    Returns
    -------
    (P, n), native dtype or float32

    Examples
    --------
    >>> import numpy as np
    >>> gather_pixels(np.arange(8, dtype="uint8").reshape(2, 2, 2), np.array([3, 0]))
    array([[3, 7],
           [0, 4]], dtype=uint8)
    """
    xp = arrays.namespace(frames, index)
    if len(frames.shape) != 3 or len(index.shape) != 1:
        raise InputError(f"frames are {tuple(frames.shape)} and index {tuple(index.shape)}: need (n, Qx, Qy) and (P,)")
    flat = xp.reshape(frames, (frames.shape[0], frames.shape[1] * frames.shape[2]))
    found = xp.permute_dims(xp.take(flat, index, axis=1), (1, 0))
    return xp.astype(found, xp.float32) if real else found
