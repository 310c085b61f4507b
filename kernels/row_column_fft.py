"""Launch row_column_fft.cu: correlation maps of patterns of 256 × 256 pixels, one tile of patterns in L2 after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gpu4d.kernels.pixels import contiguous, suffix

from gpu4d import device
from gpu4d.errors import InputError

FILE = "row_column_fft.cu"
SIDE = 256
THREADS = 256
BLOCKS = 8  # for a pattern, in every kernel: a block takes 16 pairs of rows, or 16 columns
WAVES = 4  # blocks of filter_columns for every multiprocessor before a block takes several patterns
RESIDENT = 2  # blocks of filter_columns a multiprocessor holds at once
# Per cent of L2 for the planes of a tile. From sm_80 on L2 has two halves, and the far one is slower. This is 0.88 of a half. The rest
# of it is for the template and for data that pass through.
L2_SHARE = 44
MOST_MAPS = 3
PLANE_BYTES = 8 * SIDE * SIDE // 2


class Filter(NamedTuple):
    """Half of the template's spectrum. The factor ½ belongs to the unpacking of two real rows from one complex row."""

    columns: Any  # (256, 128) complex64, columns 0 ... 127
    nyquist: Any  # (256,) complex64, column 128


def supports(shape: tuple[int, int], *, masked: bool) -> bool:
    """Return whether these kernels take patterns of this shape. They fit every device."""
    return shape == (SIDE, SIDE) and not masked


def filter_of(spectrum: Any) -> Filter:
    """Make the filter from a `template_spectrum`, (256, 129) complex."""
    half = (0.5 * spectrum).astype(np.complex64)
    return Filter(contiguous(half[:, : SIDE // 2]), contiguous(half[:, SIDE // 2]))


def tile_size(maps: int) -> int:
    """Return the number of patterns of a tile.

    Their planes fit into one half of the device's L2, but there are enough of them for all multiprocessors. No result depends on it.
    With smaller tiles the device would finish a tile before Python has launched the three kernels of the next.
    """
    return max(device.l2_cache() * L2_SHARE // 100 // (maps * PLANE_BYTES), -(-RESIDENT * device.multiprocessors() // BLOCKS))


def correlation_maps_256(frames: Any, template: Filter, powers: tuple[float, ...], counts: Any = None) -> Any:
    """Maps of the template in patterns of 256 × 256 pixels, one for each power.

    Parameters
    ----------
    frames : (n, 256, 256) uint8, uint16, uint32 or float32
    template : Filter
        `filter_of` the template's spectrum.
    powers : tuple of one to three float
        m·abs(m)^(power-1) of the product m of the spectra; 1 is the cross correlation.
    counts : (n, 256, 256) float32, optional
        Receives the frames.

    Returns
    -------
    (powers, n, 256, 256) float32
        All zero for a frame with a NaN or an infinity.
    """
    n = len(frames)
    if not 1 <= len(powers) <= MOST_MAPS:
        raise InputError(f"{len(powers)} powers: these kernels make one to {MOST_MAPS} maps at a time")
    if tuple(frames.shape[1:]) != (SIDE, SIDE):
        raise InputError(f"these kernels take patterns of {SIDE} × {SIDE} pixels, not {tuple(frames.shape[1:])}")
    if counts is not None and (counts.shape != frames.shape or np.dtype(counts.dtype) != np.float32):
        raise InputError(f"counts are {counts.shape} {counts.dtype}, these frames need {frames.shape} float32")
    frames = contiguous(frames)
    copy = np.uint64(0) if counts is None else counts
    tile = min(tile_size(len(powers)), max(n, 1))
    planes = device.empty((len(powers), tile, SIDE, SIDE // 2), np.complex64)
    broken = device.empty((tile, SIDE // 4), np.uint8)
    exponents = [np.float32(power - 1.0) for power in (*powers, 1.0, 1.0)[:MOST_MAPS]]
    maps = device.empty((len(powers), n, SIDE, SIDE), np.float32)
    forward = device.kernel(FILE, f"forward_rows_256_{suffix(frames)}")
    columns = device.kernel(FILE, "filter_columns_256")
    inverse = device.kernel(FILE, "inverse_rows_256")
    for first in range(0, n, tile):
        some = min(tile, n - first)
        begin = np.int64(first)
        device.launch(forward, (BLOCKS, some), THREADS, (frames, copy, broken, planes, begin))
        together = max(1, BLOCKS * some // (WAVES * device.multiprocessors()))
        sizes = [np.int32(v) for v in (len(powers), some, together)]
        device.launch(columns, (BLOCKS, -(-some // together)), THREADS, (planes, *template, broken, *exponents, *sizes))
        device.launch(inverse, (BLOCKS, some, len(powers)), THREADS, (planes, maps, begin, np.int64(n)))
    return maps
