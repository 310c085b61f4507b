"""What numba's vectoriser does not find by itself: products of 16-bit integers in the width of the machine, and prefetching.

Both are plain LLVM, which every processor has: x86 gets vpdpwssd or vpmaddwd for the products, others what they have.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 32  # 16-bit integers of one step: 64 bytes
LINE = 64  # bytes
I16, I32 = ir.IntType(16), ir.IntType(32)


def _vector(kind, size):
    return ir.VectorType(kind, size)


def _picked(builder, a, lanes):
    """Some lanes of a vector."""
    index = ir.Constant(_vector(I32, len(lanes)), list(lanes))
    return builder.shuffle_vector(a, ir.Constant(a.type, ir.Undefined), index)


def _sum(builder, a):
    while a.type.count > 1:
        half = a.type.count // 2
        a = builder.add(_picked(builder, a, range(half)), _picked(builder, a, range(half, 2 * half)))
    return builder.extract_element(a, ir.Constant(I32, 0))


@intrinsic
def four_products(typing, a0, a1, b0, b1, size, out):
    """out[0:4] = a0·b0, a0·b1, a1·b0, a1·b1 of int16 arrays, in int32; all given as addresses, `size` a multiple of LANES.

    Two by two, because each vector that is loaded then serves two products.
    """

    def generate(context, builder, signature, args):
        *operands, count, to = args
        bases = [builder.inttoptr(a, I16.as_pointer()) for a in operands]
        sums = [cgutils.alloca_once_value(builder, ir.Constant(_vector(I32, LANES // 2), [0] * (LANES // 2))) for _ in range(4)]
        start, step = (ir.Constant(count.type, v) for v in (0, LANES))
        with cgutils.for_range_slice(builder, start, count, step, count.type) as (i, _):
            loaded = []
            for base in bases:
                at = builder.bitcast(builder.gep(base, [i]), _vector(I16, LANES).as_pointer())
                loaded.append(builder.sext(builder.load(at, align=2), _vector(I32, LANES)))
            for total, (a, b) in zip(sums, ((0, 2), (0, 3), (1, 2), (1, 3))):
                product = builder.mul(loaded[a], loaded[b])
                pairs = builder.add(*(_picked(builder, product, range(first, LANES, 2)) for first in (0, 1)))
                builder.store(builder.add(builder.load(total), pairs), total)
        result = builder.inttoptr(to, I32.as_pointer())
        for k, total in enumerate(sums):
            builder.store(_sum(builder, builder.load(total)), builder.gep(result, [ir.Constant(I32, k)]))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def prefetch(typing, address, size):
    """Ask for `size` bytes from an address on, to be in cache when they are needed."""

    def generate(context, builder, signature, args):
        first, count = args
        pointer = ir.IntType(8).as_pointer()
        fetch = builder.module.declare_intrinsic("llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32]))
        start, step = (ir.Constant(count.type, v) for v in (0, LINE))
        read_once_into_data_cache = [ir.Constant(I32, v) for v in (0, 2, 1)]
        with cgutils.for_range_slice(builder, start, count, step, count.type) as (i, _):
            builder.call(fetch, [builder.inttoptr(builder.add(first, i), pointer), *read_once_into_data_cache])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate
