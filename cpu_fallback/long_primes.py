"""Compute transforms of a long prime number of points from shorter ones, sixteen at a time as in `lanes`.

Let g be a generator of the numbers 1 … p-1 modulo p. Then X(g^-r) = x(0) + Σ_q x(g^q) w(g^(q-r)) with w(k) = exp(-2πi k / p). This
is a cyclic convolution of p - 1 points, or, with zeros between them, of any number from 2 p - 3 on. Shorter transforms compute it
(C. M. Rader, Proc. IEEE 56, 1107 (1968)).
"""

from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.lanes import LANES, Emit, own_function
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

SHORT = (8, 4, 2, 3, 5, 7)  # radices of `short_pass`
# Cost of a point in a pass, and in everything before and after a convolution, in units in which a sum of p products costs p.
PASS, OVERHEAD = 15, 30
NEAREST = 8  # longer convolutions whose cost is compared


class PrimeTables(NamedTuple):
    """Tables for the transform of a prime number of points."""

    points: int  # of the convolution; 0 where sums of products are faster
    order: np.ndarray  # (2, p - 1) int64: numbers of the points of input and output, in the order of the convolution
    waves: np.ndarray  # (points,) complex128: the transform of w, over the number of points


def factors(n: int) -> list[int]:
    """Return the radices of a transform of n points: eights, fours, small primes, then long primes."""
    radices, rest = [], n
    while rest % 8 == 0 and rest != 16:
        radices.append(8)
        rest //= 8
    for radix in SHORT[1:]:
        while rest % radix == 0:
            radices.append(radix)
            rest //= radix
    prime = 11
    while rest > 1:
        while rest % prime == 0:
            radices.append(prime)
            rest //= prime
        prime += 2
    return radices or [1]


@lru_cache(maxsize=64)
def convolution_points(p: int) -> int:
    """Return the number of points of the fastest convolution for a prime p, or 0 if sums of products are faster."""
    longer = range(2 * p - 3, 2 * (2 * p - 3))
    smooth = (n for n in longer if max(factors(n)) <= max(SHORT))
    ways = [0, p - 1, *islice(smooth, NEAREST)]
    return min(ways, key=lambda points: _convolution_cost(points) if points else p * p)


def _convolution_cost(points: int) -> int:
    return points * (OVERHEAD + 2 * sum(radix if radix > max(SHORT) else PASS for radix in factors(points)))


@lru_cache(maxsize=64)
def prime_tables(p: int, points: int) -> PrimeTables:
    """Make the tables of the convolution of `points` points for a prime p."""
    powers = _powers_of_generator(p)
    there, back = powers, powers[-np.arange(p - 1)]
    w = np.exp(-2j * np.pi * back / p)
    if points > p - 1:
        w = np.concatenate([w, np.zeros(points - 2 * p + 3), w[1:]])
    return PrimeTables(points, np.stack([there, back]), np.fft.fft(w) / points)


def _powers_of_generator(p: int) -> np.ndarray:
    """Return g^0 … g^(p-2) modulo p, for the smallest g for which they are all different."""
    for g in count(2):
        powers = [1]
        while (following := powers[-1] * g % p) != 1:
            powers.append(following)
        if len(powers) == p - 1:
            return np.array(powers, np.int64)
    raise AssertionError


def _order(e, table, j):
    return e.b.load(e.b.gep(e.b.inttoptr(table, ir.IntType(64).as_pointer()), [j]))


def _times(e, zr, zi, at, table, place):
    """Multiply z, one complex value a lane, with the number at `place` of `table`, the same for all lanes."""
    one = e.spread(table, place), e.spread(table, e.b.add(place, e.index(1)))
    return e.times((e.load(zr, at), e.load(zi, at)), one)


@intrinsic
def gather(typing, used, points, order, xr, xi, step, zr, zi):
    """z(j) ← x(order(j)) for j < used, with points `step` floats apart, and zeros after those."""

    def emit(builder, args):
        e = Emit(builder)
        used, points, order, xr, xi, step, zr, zi = args
        xr, xi, zr, zi = (e.pointer(a) for a in (xr, xi, zr, zi))
        with e.loop(used) as (j, _):
            source, at = e.scaled(_order(e, order, j), step), e.scaled(j, LANES)
            e.store(e.load(xr, source), zr, at)
            e.store(e.load(xi, source), zi, at)
        with e.loop(builder.sub(points, used)) as (j, _):
            at = e.scaled(builder.add(used, j), LANES)
            e.store(e.constant(0.0), zr, at)
            e.store(e.constant(0.0), zi, at)

    def generate(context, builder, signature, args):
        own_function("gather", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), generate


@intrinsic
def convolve(typing, points, waves, xr, xi, zr, zi, yr, yi):
    """z(k) ← z(k) · waves(k), plus x at k = 0, which adds x to all points of the transform. y ← x + z(0), the sum of all points."""

    def emit(builder, args):
        e = Emit(builder)
        points, *addresses = args
        waves, xr, xi, zr, zi, yr, yi = (e.pointer(a) for a in addresses)
        none = e.index(0)
        first = e.load(xr, none), e.load(xi, none)
        total = e.plus(first, (e.load(zr, none), e.load(zi, none)))
        with e.loop(points) as (k, _):
            at = e.scaled(k, LANES)
            value = _times(e, zr, zi, at, waves, e.scaled(k, 2))
            e.store(value[0], zr, at)
            e.store(value[1], zi, at)
        for value, z in zip(first, (zr, zi)):
            e.store(e.add(value, e.load(z, none)), z, none)
        for value, y in zip(total, (yr, yi)):
            e.store(value, y, none)

    def generate(context, builder, signature, args):
        own_function("convolve", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), generate


@intrinsic
def scatter(typing, used, order, zr, zi, twiddles, yr, yi, step):
    """y(order(j)) ← z(j) · twiddle(order(j) - 1), points `step` floats apart."""

    def emit(builder, args):
        e = Emit(builder)
        used, order, *addresses, step = args
        zr, zi, w, yr, yi = (e.pointer(a) for a in addresses)
        with e.loop(used) as (j, _):
            k, at = _order(e, order, j), e.scaled(j, LANES)
            value = _times(e, zr, zi, at, w, e.scaled(builder.sub(k, e.index(1)), 2))
            target = e.scaled(k, step)
            e.store(value[0], yr, target)
            e.store(value[1], yi, target)

    def generate(context, builder, signature, args):
        own_function("scatter", builder, args, emit)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 8), generate
