"""Add the pixels of sixteen patterns at a time to the sums of their rings, in LLVM vectors. numba does not do this by itself.

A pixel of the detector is in the same ring in all patterns that share an origin. So one vector has that pixel of sixteen patterns, and
is added to the vector of the ring's sixteen sums. The sixteen patterns are read in tiles of 16 × 16 pixels, which are transposed in
registers: four steps of sixteen shuffles.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TOGETHER = 16  # patterns, and pixels of a tile
I32, I64 = ir.IntType(32), ir.IntType(64)
SUMS, SQUARES = ir.VectorType(I32, TOGETHER), ir.VectorType(I64, TOGETHER)


@intrinsic(prefer_literal=True)
def add_tiles(typing, frames, with_squares, at, rings, tiles, sums, squares):
    """Add tiles of sixteen pixels of sixteen patterns to the sums of their rings.

    Parameters
    ----------
    frames : array
        For its dtype alone: 8 or 16 bits.
    with_squares : literal int
        Whether squares are added too: 0 or 1.
    at : address of (16,) int64
        Addresses of the patterns.
    rings : address of (16 · tiles,) int32
        Ring of every pixel.
    tiles : int
    sums : address of (rings, 16) int32
        Added to.
    squares : address of (rings, 16) int64
        Added to.
    """
    if frames.dtype.bitwidth not in (8, 16):
        return None
    signed, both = frames.dtype.signed, with_squares.literal_value
    pixel = ir.VectorType(ir.IntType(frames.dtype.bitwidth), TOGETHER)
    tile_bytes = TOGETHER * frames.dtype.bitwidth // 8

    def generate(context, builder, signature, args):
        _, _, at, rings, tiles, sums, squares = args
        pointer = builder.inttoptr(at, I64.as_pointer())
        bases = [builder.load(builder.gep(pointer, [I64(i)])) for i in range(TOGETHER)]
        numbers = builder.inttoptr(rings, I32.as_pointer())
        widen = builder.sext if signed else builder.zext
        with cgutils.for_range(builder, tiles, intp=I64) as (i, _):
            ahead = builder.mul(i, I64(tile_bytes))
            rows = [builder.load(builder.inttoptr(builder.add(base, ahead), pixel.as_pointer()), align=1) for base in bases]
            first = builder.mul(i, I64(TOGETHER))
            for j, value in enumerate(_transposed(builder, rows)):
                ring = builder.sext(builder.load(builder.gep(numbers, [builder.add(first, I64(j))])), I64)
                _add(builder, sums, ring, 4, SUMS, widen(value, SUMS))
                if both:
                    wide = widen(value, SQUARES)
                    _add(builder, squares, ring, 8, SQUARES, builder.mul(wide, wide))
        return context.get_dummy_value()

    return types.void(frames, with_squares, *[types.intp] * 5), generate


def _add(builder, base, ring, size, kind, value):
    """Add a vector to that of a ring."""
    place = builder.add(base, builder.mul(ring, I64(TOGETHER * size)))
    slot = builder.inttoptr(place, kind.as_pointer())
    builder.store(builder.add(builder.load(slot, align=size), value), slot, align=size)


def _transposed(builder, rows):
    """Transpose sixteen vectors of sixteen numbers."""
    rows = list(rows)
    for span in (1, 2, 4, 8):
        low = [i if not i & span else TOGETHER + i - span for i in range(TOGETHER)]
        high = [i + span if not i & span else TOGETHER + i for i in range(TOGETHER)]
        for i in (i for i in range(TOGETHER) if not i & span):
            a, b = rows[i], rows[i + span]
            for place, lanes in ((i, low), (i + span, high)):
                rows[place] = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, TOGETHER), lanes))
    return rows
