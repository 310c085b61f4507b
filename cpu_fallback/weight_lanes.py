"""Multiply rows of pixels with rows of weights and add up, in LLVM vectors of float64.

A vector of weights that is read once serves several rows of pixels, and the sums stay in registers. Each sum has lanes of its own, and
LLVM may not change the order in which they are added. So the bits of a sum do not depend on the rows beside it.
"""

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8 if binding.get_host_cpu_features().get("avx512f") else 4  # float64 of a register; four are two registers of 128 bits
F64, I32, INDEX = ir.DoubleType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F64, LANES)
ONE_ROUNDING = ("contract",)  # a product and a sum may be one instruction


@intrinsic
def row_products(typing, rows, weights, pixels, sums):
    """sums[r, c] ← Σ rows[r] · weights[c] over a number of pixels.

    `rows` and `weights` are tuples of addresses of float64. `sums` is the address of (rows, weights) float64.
    """
    r, c = len(rows), len(weights)

    def generate(context, builder, signature, args):
        rows, weights, pixels, sums = args
        at = [*cgutils.unpack_tuple(builder, rows), *cgutils.unpack_tuple(builder, weights)]
        _products_function(builder, r, c, [pixels, sums, *at])
        return context.get_dummy_value()

    return types.void(rows, weights, pixels, sums), generate


def _products_function(builder, r, c, arguments):
    """Call the function for r rows and c weights, and write it into the module if it is not there yet."""
    name = f"row_products_{r}_{c}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [INDEX] * len(arguments)), name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        pixels, sums, *at = function.args
        at = [inside.inttoptr(address, F64.as_pointer()) for address in at]
        _emit(inside, at[:r], at[r:], pixels, inside.inttoptr(sums, F64.as_pointer()))
        inside.ret_void()
    builder.call(function, arguments)


def _emit(builder, rows, weights, pixels, sums):
    """Add whole vectors, then the lanes of each sum, then the pixels that are left, one by one."""
    whole = builder.and_(pixels, ir.Constant(INDEX, -LANES))
    lanes = _sums_of_products(builder, rows, weights, ir.Constant(INDEX, 0), whole, VECTOR)
    start = [_total(builder, value) for value in lanes]
    for number, value in enumerate(_sums_of_products(builder, rows, weights, whole, pixels, F64, start)):
        builder.store(value, builder.gep(sums, [ir.Constant(INDEX, number)]))


def _sums_of_products(builder, rows, weights, begin, end, kind, start=None):
    """Return the sums for all pairs of a row and a weight, from pixel `begin` to `end`, in numbers or vectors."""
    step = ir.Constant(INDEX, kind.count if kind is VECTOR else 1)
    slots = [cgutils.alloca_once(builder, kind) for _ in range(len(rows) * len(weights))]
    none = ir.Constant(VECTOR, [0.0] * LANES) if start is None else None
    for number, slot in enumerate(slots):
        builder.store(none if start is None else start[number], slot)
    with cgutils.for_range_slice(builder, begin, end, step, INDEX) as (i, _):
        loaded = [_load(builder, weight, i, kind) for weight in weights]
        for r, row in enumerate(rows):
            value = _load(builder, row, i, kind)
            for slot, weight in zip(slots[r * len(weights) :], loaded):
                product = builder.fmul(value, weight, flags=ONE_ROUNDING)
                builder.store(builder.fadd(builder.load(slot), product, flags=ONE_ROUNDING), slot)
    return [builder.load(slot) for slot in slots]


def _load(builder, base, at, kind):
    return builder.load(builder.bitcast(builder.gep(base, [at]), kind.as_pointer()), align=8)


def _total(builder, value):
    """Return the sum over the lanes: halves are added until one is left."""
    while value.type.count > 1:
        half = value.type.count // 2
        parts = [ir.Constant(ir.VectorType(I32, half), list(range(first, first + half))) for first in (0, half)]
        value = builder.fadd(*(builder.shuffle_vector(value, value, part) for part in parts))
    return builder.extract_element(value, ir.Constant(I32, 0))
