"""Functions on arrays that every technique needs: namespace and device, and a few functions that the array API lacks.

They take any array-API array (NumPy, CuPy, torch, JAX, array_api_strict), and their results stay in its namespace.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import array_api_compat as compat
import numpy as np

from gpu4d import foreign_arrays
from gpu4d.errors import InputError

UNCHANGED = frozenset((np.ndarray, type(None), tuple, list, int, float, bool, str))  # types with nothing inside to be looked for
# ---------------------------------------------------------------- types


class Array(Protocol):
    """What type checkers take as an array: NumPy's, CuPy's, torch's, JAX's, and slices.

    It has what all these libraries share. Operands and results of its operators are `Any`, because each library has rules of its
    own for them. Inside functions that take any library's arrays, `namespace` gives everything else.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> Any:
        """Type of the values, in the words of the array's own library."""

    def __len__(self) -> int: ...
    def __array__(self) -> np.ndarray: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __rsub__(self, other: Any, /) -> Any: ...
    def __mul__(self, other: Any, /) -> Any: ...
    def __rmul__(self, other: Any, /) -> Any: ...
    def __truediv__(self, other: Any, /) -> Any: ...
    def __rtruediv__(self, other: Any, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...


if TYPE_CHECKING:

    class ReturnedArray(Array, Any):
        """An array in the library of what was given.

        Which library it is shows only when the program runs. So type checkers let it have the methods of any library, and let it
        stand where an array of one library is needed.
        """

        def __float__(self) -> float: ...
        def __int__(self) -> int: ...
        def __bool__(self) -> bool: ...
        def __iter__(self) -> Iterator[Any]: ...
else:
    ReturnedArray = Array


ArrayT = TypeVar("ArrayT", bound=Array)  # an array comes back in the library that it came in; the dtype may be another
ArrayLike = Array | float | Sequence[float] | Sequence[Array] | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]
Index = Any  # what an array takes in brackets: each library has rules of its own
DType = Any  # `np.dtype`, its name, or the dtype of another library; these have nothing in common

# ---------------------------------------------------------------- where an array lives


def is_array(x: Any) -> bool:
    """Return True for an array of any array-API library that holds its values in memory.

    It is False for lists, scalars (also NumPy's), labelled arrays, and arrays that are computed later or sparse (Dask, sparse).
    """
    if isinstance(x, np.ndarray):
        return True
    return (
        compat.is_array_api_obj(x)
        and not isinstance(x, type)
        and not (isinstance(x, np.generic) or compat.is_dask_array(x) or compat.is_pydata_sparse_array(x))
    )


def unwrapped(x: Any, name: str = "the array") -> Any:
    """Return the array inside a labelled one (`RealSlice`, `DiffractionSlice`, xarray's), or a view of one that only has DLPack.

    Anything else is returned unchanged. An array of a library that gpu4d does not know stays what it is if it has a namespace of the
    array API. Without one, it is viewed: as a NumPy array in memory of the CPU, as a CuPy array in memory of CUDA.

    Plain arrays have an attribute `data` too, but it is not an array: CuPy's is a pointer, NumPy's a memoryview.

    Raises
    ------
    InputError
        It is a masked array with masked values, because its mask would be lost. Or it is computed later (Dask), lies in a file (h5py,
        zarr), is sparse, or is labelled with the axes of a scan in another order.
    """
    if type(x) in UNCHANGED:
        return x
    if is_array(x):
        return without_mask(x, name)
    if isinstance(x, type):
        return x
    foreign_arrays.refuse_foreign(x, name)
    inside = getattr(x, "data", None)
    if is_array(inside):
        foreign_arrays.refuse_other_order(x, name)
        return inside
    return foreign_arrays.viewed(x, name) if foreign_arrays.has_dlpack(x) and not isinstance(x, np.generic) else x


def without_mask(x: Any, name: str) -> Any:
    """Return an array; a masked one without its mask if no value is masked. Refuse it otherwise: the mask would be lost."""
    if not isinstance(x, np.ma.MaskedArray):
        return x
    if np.ma.is_masked(x):
        filled = f"{foreign_arrays.variable(name)}.filled(0)"
        raise InputError(
            f"{name} is a NumPy masked array, and its mask would be lost: give {filled}, and the pixels or positions that "
            "count as a mask (detector_mask= of a DataCube, mask= or where= of a function)"
        )
    return x.data


def namespace(*found: Any) -> Any:
    """Return the array-API namespace that the arrays share. Raise an error that names the libraries or devices if they differ."""
    if not found:
        raise InputError("no array among the arguments: need a NumPy, CuPy, torch or JAX array")
    if all(type(a) is np.ndarray for a in found):
        return numpy_namespace()
    try:
        xp = compat.array_namespace(*found)
    except TypeError as error:
        kinds = sorted({f"{type(a).__module__}.{type(a).__name__}" for a in found})
        raise InputError(f"arrays of different libraries in one call: {', '.join(kinds)}; convert them to one of them") from error
    if len(found) == 1:
        return xp
    devices = {str(compat.device(a)) for a in found}
    if len(devices) > 1:
        raise InputError(f"arrays on different devices in one call: {', '.join(sorted(devices))}; move them to one of them")
    return xp


@functools.cache  # to find it anew takes longer than a small sum; importing it with this module would cost every program
def numpy_namespace() -> Any:
    """Return the array-API namespace of NumPy arrays."""
    return compat.array_namespace(np.empty(0))


def device(x: Any) -> Any:
    """Return the device of an array, as its own library describes it."""
    if isinstance(x, np.ndarray):
        return "cpu"
    return compat.device(x)


def is_cuda(x: Any) -> bool:
    """Return True if the array is in the memory of a CUDA device."""
    if isinstance(x, np.ndarray):
        return False
    if compat.is_cupy_array(x):
        return True
    return (compat.is_torch_array(x) and x.is_cuda) or (compat.is_jax_array(x) and "cuda" in str(compat.device(x)).lower())


def is_torch(x: Any) -> bool:
    """Return True for tensors of torch, also for those that need a gradient and do not give their address."""
    return compat.is_torch_array(x)


def zeroed(x: Any, mask: Any) -> Any:
    """Return `x` with zeros where the mask is False. The dtype stays."""
    xp = namespace(x)
    if isinstance(x, np.ndarray) or compat.is_cupy_array(x) or not xp.isdtype(x.dtype, (xp.uint16, xp.uint32)):
        return xp.where(mask, x, xp.zeros_like(x))
    # Use float64, which holds all values of these types: `where` of torch on CUDA does not take uint16 and uint32.
    wide = as_float64(x)
    return xp.astype(xp.where(mask, wide, xp.zeros_like(wide)), x.dtype)


def is_traced(x: Any) -> bool:
    """Return True for arrays under a transformation (jax.jit, gradients of torch). Only the definition works with them."""
    if isinstance(x, np.ndarray):
        return False
    if compat.is_torch_array(x):
        return bool(x.requires_grad)
    return compat.is_jax_array(x) and "Tracer" in type(x).__name__


def host_view(x: Any) -> np.ndarray | None:
    """Return a NumPy view of a CPU array without a copy, or None if its library offers none, or NumPy has no such dtype (bfloat16)."""
    if isinstance(x, np.ndarray):
        return x
    try:
        if compat.is_torch_array(x) and x.device.type == "cpu":
            return x.detach().numpy()
        if compat.is_jax_array(x) and not is_traced(x) and not is_cuda(x):
            return np.from_dlpack(x)
    except (TypeError, BufferError):
        return None
    return None


def cupy_view(x: Any) -> Any:
    """Return a CuPy view of a CUDA array of any library, without a copy."""
    import cupy

    return x if isinstance(x, cupy.ndarray) else cupy.from_dlpack(x)


def on_device_of(x: Any) -> AbstractContextManager[Any]:
    """Make the device of a CuPy array the current one inside the block. Other arrays change nothing."""
    return x.device if not isinstance(x, np.ndarray) and compat.is_cupy_array(x) else nullcontext()


def like(result: Any, template: Any) -> Any:
    """Return `result` (NumPy or CuPy) in the namespace and on the device of `template`, without a copy where DLPack allows it."""
    if type(result) is type(template):
        return result
    xp = namespace(template)
    if xp is numpy_namespace():
        return to_numpy(result)
    if compat.is_torch_array(template) and isinstance(result, np.ndarray):
        return xp.asarray(_contiguous(result))
    if compat.is_cupy_array(result):
        return _by_dlpack(result, template)
    return xp.asarray(result, device=compat.device(template))


def _by_dlpack(result: Any, template: Any) -> Any:
    """Return a CuPy array in the library of `template`, by DLPack."""
    if result.size == 0:  # an empty array has no address, so the driver cannot tell its device
        return from_numpy(np.empty(result.shape, result.dtype), template)
    if compat.is_jax_array(template):  # JAX refuses strides; its early versions accepted them and read wrong values
        import cupy

        result = cupy.ascontiguousarray(result)
    return compat.array_namespace(template).from_dlpack(result)


def to_numpy(x: Any) -> np.ndarray:
    """Return a NumPy array of any array, labelled array or sequence. Arrays of a device are copied to the host.

    Values may be of any dtype. Arguments of public functions that must be real numbers go through `real_array` first.
    """
    x = unwrapped(x)
    if isinstance(x, np.ndarray):
        return x
    if compat.is_cupy_array(x):
        return x.get()
    if compat.is_torch_array(x):
        return x.detach().cpu().numpy()
    if not is_array(x):
        return np.asarray(x)
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError):  # arrays on the second device of array_api_strict
        return np.asarray(compat.to_device(x, compat.array_namespace(x).Device("CPU_DEVICE")))


def from_numpy(x: Any, template: Any) -> Any:
    """Return a small host array (weights, masks, coordinates) in the namespace and on the device of `template`."""
    xp = namespace(template)
    if xp is numpy_namespace():
        return np.asarray(x)
    writable = np.require(np.asarray(x), requirements="W")  # torch warns about read-only arrays
    return xp.asarray(_contiguous(writable), device=compat.device(template))


def _contiguous(x: np.ndarray) -> np.ndarray:
    """Return an array in C order, for libraries that take no negative strides. A zero-dimensional array stays one."""
    return np.ascontiguousarray(x).reshape(x.shape)


# ---------------------------------------------------------------- dtypes


def is_integer(x: Any) -> bool:
    """Return True for arrays of whole numbers or bools."""
    if type(x) is np.ndarray:
        return x.dtype.kind in "biu"
    return namespace(x).isdtype(x.dtype, ("integral", "bool"))


def is_real(x: Any) -> bool:
    """Return True for arrays of bools, whole numbers or real floats."""
    if type(x) is np.ndarray:
        return x.dtype.kind in "biuf"
    return namespace(x).isdtype(x.dtype, ("bool", "integral", "real floating"))


def is_complex(x: Any) -> bool:
    """Return True for arrays of complex numbers."""
    if type(x) is np.ndarray:
        return x.dtype.kind == "c"
    return namespace(x).isdtype(x.dtype, "complex floating")


@functools.lru_cache(maxsize=256, typed=True)  # the name of a dtype takes NumPy some µs
def sums_are_exact(dtype: Any) -> bool:
    """Return True for a dtype whose sums are made in int64: whole numbers of up to 32 bits, and bools."""
    return is_integer_dtype(dtype) and not str(getattr(dtype, "name", dtype)).endswith("64")


def is_integer_dtype(dtype: Any) -> bool:
    """Return True for a dtype of whole numbers or bools, of any library and in any byte order."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "biu"
    name = str(dtype)
    return "int" in name or "bool" in name


def as_float(x: Any, *, least: str = "float32") -> Any:
    """Return `x` as a real floating array. Floats keep their dtype. Integers become float64, because a definition is exact first."""
    xp = namespace(x)
    if xp.isdtype(x.dtype, "real floating"):
        return x if least == "float32" else as_float64(x)
    return as_float64(x)


def as_float64(x: Any) -> Any:
    """Return `x` in float64. Raise a clear error if JAX runs without x64."""
    xp = namespace(x)
    out = xp.astype(x, xp.float64)
    if compat.is_jax_array(out) and str(out.dtype) != "float64":
        raise InputError("JAX runs in single precision: call jax.config.update('jax_enable_x64', True) before using gpu4d")
    return out


def as_sum_dtype(x: Any) -> Any:
    """Return `x` in the dtype of its sums: int64 (exact) for whole numbers of up to 32 bits, float64 for others.

    Sums of 64-bit numbers may pass 2⁶³, where int64 would wrap round. In float64 they are exact up to 2⁵³, as counts are.
    """
    xp = namespace(x)
    if sums_are_exact(x.dtype):
        out = xp.astype(x, xp.int64)
        if compat.is_jax_array(out) and str(out.dtype) != "int64":
            as_float64(x)  # raises the error that explains x64
        return out
    return as_float64(x)


# ---------------------------------------------------------------- what the array API lacks


def scatter_add(values: Any, index: Any, size: int) -> Any:
    """Sum `values` that have the same `index`, in an order that depends on the input alone.

    Parameters
    ----------
    values : (n,) real
    index : (n,) int
        Bin of each value, 0 … size-1. Values with a negative index are left out.
    size : int

    Returns
    -------
    (size,) float64
    """
    xp = namespace(values, index)
    values, keep = as_float64(values), index >= 0
    if xp is numpy_namespace():
        return np.bincount(index[keep], weights=values[keep], minlength=size)
    index = xp.where(keep, index, xp.asarray(size, dtype=index.dtype, device=compat.device(index)))
    order = xp.argsort(index, stable=True)
    index, total = xp.take(index, order), xp.take(values, order)
    # Running sums inside each bin, over 1, 2, 4, … values. One running sum over all bins and differences of it would be
    # shorter, but a NaN or a large value would then spoil all bins that follow.
    reach = 1
    while reach < index.shape[0]:
        before = xp.where(index[reach:] == index[:-reach], total[:-reach], xp.zeros_like(total[:-reach]))
        total = xp.concat([total[:reach], total[reach:] + before])
        reach *= 2
    bins = xp.arange(size + 1, dtype=index.dtype, device=compat.device(index))
    edge = xp.searchsorted(index, bins)
    zero = xp.zeros((1,), dtype=total.dtype, device=compat.device(total))
    last = xp.take(xp.concat([zero, total]), edge[1:])
    return xp.where(edge[1:] > edge[:-1], last, xp.zeros_like(last))


def median(x: Any, axis: int = -1) -> Any:
    """Return the median along one axis. It is NaN where a value is NaN, as in numpy.median."""
    xp = namespace(x)
    x = xp.sort(xp.moveaxis(as_float(x), axis, -1), axis=-1)
    n = x.shape[-1]
    return (x[..., (n - 1) // 2] + x[..., n // 2]) / 2 + x[..., -1] * 0


def nanmean(x: Any, axis: int | tuple[int, ...]) -> Any:
    """Return the mean of the values that are not NaN, or NaN if all are."""
    xp = namespace(x)
    ok = ~xp.isnan(x)
    count = xp.sum(xp.astype(ok, x.dtype), axis=axis)
    total = xp.sum(xp.where(ok, x, xp.zeros_like(x)), axis=axis)
    return xp.where(count > 0, total / xp.where(count > 0, count, xp.ones_like(count)), xp.full_like(total, math.nan))


def gather(x: Any, index: Any) -> Any:
    """Return `x[..., index]` for each row: take_along_axis on the last axis."""
    return namespace(x, index).take_along_axis(x, index, axis=-1)


def solve(a: Any, b: Any) -> tuple[Any, Any]:
    """Solve a batch of linear systems in float64. A singular system gives NaN, raises nothing, and does not change the others.

    Parameters
    ----------
    a : (..., n, n) real
    b : (..., n, m) real

    Returns
    -------
    x : (..., n, m) float64
    regular : (...) bool
        False if the system is not finite or singular (determinant below 1e-12 with rows scaled to length 1).
    """
    xp = namespace(a, b)
    a, b = as_float64(a), as_float64(b)
    n = a.shape[-1]
    eye = xp.broadcast_to(xp.eye(n, dtype=a.dtype, device=compat.device(a)), a.shape)
    finite = xp.all(xp.isfinite(a), axis=(-2, -1)) & xp.all(xp.isfinite(b), axis=(-2, -1))
    clean = xp.where(finite[..., None, None], a, eye)
    size = xp.sqrt(xp.sum(clean * clean, axis=-1, keepdims=True))
    scaled = clean / xp.where(size > 0, size, xp.ones_like(size))
    regular = finite & (xp.abs(xp.linalg.det(scaled)) > 1e-12)
    x = xp.linalg.solve(xp.where(regular[..., None, None], clean, eye), xp.where(finite[..., None, None], b, xp.zeros_like(b)))
    return xp.where(regular[..., None, None], x, xp.full_like(x, math.nan)), regular
