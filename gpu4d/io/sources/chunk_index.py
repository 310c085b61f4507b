"""Find the places of all chunks of an HDF5 dataset in its file."""

from __future__ import annotations

import math
import os
from typing import Any

import h5py
import numpy as np

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown

CHECKED_BYTES = 16 << 20  # bytes: larger chunks are not read only to check their place


class ChunkIndex:
    """Places of the chunks of a dataset. It is as large as the chunks that the file holds, not as the shape that the file declares.

    Parameters
    ----------
    grid : tuple of int
        Number of chunks along each of the four axes.
    numbers, offsets, sizes, skipped : (n,) arrays of integers
        For each stored chunk: its number in the grid in row-major order, first byte and length in the file, and the bits of the filters
        that were not applied to it.
    """

    def __init__(self, grid: tuple[int, ...], numbers: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, skipped: np.ndarray):
        order = np.argsort(numbers)
        self.grid, self.numbers = grid, np.asarray(numbers, np.int64)[order]
        self.offsets, self.sizes = np.asarray(offsets, np.int64)[order], np.asarray(sizes, np.int64)[order]
        self.skipped = np.asarray(skipped, np.int64)[order]

    def __reduce__(self) -> Any:
        return type(self), (self.grid, self.numbers, self.offsets, self.sizes, self.skipped)

    def lookup(self, places: tuple[range | slice, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Look up a box of chunks.

        Parameters
        ----------
        places : tuple of range or slice
            First and last chunk along each axis.

        Returns
        -------
        offsets, sizes, skipped : (…) int64
            In row-major order. The offset of a chunk that was never written is -1, its size 0.
        """
        numbers = np.zeros(1, np.int64)
        for n, wanted in zip(self.grid, places):
            numbers = (numbers[:, None] * n + np.arange(wanted.start, wanted.stop)).reshape(-1)
        if not len(self.numbers):
            nothing = np.zeros(len(numbers), np.int64)
            return nothing - 1, nothing, nothing
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        there = self.numbers[at] == numbers
        return np.where(there, self.offsets[at], -1), np.where(there, self.sizes[at], 0), np.where(there, self.skipped[at], 0)


def chunk_index(dataset: h5py.Dataset, chunks: tuple[int, ...], kept: tuple[int, ...] | None = None) -> ChunkIndex | None:
    """Return the places of all chunks; None if HDF5's answer cannot be trusted.

    Parameters
    ----------
    dataset : h5py.Dataset
    chunks : tuple of int
        Shape of a chunk in four dimensions.
    kept : tuple of int, optional
        Axes of the dataset that are the last ones of these four, by default all. Along all others it has length one.
    """
    kept = tuple(range(dataset.ndim)) if kept is None else kept
    unlimited = [axis for axis, most in enumerate(dataset.maxshape) if most is None]
    several = [axis for axis, (n, c) in enumerate(zip(dataset.shape, dataset.chunks)) if n > c]
    if len(unlimited) == 1 and unlimited != [0] and set(several) - set(unlimited):
        return None  # HDF5 (2.0 at least) finds these chunks, but reports wrong places for them
    lengths = (*(1,) * (4 - len(kept)), *(dataset.shape[axis] for axis in kept))
    grid = tuple(-(-n // c) for n, c in zip(lengths, chunks))
    if math.prod(grid) >= 1 << 62 or math.prod(dataset.chunks) != math.prod(chunks):
        return None
    found: list[Any] = []

    def note(chunk: Any) -> bool | None:
        found.append(chunk)
        return None

    dataset.id.chunk_iter(note)
    corners = np.array([chunk.chunk_offset for chunk in found], np.int64).reshape(len(found), dataset.ndim)
    places, rest = np.divmod(corners, np.array(dataset.chunks, np.int64))
    inside = places < [-(-n // c) for n, c in zip(dataset.shape, dataset.chunks)]
    strides = np.zeros(dataset.ndim, np.int64)
    strides[list(kept)] = [math.prod(grid[axis + 1 :]) for axis in range(4 - len(kept), 4)]
    numbers = places @ strides
    if rest.any() or not inside.all() or (places < 0).any() or len(np.unique(numbers)) != len(numbers):
        return None
    shift = 0
    if found:
        # Some HDF5 versions count from the end of the user block, some from the first byte of the file: compare with the data.
        samples = _samples(found)
        shift = next((shift for shift in (0, dataset.file.userblock_size) if _is_there(dataset, samples[0], shift)), -1)
        if shift < 0 or not all(_is_there(dataset, chunk, shift) for chunk in samples[1:]):
            return None
    offsets, sizes, skipped = (
        np.array([getattr(chunk, name) for chunk in found], np.int64) for name in ("byte_offset", "size", "filter_mask")
    )
    longest = int(sizes.max(initial=0))
    if longest > os.path.getsize(dataset.file.filename):
        raise InputError(
            f"{shown(dataset.file.filename)}: a chunk of {longest} bytes is longer than the file: it is damaged, copy it again"
        )
    return ChunkIndex(grid, numbers, offsets + shift, sizes, skipped)


def _samples(found: list[Any]) -> list[Any]:
    """Choose a few chunks to compare with HDF5: the first one, and of the last and two between those that are read quickly."""
    last = len(found) - 1
    others = [found[i] for i in sorted({last, last // 2, last // 3} - {0})]
    return [found[0], *(chunk for chunk in others if chunk.size <= CHECKED_BYTES)]


def _is_there(dataset: h5py.Dataset, chunk: Any, shift: int) -> bool:
    """Say whether the file holds, at the reported place of a chunk, what the HDF5 library reads for it."""
    try:
        skipped, expected = dataset.id.read_direct_chunk(chunk.chunk_offset)
    except (OSError, RuntimeError, ValueError):
        return False
    with open(dataset.file.filename, "rb") as raw:
        raw.seek(chunk.byte_offset + shift)
        return skipped == chunk.filter_mask and raw.read(chunk.size) == bytes(expected)
