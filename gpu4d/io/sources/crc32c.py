"""Compute CRC32C (Castagnoli), which zarr writes behind the index of a shard (numba)."""

from __future__ import annotations

import functools

import numpy as np

from gpu4d.compiled import entry, read_only

POLYNOMIAL = 0x82F63B78  # of iSCSI (RFC 3720), lowest bit first
AT_ONCE = 8  # bytes, each with a table of its own


@functools.cache
def _tables() -> np.ndarray:
    """Return what a byte adds to the checksum when 0 … 7 further bytes follow it, (8, 256) uint32."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1)
    found = [table]
    for _ in range(AT_ONCE - 1):
        found.append(table[found[-1] & 0xFF] ^ found[-1] >> 8)
    return read_only(np.array(found, np.uint32))


def crc32c(data: np.ndarray) -> int:
    """Return the CRC32C of bytes, (n,) uint8.

    Examples
    --------
    >>> hex(crc32c(np.frombuffer(b"123456789", np.uint8)))
    '0xe3069283'
    """
    return int(_crc32c(read_only(data), _tables()))


@entry()
def _crc32c(data, tables):
    total = np.uint32(0xFFFFFFFF)
    whole = data.size // 8 * 8
    for i in range(0, whole, 8):
        low = total ^ (
            np.uint32(data[i])
            | np.uint32(data[i + 1]) << np.uint32(8)
            | np.uint32(data[i + 2]) << np.uint32(16)
            | np.uint32(data[i + 3]) << np.uint32(24)
        )
        total = (
            tables[7, low & 0xFF]
            ^ tables[6, low >> np.uint32(8) & 0xFF]
            ^ tables[5, low >> np.uint32(16) & 0xFF]
            ^ tables[4, low >> np.uint32(24)]
            ^ tables[3, data[i + 4]]
            ^ tables[2, data[i + 5]]
            ^ tables[1, data[i + 6]]
            ^ tables[0, data[i + 7]]
        )
    for i in range(whole, data.size):
        total = tables[0, (total ^ data[i]) & 0xFF] ^ total >> np.uint32(8)
    return total ^ np.uint32(0xFFFFFFFF)
