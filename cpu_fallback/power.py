"""Product of spectra and m |m|^(n-1) on interleaved float32 pairs, without calls or branches inside the loops."""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

TINY = np.float32(1e-30)  # |m|² below it counts as zero


@intrinsic
def _bits(typing_context, value):
    """The 32 bits of a float as an integer."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), emit


@intrinsic
def _float(typing_context, value):
    """The float whose bits these are."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.int32), emit


@njit(nogil=True, cache=True, inline="always")
def _log2(a):
    """log₂ a for a > 0: exponent bits, and ln(1 + f) as a polynomial on [√½, √2] (Cephes' logf); 1e-7 relative."""
    i = _bits(a)
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


@njit(nogil=True, cache=True, inline="always")
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
    return _float(_bits(p) + (r << np.int32(23)))


@njit(nogil=True, cache=True, fastmath=True)
def product(spectra, template):
    """spectra (n, 2m) ← spectra · template (2m), complex, in place."""
    for b in range(spectra.shape[0]):
        f = spectra[b]
        for j in range(template.size // 2):
            xr, xi, kr, ki = f[2 * j], f[2 * j + 1], template[2 * j], template[2 * j + 1]
            f[2 * j] = xr * kr - xi * ki
            f[2 * j + 1] = xr * ki + xi * kr


@njit(nogil=True, cache=True, fastmath=True)
def power_in_place(m, power):
    """m (n, 2k) ← m |m|^(power - 1), complex, in place."""
    e = np.float32(0.5) * (power - np.float32(1.0))
    for b in range(m.shape[0]):
        f = m[b]
        for j in range(f.size // 2):
            re, im = f[2 * j], f[2 * j + 1]
            scale = _exp2(e * _log2(re * re + im * im + TINY))
            f[2 * j] = re * scale
            f[2 * j + 1] = im * scale
