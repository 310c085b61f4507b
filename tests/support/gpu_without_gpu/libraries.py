"""cuFFT, cuBLAS, cuSOLVER and Thrust's sorts, done by NumPy and SciPy in the memory that CuPy's pointers name.

cuda/math_libraries.c packs the arguments of the C functions; the order of the numbers is the same there and here.
"""

from __future__ import annotations

import ctypes
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_without_gpu import instrument

KINDS = (np.float32, np.float64, np.complex64, np.complex128)
R2C, C2R, C2C, D2Z, Z2D, Z2Z = 0x2A, 0x2C, 0x29, 0x6A, 0x6C, 0x69  # cufftType
FORWARD = -1
FAILED = 14  # internal error, in the words of cuBLAS


def at(pointer: int, shape: Sequence[int], dtype: Any, strides: Sequence[int] | None = None) -> np.ndarray:
    """Array view of memory."""
    item = np.dtype(dtype).itemsize
    if strides is None:
        nbytes = int(np.prod(shape)) * item
    else:
        nbytes = sum((n - 1) * abs(step) for n, step in zip(shape, strides)) + item
    return np.ndarray(tuple(shape), dtype, (ctypes.c_char * nbytes).from_address(pointer), strides=strides)


# ---------------------------------------------------------------- cuFFT


@dataclass(frozen=True)
class Plan:
    """Numbers of cufftPlanMany; embeds of the last axis alone are used, as CuPy makes them."""

    rank: int
    n: tuple[int, ...]
    in_stride: int
    in_distance: int
    out_stride: int
    out_distance: int
    type: int
    batch: int
    in_embed: int
    out_embed: int

    def view(self, pointer: int, last: int, layout: tuple[int, int, int], dtype: Any) -> np.ndarray:
        """All transforms of one side: (batch, *n) with `last` values along the last axis."""
        stride, distance, embed = layout
        item, shape = np.dtype(dtype).itemsize, (*self.n[:-1], last)
        steps, step = [], stride * item
        for number in range(len(shape) - 1, -1, -1):
            steps.insert(0, step)
            step *= embed if number == len(shape) - 1 else shape[number]
        return at(pointer, (self.batch, *shape), dtype, (distance * item, *steps))


_plans: dict[int, Plan] = {}


def plan(numbers: Any, pointers: Any) -> None:
    identity, rank, *sizes = numbers[:5]
    _plans[identity] = Plan(rank, tuple(sizes[:rank]), *numbers[5:13])


def fft(numbers: Any, pointers: Any) -> None:
    identity, kind, direction = numbers[:3]
    p, single = _plans[identity], kind in (R2C, C2R, C2C)
    assert p.type == kind, f"a plan for {p.type:#x} runs a transform of {kind:#x}"
    complex_, real = (np.complex64, np.float32) if single else (np.complex128, np.float64)
    to_real, from_real = kind in (C2R, Z2D), kind in (R2C, D2Z)
    whole, half = p.n[-1], p.n[-1] // 2 + 1
    given = p.view(pointers[0], half if to_real else whole, (p.in_stride, p.in_distance, p.in_embed), real if from_real else complex_)
    out = p.view(pointers[1], half if from_real else whole, (p.out_stride, p.out_distance, p.out_embed), real if to_real else complex_)
    axes = tuple(range(1, 1 + p.rank))
    if from_real:
        out[...] = np.fft.rfftn(given, axes=axes)
    elif to_real:
        found = np.fft.irfftn(given, s=p.n, axes=axes, norm="forward")
        given[...] = np.nan  # cuFFT may use its input up
        out[...] = found
    else:
        out[...] = np.fft.fftn(given, axes=axes) if direction == FORWARD else np.fft.ifftn(given, axes=axes, norm="forward")


# ---------------------------------------------------------------- cuBLAS


def gemm(numbers: Any, pointers: Any) -> None:
    kind, ta, tb, m, n, k, lda, step_a, ldb, step_b, ldc, step_c, batch = numbers[:13]
    dtype, item = KINDS[kind], np.dtype(KINDS[kind]).itemsize

    def matrix(pointer: int, rows: int, columns: int, leading: int, step: int, transposed: int) -> np.ndarray:
        shape = (columns, rows) if transposed else (rows, columns)
        found = at(pointer, (batch, *shape), dtype, (step * item, item, leading * item))
        if transposed:
            found = found.transpose(0, 2, 1)
        return found.conj() if transposed == 2 else found

    alpha, beta = at(pointers[0], (1,), dtype)[0], at(pointers[3], (1,), dtype)[0]
    out = matrix(pointers[4], m, n, ldc, step_c, 0)
    product = alpha * (matrix(pointers[1], m, k, lda, step_a, ta) @ matrix(pointers[2], k, n, ldb, step_b, tb))
    out[...] = product + beta * out if beta else product


def _columns(pointer: int, rows: int, columns: int, leading: int) -> np.ndarray:
    return at(int(pointer), (rows, columns), np.float64, (8, leading * 8))


def factors(numbers: Any, pointers: Any) -> None:
    """LU of a batch, in place; `info` is 1 for a singular matrix."""
    import scipy.linalg

    n, leading, batch = numbers[:3]
    pivots, info = at(pointers[1], (batch, n), np.int32), at(pointers[2], (batch,), np.int32)
    for number, pointer in enumerate(at(pointers[0], (batch,), np.uintp)):
        matrix = _columns(pointer, n, n, leading)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of singular matrices: `info` says it
            found, order = scipy.linalg.lu_factor(matrix, check_finite=False)
        matrix[...] = found
        pivots[number] = order + 1
        info[number] = 0 if np.diag(found).all() else 1


def solution(numbers: Any, pointers: Any) -> None:
    """Solutions of a batch from its factors, in place."""
    import scipy.linalg

    transposed, n, columns, leading_a, leading_b, batch = numbers[:6]
    pivots, right = at(pointers[1], (batch, n), np.int32), at(pointers[2], (batch,), np.uintp)
    for number, pointer in enumerate(at(pointers[0], (batch,), np.uintp)):
        matrix, values = _columns(pointer, n, n, leading_a), _columns(right[number], n, columns, leading_b)
        with np.errstate(all="ignore"):  # a singular matrix gives what it gives, as on the device
            values[...] = scipy.linalg.lu_solve((matrix, pivots[number] - 1), values, trans=transposed, check_finite=False)


# ---------------------------------------------------------------- Thrust


def sort(dtype: Any, data: int, keys: int, shape: Sequence[int]) -> None:
    at(data, shape, dtype).sort(axis=-1)


def argsort(dtype: Any, index: int, data: int, keys: int, shape: Sequence[int]) -> None:
    values = at(data, shape, dtype)
    order = np.argsort(values, axis=-1, kind="stable")
    at(index, shape, np.intp)[...] = order
    values[...] = np.take_along_axis(values, order, -1)


def lexsort(dtype: Any, index: int, keys: int, k: int, n: int) -> None:
    at(index, (n,), np.intp)[...] = np.lexsort(at(keys, (k, n), dtype))


# ---------------------------------------------------------------- the way in

FUNCTIONS: dict[str, Callable[[Any, Any], None]] = {"plan": plan, "fft": fft, "gemm": gemm, "factors": factors, "solution": solution}


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_longlong), ctypes.POINTER(ctypes.c_void_p))
def _call(name: bytes, numbers: Any, pointers: Any) -> int:
    try:
        FUNCTIONS[name.decode()](numbers, pointers)
    except Exception:  # nothing may pass through C
        instrument.complain(f"gpu_without_gpu cannot do {name.decode()}:\n{traceback.format_exc()}")
        return FAILED
    return 0


def replace_libraries() -> None:
    """Let the stand-ins of CUDA's libraries, and CuPy's sorts, call the functions of this module."""
    from cupy.cuda import thrust

    instrument.library().instrument_set_libraries(_call)
    for function in (sort, argsort, lexsort):
        setattr(thrust, function.__name__, function)
