"""The only module that calls an FFT: forward exp(-2πi k·r), unnormalised; inverse 1/N; over the last two axes.

NumPy arrays go through `scipy.fft`, which keeps single precision and obeys a user's `scipy.fft.set_backend` (pyFFTW, mkl_fft);
every other library through its own `xp.fft`.
"""

from __future__ import annotations

from typing import Any

import array_api_compat as compat
import numpy as np

_AXES = (-2, -1)


def _library(x: Any) -> tuple[Any, dict]:
    xp = compat.array_namespace(x)
    if compat.is_numpy_namespace(xp):
        import scipy.fft

        return scipy.fft, {"axes": _AXES}
    return xp.fft, {"axes": _AXES}


def rfft2(x: Any) -> Any:
    """Half-plane transform (..., nx, ny//2 + 1) of real planes."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _none(x, x.shape[-1] // 2 + 1, real=False)
    return library.rfftn(x, **axes)


def irfft2(x: Any, shape: tuple[int, int]) -> Any:
    """Real planes of `shape` from their half-plane transform."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _none(x, shape[-1], real=True)
    return library.irfftn(x, s=tuple(shape), **axes)


def irfft2_of_spent(x: Any, shape: tuple[int, int]) -> Any:
    """`irfft2` without the factor 1/N, of NumPy or CuPy half planes that may be overwritten.

    For launchers of kernels, which have a place for the factor: it, and the copy that keeps the input whole, are two more passes.
    """
    if compat.is_cupy_array(x):
        import cupyx.scipy.fft as library
    else:
        import scipy.fft as library
    return library.irfftn(x, s=tuple(shape), axes=_AXES, norm="forward", overwrite_x=True)


def in_units(x: Any, unit: int, shape: tuple[int, int] | None = None) -> Any:
    """`rfft2` of planes, `irfft2_of_spent` where a shape is given, `unit` planes at a time; their number is a multiple of it.

    FFT libraries of devices promise the same bits for batches of the same size alone. So a batch may be as long as there is memory for.
    SciPy's do not depend on it, and are left to take all planes at once.

    Parameters
    ----------
    x : (n, nx, ny) real or (n, nx, ny // 2 + 1) complex, of NumPy or CuPy
    unit : int
    shape : (nx, ny), optional
        Of the planes, for the inverse transform.
    """
    transform = rfft2 if shape is None else lambda planes: irfft2_of_spent(planes, shape)
    if not compat.is_cupy_array(x) or len(x) <= unit:
        return transform(x)
    import cupy
    from cupyx.scipy.fft import get_fft_plan

    kind, direction = ("R2C", cupy.cuda.cufft.CUFFT_FORWARD) if shape is None else ("C2R", cupy.cuda.cufft.CUFFT_INVERSE)
    first = transform(x[:unit])  # CuPy keeps its plan, which it finds again below
    out = cupy.empty((len(x), *first.shape[1:]), first.dtype)
    out[:unit] = first
    plan = get_fft_plan(x[unit : 2 * unit], shape=shape, axes=_AXES, value_type=kind)
    for begin in range(unit, len(x), unit):
        plan.fft(x[begin : begin + unit], out[begin : begin + unit], direction)
    return out


def fft2(x: Any) -> Any:
    """Full transform of real or complex planes."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _none(x, x.shape[-1], real=False)
    return library.fftn(_complex(x), **axes)


def ifft2(x: Any) -> Any:
    """Complex planes from their full transform."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _none(x, x.shape[-1], real=False)
    return library.ifftn(_complex(x), **axes)


def _none(x: Any, columns: int, *, real: bool) -> Any:
    """The transform of no planes at all, which torch refuses."""
    xp = compat.array_namespace(x)
    single = x.dtype in (xp.float32, xp.complex64)
    dtype = (xp.float32 if single else xp.float64) if real else (xp.complex64 if single else xp.complex128)
    return xp.zeros((*x.shape[:-1], columns), dtype=dtype, device=compat.device(x))


def _complex(x: Any) -> Any:
    """`x` in the complex dtype of its precision: all that the array API lets into a full transform."""
    xp = compat.array_namespace(x)
    if xp.isdtype(x.dtype, "complex floating"):
        return x
    return xp.astype(x, xp.complex64 if x.dtype == xp.float32 else xp.complex128)


def frequencies(n: int, spacing: float = 1.0, *, half: bool = False, beside: Any = None) -> Any:
    """Sample frequencies in cycles per unit of `spacing`, corner-centred; `half` for the last axis of `rfft2`.

    Made on the host in float64 and moved beside the array `beside` where one is given.
    """
    k = (np.fft.rfftfreq if half else np.fft.fftfreq)(n, spacing)
    if beside is None:
        return k
    from gpu4d.arrays import from_numpy

    return from_numpy(k, beside)


def half_sample(x: np.ndarray, *, sine: int | None = None, inverse: bool = False) -> np.ndarray:
    """Cosine transform of type II over the last two axes of a NumPy array, or its inverse; along axis `sine` the sine transform.

    It is the transform of a plane and its mirror images, for a quarter of the samples.
    """
    import scipy.fft

    if 0 in x.shape:
        return np.empty(x.shape)
    for axis in _AXES:
        kind = "st" if axis == sine else "ct"
        x = getattr(scipy.fft, f"{'i' if inverse else ''}d{kind}")(x, type=2, axis=axis)
    return x
