"""Make seeded inputs that are the same on every machine, on the device that computes on them.

Random numbers are a hash of their index and the seed, in 32-bit integer arithmetic: every array library gives the same bits, in any
order and any pieces. Counts are looked up in a table of quantiles of the Poisson distribution, which is made on the host. Expected
patterns are made with +, −, ×, / and square roots only, which every machine rounds alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

SEED = 20261201  # announced with version 1 of the suite: results of the closed division have it
LEVELS = 4096  # quantiles of a Poisson distribution that can be drawn: 12 bits of the hash
PIECES = {True: 1 << 22, False: 1 << 17}  # values that are made at a time: on the host temporary arrays stay in the cache


def hashed(xp: Any, seed: int, start: int, n: int) -> Any:
    """Return the hashes of the indices start … start + n − 1, as uint32.

    Parameters
    ----------
    xp : module
        NumPy or CuPy.
    seed : int
        Only its lower 32 bits count.
    start, n : int
        Indices may pass 32 bits: their upper half goes into the seed.

    Notes
    -----
    The finaliser "lowbias32" of C. Wellons, applied twice: https://nullprogram.com/blog/2018/07/31/ (public domain).
    """
    high = start >> 32
    assert (start + n - 1) >> 32 == high or n == 0, "a piece may not cross a multiple of 2³²"
    key = np.uint32((seed ^ (high * 0x9E3779B9)) & 0xFFFFFFFF)
    x = xp.arange(start & 0xFFFFFFFF, (start & 0xFFFFFFFF) + n, dtype=xp.int64).astype(xp.uint32)
    return _mixed(xp, _mixed(xp, x) ^ key)


def _mixed(xp: Any, x: Any) -> Any:
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def poisson_table(means: np.ndarray) -> np.ndarray:
    """Return the quantiles (j + ½) / 4096 of Poisson distributions: (means, 4096), int64. A mean of 0 gives zeros."""
    from scipy.special import pdtr

    at = (np.arange(LEVELS) + 0.5) / LEVELS
    found = np.zeros((len(means), LEVELS), np.int64)
    for row, mean in zip(found, np.asarray(means, float), strict=True):
        if mean > 0:
            reach = 8.0 * np.sqrt(mean) + 8.0
            k = np.arange(max(0, int(mean - reach)), int(mean + reach) + 1)
            row[:] = k[np.searchsorted(pdtr(k, mean), at)]
    return found


def counts(xp: Any, expected: np.ndarray, which: Any, seed: int, dtype: str = "uint16") -> Any:
    """Return patterns with counting noise, made where `xp` computes.

    Parameters
    ----------
    xp : module
        NumPy or CuPy.
    expected : (M, Qx, Qy) array of NumPy
        Expected counts of M different patterns. They are rounded to steps of at most 1/32 of their root, at least 1/128 of a count, so
        that the table of quantiles stays small.
    which : (N,) integers of NumPy
        The expected pattern of each of the N patterns.
    seed : int
    dtype : str

    Returns
    -------
    (N, Qx, Qy) array
    """
    levels, index = _levels(np.asarray(expected, float))
    table = xp.asarray(poisson_table(levels).astype(dtype))
    index, chosen = xp.asarray(index), np.asarray(which)
    frame = index[0].size
    out = xp.empty((len(chosen), *expected.shape[1:]), dtype)
    for first, last in _pieces(len(chosen), frame, _piece(xp)):
        random = hashed(xp, seed, first * frame, (last - first) * frame) >> np.uint32(32 - 12)
        rows = index[xp.asarray(chosen[first:last])].reshape(-1)
        out[first:last] = table.reshape(-1)[rows * LEVELS + random.astype(xp.int32)].reshape(last - first, *expected.shape[1:])
    return out


def _levels(expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounded means that occur, and for each pixel the index of its mean, as int32."""
    step = np.maximum(np.sqrt(np.maximum(expected, 0.0)) / 32, 1 / 128)
    exponent = np.floor(np.log2(step) + 1e-9)  # steps are powers of two, so that levels of neighbouring pixels coincide
    rounded = np.round(expected / 2.0**exponent) * 2.0**exponent
    values, index = np.unique(rounded, return_inverse=True)
    return values, index.reshape(expected.shape).astype(np.int32)


def _piece(xp: Any) -> int:
    return PIECES[xp is not np]


def _pieces(n: int, frame: int, piece: int) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of pieces of some frames that do not cross a multiple of 2³² values."""
    first = 0
    while first < n:
        last = min(n, first + max(1, piece // frame))
        boundary = ((first * frame >> 32) + 1) << 32
        if last * frame > boundary and boundary // frame > first:
            last = boundary // frame
        yield first, last
        first = last


def uniform(seed: int, n: int) -> np.ndarray:
    """Return n numbers in [0, 1) for small inputs that are made on the host."""
    return hashed(np, seed, 0, n) / 2.0**32


def disk(shape: tuple[int, int], radius: float, center: tuple[float, float], edge: float = 1.0) -> np.ndarray:
    """Return a disk of height 1 whose edge falls linearly over `edge` pixels."""
    x, y = np.arange(shape[0])[:, None] - center[0], np.arange(shape[1])[None, :] - center[1]
    return np.clip((radius - np.sqrt(x * x + y * y)) / edge + 0.5, 0.0, 1.0)


def digest(xp: Any, *arrays: Any) -> str:
    """Return a digest of arrays that every device computes where they are: 16 hexadecimal digits.

    Each byte, plus one, is multiplied by the hash of its index, and the products are added modulo 2⁶⁴; shapes and dtypes are mixed in.
    It finds changes by accident and by habit. It is not a cryptographic hash.
    """
    import zlib

    total, piece = 0, _piece(xp)
    for number, array in enumerate(arrays):
        array = xp.ascontiguousarray(xp.asarray(array))
        about = f"{number} {np.dtype(array.dtype).str} {array.shape}"
        total = (total * 1_000_003 + zlib.crc32(about.encode())) % 2**64
        data = array.reshape(-1).view(xp.uint8)
        words = data[: len(data) // 4 * 4].view(xp.uint32)
        for values, seed in ((words, 1), (data[len(data) // 4 * 4 :], 2)):
            for start in range(0, len(values), piece):
                part = values[start : start + piece]
                products = (part.astype(xp.uint64) + np.uint64(1)) * hashed(xp, seed + number, start, len(part)).astype(xp.uint64)
                total = (total + int(products.sum(dtype=xp.uint64))) % 2**64
    return f"{total:016x}"
