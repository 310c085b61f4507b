"""Compute the hash XXH64 of many patterns (numba). Its definition is public: github.com/Cyan4973/xxHash, doc/xxhash_spec.md."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpu4d.compiled import address, entry, helper

PRIME1, PRIME2, PRIME3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
PRIME4, PRIME5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)
STRIPE = 32  # bytes: four lanes of eight


def _loads(bits):
    @intrinsic
    def load(typing_context, place):
        """Return the number at an address, which need not be aligned."""

        def generate(context, builder, signature, arguments):
            word = ir.IntType(bits)
            found = builder.load(builder.inttoptr(arguments[0], word.as_pointer()))
            found.align = 1
            return builder.zext(found, ir.IntType(64)) if bits < 64 else found

        return types.uint64(types.int64), generate

    return load


_load8, _load32, _load64 = _loads(8), _loads(32), _loads(64)


@helper()
def _turned(value, by):
    return value << np.uint64(by) | value >> np.uint64(64 - by)


@helper()
def _lane(total, word):
    return _turned(total + word * PRIME2, 31) * PRIME1


@helper()
def _merged(total, lane):
    return (total ^ _lane(np.uint64(0), lane)) * PRIME1 + PRIME4


@entry()
def hash_patterns(patterns, out):
    """Write the XXH64, seed 0, of every row of `patterns` (n, bytes) uint8 into `out` (n,) uint64. Rows follow each other in memory."""
    size = patterns.shape[1]
    for k in range(patterns.shape[0]):
        out[k] = _hashed(address(patterns) + k * size, size)


@helper()
def _hashed(place, size):
    end = place + size
    total = PRIME5
    if size >= STRIPE:
        first, second, third, fourth = PRIME1 + PRIME2, PRIME2, np.uint64(0), np.uint64(0) - PRIME1
        while place + STRIPE <= end:
            first = _lane(first, _load64(place))
            second = _lane(second, _load64(place + 8))
            third = _lane(third, _load64(place + 16))
            fourth = _lane(fourth, _load64(place + 24))
            place += STRIPE
        total = _turned(first, 1) + _turned(second, 7) + _turned(third, 12) + _turned(fourth, 18)
        total = _merged(_merged(_merged(_merged(total, first), second), third), fourth)
    total += np.uint64(size)
    while place + 8 <= end:
        total = _turned(total ^ _lane(np.uint64(0), _load64(place)), 27) * PRIME1 + PRIME4
        place += 8
    if place + 4 <= end:
        total = _turned(total ^ _load32(place) * PRIME1, 23) * PRIME2 + PRIME3
        place += 4
    while place < end:
        total = _turned(total ^ _load8(place) * PRIME5, 11) * PRIME1
        place += 1
    total = (total ^ total >> np.uint64(33)) * PRIME2
    total = (total ^ total >> np.uint64(29)) * PRIME3
    return total ^ total >> np.uint64(32)
