"""Compute parts of the transforms of `plane_transform`, for sixteen transforms at a time, in LLVM vectors of sixteen floats.

LLVM puts such a vector into one, two or four registers of the processor. numba cannot vectorise these loops itself, because it would
have to prove that a dozen arrays do not overlap. Arrays are given as addresses, strides as numbers of floats. Real and imaginary
parts are separate arrays, so that no step has to shuffle lanes.
"""

from math import pi

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
TOGETHER = 4  # frequencies of a long prime whose sums are in registers at once
FAST = ("fast",)  # patterns with a NaN never come this far
F32, I32, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)
VECTOR = ir.VectorType(F32, LANES)


class Emit:
    """Complex arithmetic on pairs of vectors, and loops over addresses."""

    def __init__(self, builder):
        self.b = builder

    def constant(self, value):
        return ir.Constant(VECTOR, [float(np.float32(value))] * LANES)

    def index(self, value):
        return ir.Constant(INDEX, value)

    def pointer(self, address):
        return self.b.inttoptr(address, F32.as_pointer())

    def load(self, base, at):
        return self.b.load(self.b.bitcast(self.b.gep(base, [at]), VECTOR.as_pointer()), align=4)

    def store(self, value, base, at):
        self.b.store(value, self.b.bitcast(self.b.gep(base, [at]), VECTOR.as_pointer()), align=4)

    def spread(self, base, at):
        """Load one float into every lane."""
        one = self.b.insert_element(ir.Constant(VECTOR, ir.Undefined), self.b.load(self.b.gep(base, [at])), ir.Constant(I32, 0))
        return self.b.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))

    def loop(self, stop, start=0, step=1):
        return cgutils.for_range_slice(self.b, self.index(start), stop, self.index(step), INDEX)

    def sum_of(self, *indices):
        total = indices[0]
        for i in indices[1:]:
            total = self.b.add(total, i)
        return total

    def scaled(self, i, factor):
        return self.b.mul(i, self.index(factor) if isinstance(factor, int) else factor)

    def add(self, a, b):
        return self.b.fadd(a, b, flags=FAST)

    def sub(self, a, b):
        return self.b.fsub(a, b, flags=FAST)

    def mul(self, a, b):
        return self.b.fmul(a, b, flags=FAST)

    def plus(self, z, w):
        return self.add(z[0], w[0]), self.add(z[1], w[1])

    def minus(self, z, w):
        return self.sub(z[0], w[0]), self.sub(z[1], w[1])

    def times(self, z, w):
        return self.sub(self.mul(z[0], w[0]), self.mul(z[1], w[1])), self.add(self.mul(z[0], w[1]), self.mul(z[1], w[0]))

    def total(self, a):
        """Return the sum of the lanes of a vector: the two halves are added until one lane is left."""
        width = LANES
        while width > 1:
            width //= 2
            lanes = [ir.Constant(ir.VectorType(I32, width), [first + i for i in range(width)]) for first in (0, width)]
            a = self.add(*(self.b.shuffle_vector(a, ir.Constant(a.type, ir.Undefined), part) for part in lanes))
        return self.b.extract_element(a, ir.Constant(I32, 0))

    def turned(self, z, k, n):
        """Return z exp(-2πi k / n), without products where k / n is a multiple of a quarter, and with fewer for an eighth."""
        if 8 * k % n == 0:
            eighths = 8 * k // n % 8
            for _ in range(eighths // 2):
                z = z[1], self.b.fneg(z[0], flags=FAST)
            if eighths % 2:
                h = self.constant(0.5**0.5)
                z = self.mul(h, self.add(z[0], z[1])), self.mul(h, self.sub(z[1], z[0]))
            return z
        angle = -2 * pi * k / n
        return self.times(z, (self.constant(np.cos(angle)), self.constant(np.sin(angle))))

    def transform(self, z):
        """Return the discrete Fourier transform of a few complex numbers."""
        n = len(z)
        if n == 1:
            return z
        if n % 2:
            return self.odd_transform(z)
        even, odd = self.transform(z[0::2]), self.transform(z[1::2])
        odd = [self.turned(w, k, n) for k, w in enumerate(odd)]
        return [self.plus(e, o) for e, o in zip(even, odd)] + [self.minus(e, o) for e, o in zip(even, odd)]

    def odd_transform(self, z):
        """Transform an odd number of points. x(j) and x(n - j) have one cosine and opposite sines, which saves half of the products."""
        n, half = len(z), range(1, len(z) // 2 + 1)
        u, v = [self.plus(z[j], z[n - j]) for j in half], [self.minus(z[j], z[n - j]) for j in half]
        out = [z[0]] * n
        for w in u:
            out[0] = self.plus(out[0], w)
        for k in half:
            even, odd = z[0], None
            for j, (a, b) in enumerate(zip(u, v), 1):
                c, s = (self.constant(f(2 * pi * j * k / n)) for f in (np.cos, np.sin))
                even = self.plus(even, (self.mul(a[0], c), self.mul(a[1], c)))
                part = self.mul(b[0], s), self.mul(b[1], s)
                odd = part if odd is None else self.plus(odd, part)
            out[k], out[n - k] = self.conjugate_pair(even, odd)
        return out

    def conjugate_pair(self, even, odd):
        """Return even - i odd and even + i odd."""
        return (self.add(even[0], odd[1]), self.sub(even[1], odd[0])), (self.sub(even[0], odd[1]), self.add(even[1], odd[0]))


def own_function(name, builder, arguments, emit):
    """Call a function of whole numbers, and write it into the module if it is not there yet.

    `emit` is called with a builder in the function, and with its arguments. Without a function of its own, LLVM would compile such a
    loop again at each place that it is used at. The function is private to the module: the same name elsewhere is other code.
    """
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(ir.VoidType(), [INDEX] * len(arguments))
        function = ir.Function(builder.module, kind, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        inside = ir.IRBuilder(function.append_basic_block("entry"))
        emit(inside, function.args)
        inside.ret_void()
    builder.call(function, arguments)


@intrinsic(prefer_literal=True)
def short_pass(typing, radix, last, xr, xi, xs, yr, yi, ys, m, s, twiddles):
    """Make one pass of Stockham's transform: n = radix · m · s points of sixteen lanes from x to y, `xs` and `ys` floats apart.

    Twiddles are (m, radix - 1, 2) floats. A pass with `last` (m = 1) has none.
    """
    r, final = radix.literal_value, last.literal_value

    def emit(builder, args):
        e = Emit(builder)
        xr, xi, xs, yr, yi, ys, m, s, w = args
        xr, xi, yr, yi, w = (e.pointer(a) for a in (xr, xi, yr, yi, w))
        with e.loop(m) as (p, _):
            turns = []
            for k in range(0 if final else r - 1):
                at = e.scaled(e.sum_of(e.scaled(p, r - 1), e.index(k)), 2)
                turns.append((e.spread(w, at), e.spread(w, builder.add(at, e.index(1)))))
            with e.loop(s) as (q, _):
                z = []
                for k in range(r):
                    at = e.scaled(e.sum_of(q, e.scaled(s, e.sum_of(p, e.scaled(m, k)))), xs)
                    z.append((e.load(xr, at), e.load(xi, at)))
                for k, value in enumerate(e.transform(z)):
                    if k and not final:
                        value = e.times(value, turns[k - 1])
                    at = e.scaled(e.sum_of(q, e.scaled(s, e.sum_of(e.scaled(p, r), e.index(k)))), ys)
                    e.store(value[0], yr, at)
                    e.store(value[1], yi, at)

    def generate(context, builder, signature, args):
        own_function(f"short_pass_{r}_{final}", builder, args[2:], emit)
        return context.get_dummy_value()

    return types.void(radix, last, *[types.intp] * 9), generate


@intrinsic
def prime_pass(typing, radix, xr, xi, xs, yr, yi, ys, m, s, twiddles, waves, folded):
    """Make a pass like `short_pass` for any prime from 11, by sums of products, four frequencies at a time.

    `waves` are cos and sin of 2π j k / radix, in rows k from 0 and columns j from 1 to half of the radix. `folded` has memory for
    2 · radix vectors.
    """

    def emit(builder, args):
        e = Emit(builder)
        r, xr, xi, xs, yr, yi, ys, m, s, w, waves, folded = args
        xr, xi, yr, yi, w, waves, folded = (e.pointer(a) for a in (xr, xi, yr, yi, w, waves, folded))
        half = builder.sdiv(builder.sub(r, e.index(1)), e.index(2))

        def source(p, q, j):
            at = e.scaled(e.sum_of(q, e.scaled(s, e.sum_of(p, e.scaled(m, j)))), xs)
            return e.load(xr, at), e.load(xi, at)

        def put(p, q, k, value):
            turn = e.scaled(builder.sub(e.sum_of(e.scaled(p, builder.sub(r, e.index(1))), k), e.index(1)), 2)
            value = e.times(value, (e.spread(w, turn), e.spread(w, builder.add(turn, e.index(1)))))
            at = e.scaled(e.sum_of(q, e.scaled(s, e.sum_of(e.scaled(p, r), k))), ys)
            e.store(value[0], yr, at)
            e.store(value[1], yi, at)

        def fold(p, q, total):
            """Make sums and differences of x(j) and x(r - j), and the sum of all points."""
            with e.loop(builder.add(half, e.index(1)), 1) as (j, _):
                a, b = source(p, q, j), source(p, q, builder.sub(r, j))
                for part, value in enumerate((*e.plus(a, b), *e.minus(a, b))):
                    e.store(value, folded, e.scaled(e.sum_of(e.scaled(builder.sub(j, e.index(1)), 4), e.index(part)), LANES))
                for part in range(2):
                    builder.store(e.add(builder.load(total[part]), e.add(a[part], b[part])), total[part])

        def products(zero, k):
            """Return even and odd parts of frequencies k … k + 3."""
            none = e.constant(0.0)
            sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(4)] for _ in range(TOGETHER)]
            for group in sums:
                for slot, value in zip(group, (*zero, none, none)):
                    builder.store(value, slot)
            with e.loop(half) as (j, _):
                parts = [e.load(folded, e.scaled(e.sum_of(e.scaled(j, 4), e.index(part)), LANES)) for part in range(4)]
                for i, group in enumerate(sums):
                    at = e.scaled(e.sum_of(e.scaled(builder.add(k, e.index(i)), half), j), 2)
                    c, sine = e.spread(waves, at), e.spread(waves, builder.add(at, e.index(1)))
                    for slot, part, factor in zip(group, parts, (c, c, sine, sine)):
                        builder.store(e.add(builder.load(slot), e.mul(part, factor)), slot)
            return [[builder.load(slot) for slot in group] for group in sums]

        with e.loop(m) as (p, _), e.loop(s) as (q, _):
            zero = source(p, q, e.index(0))
            total = [cgutils.alloca_once(builder, VECTOR) for _ in range(2)]
            for value, slot in zip(zero, total):
                builder.store(value, slot)
            fold(p, q, total)
            at = e.scaled(e.sum_of(q, e.scaled(s, e.scaled(p, r))), ys)
            for base, slot in zip((yr, yi), total):
                e.store(builder.load(slot), base, at)
            with e.loop(builder.add(half, e.index(1)), 1, TOGETHER) as (first, _):
                most = builder.sub(half, e.index(TOGETHER - 1))  # the last group begins earlier, because a group is never shorter
                k = builder.select(builder.icmp_signed("<", first, most), first, most)
                for i, (er, ei, sr, si) in enumerate(products(zero, k)):
                    at_k = builder.add(k, e.index(i))
                    low, high = e.conjugate_pair((er, ei), (sr, si))
                    put(p, q, at_k, low)
                    put(p, q, builder.sub(r, at_k), high)

    def generate(context, builder, signature, args):
        own_function("prime_pass", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 12), generate


@intrinsic
def transpose(typing, x, xs, y, ys):
    """y ← xᵀ of a tile of 16 × 16 floats; rows `xs` and `ys` floats apart."""

    def emit(builder, args):
        e = Emit(builder)
        x, xs, y, ys = args
        x, y = e.pointer(x), e.pointer(y)
        rows = [e.load(x, e.scaled(xs, i)) for i in range(LANES)]
        for span in (1, 2, 4, 8):
            low = [i if not i & span else LANES + i - span for i in range(LANES)]
            high = [i + span if not i & span else LANES + i for i in range(LANES)]
            for i in (i for i in range(LANES) if not i & span):
                a, b = rows[i], rows[i + span]
                for place, lanes in ((i, low), (i + span, high)):
                    rows[place] = builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, LANES), lanes))
        for i, row in enumerate(rows):
            e.store(row, y, e.scaled(ys, i))

    def generate(context, builder, signature, args):
        own_function("transpose", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


@intrinsic
def split_pair(typing, zr, zi, n, rows, outr, outi, stride):
    """Make the half spectra of sixteen real columns a and of the next sixteen b from the transform z of a + i b.

    a(k) = (z(k) + z(n-k)*) / 2 and b(k) = (z(k) - z(n-k)*) / 2i for k < rows. In the rows of out, b follows a.
    """

    def emit(builder, args):
        e = Emit(builder)
        zr, zi, n, rows, outr, outi, stride = args
        zr, zi, outr, outi = (e.pointer(a) for a in (zr, zi, outr, outi))
        half = e.constant(0.5)
        with e.loop(rows) as (k, _):
            low, high = (e.scaled(i, LANES) for i in (k, builder.srem(builder.sub(n, k), n)))
            (ar, ai), (br, bi) = ((e.mul(half, e.load(zr, at)), e.mul(half, e.load(zi, at))) for at in (low, high))
            at = e.scaled(k, stride)
            beside = builder.add(at, e.index(LANES))
            e.store(e.add(ar, br), outr, at)
            e.store(e.sub(ai, bi), outi, at)
            e.store(e.add(ai, bi), outr, beside)
            e.store(e.sub(br, ar), outi, beside)

    def generate(context, builder, signature, args):
        own_function("split_pair", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate


@intrinsic
def join_pair(typing, inr, ini, stride, n, rows, zr, zi):
    """Invert `split_pair`: z = a + i b for all n frequencies."""

    def emit(builder, args):
        e = Emit(builder)
        inr, ini, stride, n, rows, zr, zi = args
        inr, ini, zr, zi = (e.pointer(a) for a in (inr, ini, zr, zi))

        def pair(k):
            at = e.scaled(k, stride)
            beside = builder.add(at, e.index(LANES))
            return (e.load(inr, at), e.load(ini, at)), (e.load(inr, beside), e.load(ini, beside))

        with e.loop(rows) as (k, _):  # -k is written before k, because 0 and n/2 are their own mirror and must keep the value of k
            (ar, ai), (br, bi) = pair(k)
            mirror = e.scaled(builder.srem(builder.sub(n, k), n), LANES)
            e.store(e.add(ar, bi), zr, mirror)
            e.store(e.sub(br, ai), zi, mirror)
            at = e.scaled(k, LANES)
            e.store(e.sub(ar, bi), zr, at)
            e.store(e.add(ai, br), zi, at)

    def generate(context, builder, signature, args):
        own_function("join_pair", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate
