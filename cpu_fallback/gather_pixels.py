"""Gather pixels (CPU twin) in blocks of patterns, and in a block pixel by pixel, so that their rows stay in the cache."""

import numpy as np

from gpu4d.compiled import contiguous, entry, read_only

BLOCK = 16  # patterns: their distance is often a power of two, and then more of them would share one set of the cache


@entry()
def _gather(flat, index, out):
    for first in range(0, flat.shape[0], BLOCK):
        last = min(first + BLOCK, flat.shape[0])
        for p in range(index.shape[0]):
            at = index[p]
            for n in range(first, last):
                out[p, n] = flat[n, at]


def gather_pixels(frames, index, /, *, real=False):
    flat = frames.reshape(len(frames), frames.shape[1] * frames.shape[2])
    if len(index) and not (0 <= index.min() and index.max() < flat.shape[1]):
        raise IndexError(f"index runs from {index.min()} to {index.max()}, patterns have {flat.shape[1]} pixels")
    out = np.empty((len(index), len(frames)), np.float32 if real else frames.dtype)
    _gather(read_only(flat), contiguous(index), out)
    return out
