"""Fourier transforms over the last two axes, and along the last one. No other module calls an FFT.

Forward exp(-2πi k·r) without a factor, inverse with 1/N.

NumPy arrays go through `scipy.fft`, which keeps single precision and obeys a user's `scipy.fft.set_backend` (pyFFTW, mkl_fft).
Arrays of other libraries go through their own `xp.fft`.
"""

from __future__ import annotations

from typing import Any

import array_api_compat as compat
import numpy as np

from gpu4d import arrays

_AXES = (-2, -1)


def _library(x: Any) -> tuple[Any, dict]:
    xp = arrays.namespace(x)
    if xp is arrays.NUMPY:
        import scipy.fft

        return scipy.fft, {"axes": _AXES}
    return xp.fft, {"axes": _AXES}


def next_fast_len(n: int, *, real: bool = False) -> int:
    """Return the least length from n on whose transform is fast."""
    import scipy.fft

    return int(scipy.fft.next_fast_len(n, real=real))


def rfft2(x: Any) -> Any:
    """Return the half-plane transform (..., nx, ny//2 + 1) of real planes."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _empty_transform(x, x.shape[-1] // 2 + 1, real=False)
    return library.rfftn(x, **axes)


def irfft2(x: Any, shape: tuple[int, int]) -> Any:
    """Return the real planes of `shape` from their half-plane transform."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _empty_transform(x, shape[-1], real=True)
    return library.irfftn(x, s=tuple(shape), **axes)


def irfft(x: Any, n: int) -> Any:
    """Return the real curves (..., n) from their half spectra (..., n // 2 + 1), along the last axis."""
    xp = arrays.namespace(x)
    if 0 in x.shape[:-1]:
        return _empty_transform(x, n, real=True)
    if xp is arrays.NUMPY:
        import scipy.fft

        return scipy.fft.irfft(x, n, axis=-1)
    return xp.fft.irfft(x, n=n, axis=-1)


def irfft2_of_spent(x: Any, shape: tuple[int, int]) -> Any:
    """Do `irfft2` without the factor 1/N. The input, NumPy or CuPy, may be overwritten.

    Launchers of kernels use it: their kernels apply the factor, which saves two passes over memory (the factor, and a copy of the input).
    """
    if compat.is_cupy_array(x):
        import cupyx.scipy.fft as library
    else:
        import scipy.fft as library
    return library.irfftn(x, s=tuple(shape), axes=_AXES, norm="forward", overwrite_x=True)


def in_units(x: Any, unit: int, shape: tuple[int, int] | None = None) -> Any:
    """Transform `unit` planes at a time: `rfft2`, or `irfft2_of_spent` if a shape is given.

    FFT libraries of GPUs give the same bits only for batches of the same size. With a fixed `unit`, the number of planes may follow the
    memory. Results of SciPy do not depend on the size, so it takes all planes at once.

    Parameters
    ----------
    x : (n, nx, ny) real or (n, nx, ny // 2 + 1) complex, of NumPy or CuPy
    unit : int
        Planes of one transform. n is a multiple of it.
    shape : (nx, ny), optional
        Shape of the planes, for the inverse transform.
    """
    transform = rfft2 if shape is None else lambda planes: irfft2_of_spent(planes, shape)
    if not compat.is_cupy_array(x) or len(x) <= unit:
        return transform(x)
    import cupy
    from cupyx.scipy.fft import get_fft_plan

    kind, direction = ("R2C", cupy.cuda.cufft.CUFFT_FORWARD) if shape is None else ("C2R", cupy.cuda.cufft.CUFFT_INVERSE)
    first = transform(x[:unit])  # CuPy caches the plan, and uses it again below
    out = cupy.empty((len(x), *first.shape[1:]), first.dtype)
    out[:unit] = first
    plan = get_fft_plan(x[unit : 2 * unit], shape=shape, axes=_AXES, value_type=kind)
    for begin in range(unit, len(x), unit):
        plan.fft(x[begin : begin + unit], out[begin : begin + unit], direction)
    return out


def fft2(x: Any) -> Any:
    """Return the full transform of real or complex planes."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _empty_transform(x, x.shape[-1], real=False)
    return library.fftn(_complex(x), **axes)


def ifft2(x: Any) -> Any:
    """Return the complex planes from their full transform."""
    library, axes = _library(x)
    if 0 in x.shape[:-2]:
        return _empty_transform(x, x.shape[-1], real=False)
    return library.ifftn(_complex(x), **axes)


def fft2_of_spent(x: Any) -> Any:
    """Do `fft2` of a complex array that is not needed any more. NumPy and CuPy may overwrite it, which saves memory and time."""
    return _of_spent(x, "fftn") if 0 not in x.shape else fft2(x)


def ifft2_of_spent(x: Any) -> Any:
    """Do `ifft2` of a complex array that is not needed any more. NumPy and CuPy may overwrite it, which saves memory and time."""
    return _of_spent(x, "ifftn") if 0 not in x.shape else ifft2(x)


def _of_spent(x: Any, name: str) -> Any:
    if isinstance(x, np.ndarray):
        import scipy.fft as library
    elif compat.is_cupy_array(x):
        import cupyx.scipy.fft as library
    else:
        return getattr(arrays.namespace(x).fft, name)(x, axes=_AXES)
    return getattr(library, name)(x, axes=_AXES, overwrite_x=True)


def _empty_transform(x: Any, columns: int, *, real: bool) -> Any:
    """Return the transform of no planes at all. torch refuses empty input."""
    xp = arrays.namespace(x)
    single = x.dtype in (xp.float32, xp.complex64)
    dtype = (xp.float32 if single else xp.float64) if real else (xp.complex64 if single else xp.complex128)
    return xp.zeros((*x.shape[:-1], columns), dtype=dtype, device=compat.device(x))


def _complex(x: Any) -> Any:
    """Return `x` in the complex dtype of its precision. The array API allows no other in a full transform."""
    xp = arrays.namespace(x)
    if xp.isdtype(x.dtype, "complex floating"):
        return x
    return xp.astype(x, xp.complex64 if x.dtype == xp.float32 else xp.complex128)


def frequencies(n: int, spacing: float = 1.0, *, half: bool = False, beside: Any = None) -> Any:
    """Return sample frequencies in cycles per unit of `spacing`, zero frequency first. `half` gives those of the last axis of `rfft2`.

    They are computed on the host in float64. If `beside` is given, they are moved to the library and device of that array.
    """
    k = (np.fft.rfftfreq if half else np.fft.fftfreq)(n, spacing)
    if beside is None:
        return k
    return arrays.from_numpy(k, beside)


def half_sample(x: np.ndarray, *, sine: int | None = None, inverse: bool = False) -> np.ndarray:
    """Return the cosine transform of type II over the last two axes of a NumPy array, or its inverse.

    Along axis `sine` it is the sine transform. It equals the Fourier transform of a plane continued by mirror images, and needs a
    quarter of the samples.
    """
    import scipy.fft

    if 0 in x.shape:
        return np.empty(x.shape)
    for axis in _AXES:
        kind = "st" if axis == sine else "ct"
        x = getattr(scipy.fft, f"{'i' if inverse else ''}d{kind}")(x, type=2, axis=axis)
    return x
