"""Compute sums, maxima and products of 8- and 16-bit counts in full vector registers. numba does not vectorise them by itself.

Counts are read in *lines* of LANES pixels and become signed 16-bit integers. 2**15 is subtracted from unsigned 16-bit counts. Products
with 16-bit weights are added in 32 bits. On x86 that is one vpdpwssd or vpmaddwd for each line and weight.

The code is plain LLVM, so that it runs on every processor. Frames, weights and results are given by their addresses and need not
be aligned.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32 if binding.get_host_cpu_features().get("avx512bw") else 16  # pixels of a line: 16-bit integers of a register
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
HALF = LANES // 2
# Numbers of a line's pixels in the two vectors of a sum. This order comes from interleaving two lines 128 bits at a time (vpunpcklwd,
# vpunpckhwd).
HALVES = [[8 * part + 4 * half + i for part in range(LANES // 8) for i in range(4)] for half in range(2)]
INTO_SECOND_LEVEL_CACHE = 0, 2, 1


@intrinsic
def reduce_lines(typing, frames, at, lines, ahead, weights, ones, total, top, sums):
    """Add one run of lines of a few frames to the sum and maximum of every pixel, and multiply every frame with three weights.

    Parameters
    ----------
    frames : array
        For its dtype alone.
    at : tuple of int
        Where the run begins in each frame.
    lines : int
    ahead : int
        Distance in bytes to the data that are needed next. They are fetched into the cache.
    weights : (lines, 3, LANES) int16
    ones : (LANES,) int16
        Ones. They come from memory, because the compiler would replace products with a known 1.
    total : (lines, 2, LANES / 2) int32
        Added to; pixels in the order of `HALVES`.
    top : (lines, LANES) int16
        Raised.
    sums : (number of frames, 3) int64
        Set.
    """

    def generate(context, builder, signature, args):
        _, bases, lines, ahead, weights, ones, total, top, sums = args
        bases, counts = cgutils.unpack_tuple(builder, bases), _Counts(builder, frames.dtype)
        products = [[_zeros(builder) for _ in range(3)] for _ in bases]
        one = _as_int32(builder, _load(builder, ones, I16))
        with cgutils.for_range(builder, lines, intp=I64) as (i, _):
            at = [_item_address(builder, base, i, counts.line_bytes) for base in bases]
            for address in at:
                _prefetch(builder, builder.add(address, ahead))
            values = [counts.load(address) for address in at]
            _update_maximum(builder, _item_address(builder, top, i, 2 * LANES), values)
            _add_pixels(builder, _item_address(builder, total, i, 4 * LANES), values, one)
            here = _item_address(builder, weights, i, 3 * 2 * LANES)
            loaded = [_as_int32(builder, _load(builder, _item_address(builder, here, _int(j), 2 * LANES), I16)) for j in range(3)]
            for value, row in zip(values, products):
                for weight, product in zip(loaded, row):
                    _accumulate(builder, product, _as_int32(builder, value), weight)
        _store_sums(builder, sums, [product for row in products for product in row])
        return context.get_dummy_value()

    return types.void(frames, at, *[types.intp] * 7), generate


@intrinsic
def masked_lines(typing, frames, at, chosen, lines, weights, sums):
    """Multiply a few frames with weights that are zero outside some lines.

    Parameters
    ----------
    frames, at
        As of `reduce_lines`.
    chosen : (lines,) int64
        Numbers of the lines, from `at` on.
    lines : int
    weights : tuple of (lines, LANES) int16
    sums : (number of frames, number of weights) int64
        Set.
    """

    def generate(context, builder, signature, args):
        _, bases, chosen, lines, weights, sums = args
        bases, weights = cgutils.unpack_tuple(builder, bases), cgutils.unpack_tuple(builder, weights)
        counts, products = _Counts(builder, frames.dtype), [[_zeros(builder) for _ in weights] for _ in bases]
        with cgutils.for_range(builder, lines, intp=I64) as (i, _):
            line = builder.load(builder.inttoptr(_item_address(builder, chosen, i, 8), I64.as_pointer()))
            loaded = [_as_int32(builder, _load(builder, _item_address(builder, weight, i, 2 * LANES), I16)) for weight in weights]
            for base, row in zip(bases, products):
                value = _as_int32(builder, counts.load(_item_address(builder, base, line, counts.line_bytes)))
                for weight, product in zip(loaded, row):
                    _accumulate(builder, product, value, weight)
        _store_sums(builder, sums, [product for row in products for product in row])
        return context.get_dummy_value()

    return types.void(frames, at, types.intp, types.intp, weights, types.intp), generate


class _Counts:
    """Loads lines of a dtype as signed 16-bit integers."""

    def __init__(self, builder, dtype):
        self.builder, self.dtype = builder, dtype
        self.line_bytes = LANES * dtype.bitwidth // 8

    def load(self, address):
        stored = _load(self.builder, address, ir.IntType(self.dtype.bitwidth))
        if self.dtype.bitwidth == 8:
            return (self.builder.sext if self.dtype.signed else self.builder.zext)(stored, _vector(I16, LANES))
        return stored if self.dtype.signed else self.builder.xor(stored, ir.Constant(stored.type, [1 << 15] * LANES))


# ---------------------------------------------------------------- steps


def _update_maximum(builder, address, values):
    """Update the maximum of pixels."""
    top = _load(builder, address, I16)
    for value in values:
        top = builder.select(builder.icmp_signed(">", value, top), value, top)
    _store(builder, top, address)


def _add_pixels(builder, address, values, one):
    """Add to the sum of pixels. Two lines, interleaved and multiplied with ones, give their sum in 32 bits."""
    nothing = ir.Constant(_vector(I16, LANES), [0] * LANES)
    pairs = [(values[f], values[f + 1] if f + 1 < len(values) else nothing) for f in range(0, len(values), 2)]
    for half, pixels in enumerate(HALVES):
        interleaved = [lane for pixel in pixels for lane in (pixel, LANES + pixel)]
        there = _item_address(builder, address, _int(half), 4 * HALF)
        total = _load(builder, there, I32, HALF)
        for a, b in pairs:
            total = builder.add(total, _dot(builder, _as_int32(builder, _shuffle(builder, a, b, interleaved)), one))
        _store(builder, total, there)


def _accumulate(builder, product, value, weight):
    builder.store(builder.add(builder.load(product), _dot(builder, value, weight)), product)


def _store_sums(builder, address, products):
    """Store the sums over the lanes of products, one after the other."""
    for number, product in enumerate(products):
        total = builder.sext(builder.load(product), _vector(I64, HALF))
        while total.type.count > 1:
            half = total.type.count // 2
            total = builder.add(*(_shuffle(builder, total, total, range(first, first + half)) for first in (0, half)))
        to = builder.inttoptr(_item_address(builder, address, _int(number), 8), I64.as_pointer())
        builder.store(builder.extract_element(total, ir.Constant(I32, 0)), to)


def _prefetch(builder, address):
    pointer = I8.as_pointer()
    fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32]))
    builder.call(fetch, [builder.inttoptr(address, pointer), *(ir.Constant(I32, v) for v in INTO_SECOND_LEVEL_CACHE)])


# ---------------------------------------------------------------- vectors


def _vector(kind, size):
    return ir.VectorType(kind, size)


def _int(value):
    return ir.Constant(I64, value)


def _item_address(builder, address, count, size):
    """Return the address of item number `count` of an array at `address`, with `size` bytes each."""
    return builder.add(address, builder.mul(count, _int(size)))


def _load(builder, address, kind, lanes=LANES):
    return builder.load(builder.inttoptr(address, _vector(kind, lanes).as_pointer()), align=1)


def _store(builder, value, address):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def _zeros(builder):
    return cgutils.alloca_once_value(builder, ir.Constant(_vector(I32, HALF), [0] * HALF))


def _as_int32(builder, a):
    return builder.sext(a, _vector(I32, a.type.count))


def _shuffle(builder, a, b, lanes):
    index = ir.Constant(_vector(I32, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, index)


def _dot(builder, a, b):
    """Return HALF sums of the products of two neighbours, in the form that LLVM compiles to vpmaddwd."""
    product = builder.mul(a, b)
    return builder.add(*(_shuffle(builder, product, product, range(first, LANES, 2)) for first in (0, 1)))
