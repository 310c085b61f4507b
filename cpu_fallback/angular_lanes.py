"""Correlate angular spectra with those of sixteen zone axes, in LLVM vectors of sixteen floats (see `lanes`)."""

from gpu4d.cpu_fallback.lanes import F32, INDEX, LANES, VECTOR, Emit, own_function
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic
def shell_products(typing, pattern, shells, filled, real, imaginary, many, harmonics, re, im):
    """Write the spectrum of C + i C', of a pattern and its mirror image, for sixteen zone axes: rows of `re` and `im`.

    With the spectrum X of the pattern and P of an axis, C(m) is Σ X P* over shells and C'(m) is Σ X* P*. Both curves are real, so that
    the spectrum of C + i C' at −m follows from them too.

    Parameters
    ----------
    pattern : address of (harmonics, 2, many) float32
    shells : address of (filled,) int64
        Shells that have a peak.
    filled : int
    real, imaginary : address of (harmonics, many, 16) float32
    many, harmonics : int
        Number of shells, and of harmonics.
    re, im : address of (2 · (harmonics − 1), 16) float32
    """

    def emit(builder, args):
        e = Emit(builder)
        pattern, shells, filled, real, imaginary, many, harmonics, re, im = args
        pattern, real, imaginary, re, im = (e.pointer(a) for a in (pattern, real, imaginary, re, im))
        shells = builder.inttoptr(shells, INDEX.as_pointer())
        last = builder.sub(harmonics, e.index(1))
        samples = e.scaled(last, 2)
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(4)]
        none, one = ir.Constant(F32, 0.0), ir.Constant(F32, 1.0)
        with e.loop(harmonics) as (m, _):
            for slot in sums:
                builder.store(e.constant(0.0), slot)
            row, even = e.scaled(m, many), e.scaled(e.scaled(m, 2), many)
            with e.loop(filled) as (n, _):
                i = builder.load(builder.gep(shells, [n]))
                at = e.scaled(builder.add(row, i), LANES)
                p, q = e.load(real, at), e.load(imaginary, at)
                a, b = e.spread(pattern, builder.add(even, i)), e.spread(pattern, e.sum_of(even, many, i))
                for slot, x, y in zip(sums, (a, b, b, a), (p, q, p, q)):
                    builder.store(e.add(builder.load(slot), e.mul(x, y)), slot)
            aa, bb, ba, ab = (builder.load(slot) for slot in sums)
            edge = builder.or_(builder.icmp_signed("==", m, e.index(0)), builder.icmp_signed("==", m, last))
            whole = _filled(e, builder.select(edge, none, one))  # a real curve has no sine at either end of its spectrum
            z, w = (e.add(aa, bb), e.mul(whole, e.sub(ba, ab))), (e.sub(aa, bb), e.mul(whole, e.sub(e.constant(0.0), e.add(ba, ab))))
            there, back = (e.scaled(i, LANES) for i in (m, builder.srem(builder.sub(samples, m), samples)))
            e.store(e.sub(z[0], w[1]), re, there)
            e.store(e.add(z[1], w[0]), im, there)
            e.store(e.add(z[0], w[1]), re, back)
            e.store(e.sub(w[0], z[1]), im, back)

    def generate(context, builder, signature, args):
        own_function("shell_products", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 9), generate


@intrinsic
def highest_rows(typing, curve, rows, top, place):
    """Write the largest value of each column of (rows, 16) float32, and the first row that has it. All are addresses of float32."""

    def emit(builder, args):
        e = Emit(builder)
        curve, rows, top, place = args
        curve, top, place = (e.pointer(a) for a in (curve, top, place))
        best, number, here = (cgutils.alloca_once(builder, VECTOR) for _ in range(3))
        for slot, value in ((best, e.load(curve, e.index(0))), (number, e.constant(0.0)), (here, e.constant(1.0))):
            builder.store(value, slot)
        with e.loop(rows, 1) as (k, _):
            value, row = e.load(curve, e.scaled(k, LANES)), builder.load(here)
            higher = builder.fcmp_ordered(">", value, builder.load(best))
            builder.store(builder.select(higher, value, builder.load(best)), best)
            builder.store(builder.select(higher, row, builder.load(number)), number)
            builder.store(e.add(row, e.constant(1.0)), here)
        e.store(builder.load(best), top, e.index(0))
        e.store(builder.load(number), place, e.index(0))

    def generate(context, builder, signature, args):
        own_function("highest_rows", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate


def _filled(e, one):
    """Return a vector with one number in every lane."""
    room = cgutils.alloca_once(e.b, F32)
    e.b.store(one, room)
    return e.spread(room, e.index(0))
