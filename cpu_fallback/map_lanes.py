"""Compute sums over patterns and correlation maps, and maxima of maps, sixteen pixels at a time (see `lanes`)."""

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.lanes import LANES, VECTOR, Emit, own_function
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpu4d.imaging.neighbours import ABOVE, NOT_BELOW


def maps_with_slack(*shape: int) -> np.ndarray:
    """Return float32 zeros with sixteen floats more before the first and after the last: `peak_bits` reads one pixel beyond both."""
    size = int(np.prod(shape))
    return zeros(size + 2 * LANES)[LANES : LANES + size].reshape(shape)


@intrinsic
def four_row_sums(typing, plane, stride, rows, columns, weights, apart, out):
    """out[o, j] ← Σ_i weights[o, i] plane[i, j] for o < 4.

    Rows of weights are `apart` floats from each other, rows of out and plane `stride`. `columns` is a multiple of 32. Eight sums stay
    in registers, so that a vector of the plane is read once for four products.
    """

    def emit(builder, args):
        e = Emit(builder)
        plane, stride, rows, columns, weights, apart, out = args
        plane, weights, out = (e.pointer(a) for a in (plane, weights, out))
        with e.loop(columns, 0, 2 * LANES) as (first, _):
            sums = [[cgutils.alloca_once_value(builder, e.constant(0.0)) for _ in range(2)] for _ in range(4)]
            for slot in (slot for pair in sums for slot in pair):
                builder.store(e.constant(0.0), slot)
            with e.loop(rows) as (i, _):
                at = e.sum_of(e.scaled(i, stride), first)
                values = e.load(plane, at), e.load(plane, builder.add(at, e.index(LANES)))
                for o, pair in enumerate(sums):
                    w = e.spread(weights, e.sum_of(e.scaled(apart, o), i))
                    for slot, value in zip(pair, values):
                        builder.store(e.add(builder.load(slot), e.mul(w, value)), slot)
            for o, pair in enumerate(sums):
                for half, slot in enumerate(pair):
                    e.store(builder.load(slot), out, e.sum_of(e.scaled(stride, o), first, e.index(half * LANES)))

    def generate(context, builder, signature, args):
        own_function("four_row_sums", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 7), generate


@intrinsic
def window_sums(typing, counts, stride, rows, width, weights, out):
    """out[o] ← Σ counts · weights[o] over a window (rows, width), for o < 4.

    Negative counts are taken as 0, except for o = 0. `weights` are four windows, one after the other. `width` is a multiple of 16.
    """

    def emit(builder, args):
        e = Emit(builder)
        counts, stride, rows, width, weights, out = args
        counts, weights, out = (e.pointer(a) for a in (counts, weights, out))
        size = builder.mul(rows, width)
        zero = e.constant(0.0)
        sums = [cgutils.alloca_once(builder, VECTOR) for _ in range(4)]
        for slot in sums:
            builder.store(zero, slot)
        with e.loop(rows) as (i, _), e.loop(width, 0, LANES) as (j, _):
            value = e.load(counts, e.sum_of(e.scaled(i, stride), j))
            positive = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)
            at = e.sum_of(e.scaled(i, width), j)
            for o, slot in enumerate(sums):
                weight = e.load(weights, e.sum_of(e.scaled(size, o), at))
                builder.store(e.add(builder.load(slot), e.mul(positive if o else value, weight)), slot)
        for o, slot in enumerate(sums):
            builder.store(e.total(builder.load(slot)), builder.gep(out, [e.index(o)]))

    def generate(context, builder, signature, args):
        own_function("window_sums", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def window_sum(typing, counts, stride, rows, width, weights, out):
    """out[0] ← Σ counts · weights over a window (rows, width): the first of `window_sums`. `width` is a multiple of 16.

    Even and odd rows have sums of their own, because an addition waits for the one before it.
    """

    def emit(builder, args):
        e = Emit(builder)
        counts, stride, rows, width, weights, out = args
        counts, weights, out = (e.pointer(a) for a in (counts, weights, out))
        sums = [cgutils.alloca_once_value(builder, e.constant(0.0)) for _ in range(2)]

        def add(slot, i, j):
            value, weight = e.load(counts, e.sum_of(e.scaled(i, stride), j)), e.load(weights, e.sum_of(e.scaled(i, width), j))
            builder.store(e.add(builder.load(slot), e.mul(value, weight)), slot)

        one = e.index(1)
        even = builder.and_(rows, builder.not_(one))
        with e.loop(even, 0, 2) as (i, _), e.loop(width, 0, LANES) as (j, _):
            add(sums[0], i, j)
            add(sums[1], builder.add(i, one), j)
        with builder.if_then(builder.icmp_signed("<", even, rows)), e.loop(width, 0, LANES) as (j, _):
            add(sums[0], even, j)
        builder.store(e.total(e.add(builder.load(sums[0]), builder.load(sums[1]))), out)

    def generate(context, builder, signature, args):
        own_function("window_sum", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 6), generate


@intrinsic
def peak_bits(typing, c, stride, width, out):
    """Write one bit for each of `width` pixels from c on: 1 where the pixel is a maximum.

    A maximum is positive, exceeds the four neighbours of `ABOVE`, and is not below the four of `NOT_BELOW`. So of two equal neighbours
    one is taken. `width` is a multiple of 16. The rows before and after c are read too, from one pixel before to one pixel after.
    """

    def emit(builder, args):
        e = Emit(builder)
        c, stride, width, out = args
        c, out = e.pointer(c), builder.inttoptr(out, ir.IntType(16).as_pointer())
        with e.loop(width, 0, LANES) as (j, count):
            value = e.load(c, j)

            def beside(dx, dy):
                return e.load(c, e.sum_of(j, e.scaled(stride, dx), e.index(dy)))

            peak = builder.fcmp_ordered(">", value, e.constant(0.0))
            for dx, dy in ABOVE:
                peak = builder.and_(peak, builder.fcmp_ordered(">", value, beside(dx, dy)))
            for dx, dy in NOT_BELOW:
                peak = builder.and_(peak, builder.fcmp_ordered(">=", value, beside(dx, dy)))
            builder.store(builder.bitcast(peak, ir.IntType(16)), builder.gep(out, [count]))

    def generate(context, builder, signature, args):
        own_function("peak_bits", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), generate
