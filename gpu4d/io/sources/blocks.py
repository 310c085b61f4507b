"""Read the blocks inside compressed chunks: check their lengths, and call a codec for many chunks without the interpreter (numba)."""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpu4d.compiled import entry, helper


@intrinsic
def _call(typing_context, function, source, target, values, width, block):
    """Call a C function at an address, with five arguments of pointer size and an int64 as result."""
    word = ir.IntType(64)

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], ir.FunctionType(word, [word] * 5).as_pointer())
        return builder.call(pointer, arguments[1:])

    return types.int64(*[types.int64] * 6), generate


@helper()
def _big_endian(packed, position, n):
    number = np.int64(0)
    for i in range(n):
        number = number << 8 | np.int64(packed[position + i])
    return number


@entry()
def block_starts(packed, position, starts):
    """Find where each block begins and where the last one ends. Return False if blocks reach beyond the end of the bytes.

    A block is its length (four bytes, highest first) followed by that many bytes.
    """
    for k in range(starts.size - 1):
        starts[k] = position
        if packed.size - position < 4:
            return False
        length = _big_endian(packed, position, 4)
        position += 4 + length
        if length > 0x7FFFFFFF or position > packed.size:
            return False
    starts[starts.size - 1] = position
    return True


@entry(allocates=True)
def bitshuffle_runs(decompress, packed, places, size, width, default_block, runs, status):
    """Decode runs of bitshuffled chunks to addresses, as `BitshuffleBlocks.undo_runs` documents."""
    done = 0
    for k in range(places.shape[0]):
        begin, until = done, done
        while until < runs.shape[0] and runs[until, 0] == k:
            until += 1
        done = until
        status[k] = _bitshuffle_chunk(
            decompress, packed[places[k, 0] : places[k, 0] + places[k, 1]], size, width, default_block, runs[begin:until]
        )


@helper(allocates=True)
def _bitshuffle_chunk(decompress, packed, size, width, default_block, runs):
    if packed.size < 12 or _big_endian(packed, 0, 8) != size or size % width:
        return 2
    block = _big_endian(packed, 8, 4) // width
    if block == 0:
        block = default_block
    if block % 8:
        return 3
    stride = block * width
    for r in range(runs.shape[0]):
        if runs[r, 1] % stride or (runs[r, 3] % stride and runs[r, 1] + runs[r, 3] != size):
            return 1
    tail = size // width % 8 * width  # the last values, fewer than eight, are stored unchanged after the last block
    blocks = (size - tail + stride - 1) // stride
    if 4 * blocks > packed.size:
        return 4
    starts = np.empty(blocks + 1, np.int64)
    if not block_starts(packed, 12, starts) or starts[-1] + tail > packed.size:
        return 4
    source = np.int64(packed.ctypes.data)
    for r in range(runs.shape[0]):
        begin = source + starts[runs[r, 1] // stride]
        if _call(decompress, begin, runs[r, 2], runs[r, 3] // width, width, block) < 0:  # type: ignore[call-arg]
            return 5
    return 0
