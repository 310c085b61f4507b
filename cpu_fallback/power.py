"""Compute products of spectra and m |m|^(n-1), in float32. Loops have no calls and no branches, so that they vectorise."""

import numpy as np
from gpu4d.cpu_fallback.pixels import bits
from numba import types
from numba.extending import intrinsic

from gpu4d.compiled import part

TINY = np.float32(1e-30)  # |m|² below it counts as zero


@intrinsic
def _float(typing_context, value):
    """Return the float with these bits."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), emit


@part
def _log2(a):
    """log₂ a for a > 0: exponent bits, and ln(1 + f) as a polynomial on [√½, √2] (Cephes' logf); 1e-7 relative."""
    i = bits(a)
    k = (i - np.int32(0x3F3504F3)) >> np.int32(23)
    f = _float(i - (k << np.int32(23))) - np.float32(1.0)
    z = f * f
    y = np.float32(7.0376836292e-2)
    y = y * f - np.float32(1.1514610310e-1)
    y = y * f + np.float32(1.1676998740e-1)
    y = y * f - np.float32(1.2420140846e-1)
    y = y * f + np.float32(1.4249322787e-1)
    y = y * f - np.float32(1.6668057665e-1)
    y = y * f + np.float32(2.0000714765e-1)
    y = y * f - np.float32(2.4999993993e-1)
    y = y * f + np.float32(3.3333331174e-1)
    return np.float32(k) + (f + z * (f * y - np.float32(0.5))) * np.float32(1.4426950408889634)


@part
def _exp2(t):
    """2^t for |t| < 120: the whole part into the exponent bits, the rest as a polynomial on [-½, ½] (Cephes' exp2f)."""
    r = np.int32(t + np.float32(1024.5)) - np.int32(1024)
    f = t - np.float32(r)
    p = np.float32(1.535336188e-4)
    p = p * f + np.float32(1.339887440e-3)
    p = p * f + np.float32(9.618437357e-3)
    p = p * f + np.float32(5.550332548e-2)
    p = p * f + np.float32(2.402264791e-1)
    p = p * f + np.float32(6.931472028e-1)
    p = p * f + np.float32(1.0)
    return _float(bits(p) + (r << np.int32(23)))


@part
def product(zr, zi, kr, ki):
    """z ← z · k, complex, flat arrays of real and imaginary parts."""
    for i in range(kr.size):
        a, b = zr[i], zi[i]
        zr[i] = a * kr[i] - b * ki[i]
        zi[i] = a * ki[i] + b * kr[i]


@part
def powered(mr, mi, power, scale, zr, zi):
    """z ← scale · m |m|^(power - 1), complex, flat arrays of real and imaginary parts."""
    if power == 1.0:
        for i in range(zr.size):
            zr[i] = scale * mr[i]
            zi[i] = scale * mi[i]
        return
    e = np.float32(0.5) * (power - np.float32(1.0))
    for i in range(zr.size):
        a, b = mr[i], mi[i]
        factor = scale * _exp2(e * _log2(a * a + b * b + TINY))
        zr[i] = a * factor
        zi[i] = b * factor
