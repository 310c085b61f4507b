"""Compute the checksum of a scan: of its patterns as numbers, whatever file, chunks and compression they lie in."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gpu4d.data.source import Shape4

NAME = "blake2b of XXH64"  # stands beside the checksum in files


def pattern_hashes(patterns: np.ndarray) -> np.ndarray:
    """Return the XXH64 of every pattern (..., Qx, Qy), (...) uint64: of its values row by row, lowest byte first.

    Examples
    --------
    >>> hex(int(pattern_hashes(np.zeros((1, 0, 0), "uint8"))[0]))
    '0xef46db3751d8e999'
    """
    from gpu4d.io.writing.xxh64 import hash_patterns

    ordered = np.ascontiguousarray(patterns, patterns.dtype.newbyteorder("<"))
    out = np.empty(patterns.shape[:-2], np.uint64)
    size = patterns.shape[-2] * patterns.shape[-1] * patterns.itemsize
    rows = ordered.reshape(-1).view(np.uint8).reshape(out.size, size)
    hash_patterns(rows, out.reshape(-1))
    return out


def checksum(hashes: np.ndarray, shape: Shape4, dtype: Any) -> str:
    """Combine the hashes of all patterns, (Rx, Ry) uint64, into one text of 32 digits.

    It is the BLAKE2b, 16 bytes long, of a line "Rx,Ry,Qx,Qy dtype" and the hashes, lowest byte first.

    Examples
    --------
    >>> checksum(np.zeros((1, 2), "uint64"), (1, 2, 3, 4), "uint16")
    '61c5c480be1d9c262448e7bc7c8bcd2d'
    """
    found = hashlib.blake2b(f"{','.join(map(str, shape))} {np.dtype(dtype).name}\n".encode(), digest_size=16)
    found.update(np.ascontiguousarray(hashes, "<u8").tobytes())
    return found.hexdigest()
