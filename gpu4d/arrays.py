"""What every technique needs of arrays: their namespace and device, and the few functions the array API lacks.

Definitions call these with any array-API array (NumPy, CuPy, torch, JAX, array_api_strict) and stay in its namespace.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import array_api_compat as compat
import numpy as np

from gpu4d.errors import InputError

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


class ReturnedArray(Array, Protocol):
    """An array in the library of what was given. Type checkers let it have the methods of any library."""

    def __getattr__(self, name: str, /) -> Any: ...
    def __iter__(self) -> Iterator[Any]: ...


ArrayT = TypeVar("ArrayT", bound=Array)  # an array comes back in the library that it came in; the dtype may be another
ArrayLike = Array | float | Sequence[float] | Sequence[Array] | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]
Index = Any  # what an array takes in brackets: each library has rules of its own
DType = Any  # `np.dtype`, its name, or the dtype of another library; these have nothing in common

# ---------------------------------------------------------------- where an array lives


def is_array(x: Any) -> bool:
    """True for an array of any array-API library (not for lists, NumPy's and other scalars, or labelled arrays)."""
    return compat.is_array_api_obj(x) and not isinstance(x, np.generic)


def unwrapped(x: Any) -> Any:
    """Take the array out of a labelled one (`RealSlice`, `DiffractionSlice`, xarray's); everything else comes back as it is.

    Arrays have attributes called `data` too, which are no arrays of their shape: CuPy's is a pointer, NumPy's a memoryview.
    """
    if is_array(x):
        return x
    inside = getattr(x, "data", None)
    return inside if is_array(inside) else x


def namespace(*found: Any) -> Any:
    """The array-API namespace the arrays share; an error that names both where they differ."""
    if not found:
        raise InputError("no array among the arguments: need a NumPy, CuPy, torch or JAX array")
    try:
        xp = compat.array_namespace(*found)
    except TypeError as error:
        kinds = sorted({f"{type(a).__module__}.{type(a).__name__}" for a in found})
        raise InputError(f"arrays of different libraries in one call: {', '.join(kinds)}; convert them to one of them") from error
    devices = {str(compat.device(a)) for a in found}
    if len(devices) > 1:
        raise InputError(f"arrays on different devices in one call: {', '.join(sorted(devices))}; move them to one of them")
    return xp


def device(x: Any) -> Any:
    """The device of an array, in its own library's words."""
    return compat.device(x)


def is_cuda(x: Any) -> bool:
    """True where the array lives on a CUDA device."""
    if compat.is_cupy_array(x):
        return True
    return (compat.is_torch_array(x) and x.is_cuda) or (compat.is_jax_array(x) and "cuda" in str(compat.device(x)).lower())


def is_torch(x: Any) -> bool:
    """True for tensors of torch, also those that carry a gradient and refuse to say where they lie."""
    return compat.is_torch_array(x)


def zeroed(x: Any, mask: Any) -> Any:
    """`x` with zeros where the mask is False, in its own dtype."""
    xp = compat.array_namespace(x)
    if isinstance(x, np.ndarray) or compat.is_cupy_array(x) or not xp.isdtype(x.dtype, (xp.uint16, xp.uint32)):
        return xp.where(mask, x, xp.zeros_like(x))
    # Chosen in float64, which holds them all: torch on CUDA cannot choose between integers without a sign of 16 and 32 bits.
    wide = as_float64(x)
    return xp.astype(xp.where(mask, wide, xp.zeros_like(wide)), x.dtype)


def is_traced(x: Any) -> bool:
    """True for arrays under a transformation (jax.jit, gradients of torch): only the definition can follow them."""
    if compat.is_torch_array(x):
        return bool(x.requires_grad)
    return compat.is_jax_array(x) and "Tracer" in type(x).__name__


def host_view(x: Any) -> np.ndarray | None:
    """A NumPy view of a CPU array without a copy, or None where the library offers none."""
    if isinstance(x, np.ndarray):
        return x
    if compat.is_torch_array(x) and x.device.type == "cpu":
        return x.detach().numpy()
    if compat.is_jax_array(x) and not is_traced(x) and not is_cuda(x):
        return np.from_dlpack(x)
    return None


def cupy_view(x: Any) -> Any:
    """A CuPy view of a CUDA array of any library, without a copy."""
    import cupy

    return x if isinstance(x, cupy.ndarray) else cupy.from_dlpack(x)


def on_device_of(x: Any) -> AbstractContextManager[Any]:
    """Inside it the device of a CuPy array is the current one, where kernels run and new arrays are made; nothing for other arrays."""
    return x.device if compat.is_cupy_array(x) else nullcontext()


def like(result: Any, template: Any) -> Any:
    """`result` (NumPy or CuPy) in the namespace and on the device of `template`; no copy where DLPack allows."""
    if type(result) is type(template):
        return result
    xp = compat.array_namespace(template)
    if compat.is_numpy_namespace(xp):
        return to_numpy(result)
    if compat.is_torch_array(template) and isinstance(result, np.ndarray):
        return xp.asarray(_contiguous(result))
    if compat.is_cupy_array(result):
        return _exported(result, template)
    return xp.asarray(result, device=compat.device(template))


def _exported(result: Any, template: Any) -> Any:
    """A CuPy array in the library of `template`, by DLPack."""
    if result.size == 0:  # it has no address, of which a driver could say on which device it lies
        return from_numpy(np.empty(result.shape, result.dtype), template)
    if compat.is_jax_array(template):  # refuses strides; early versions took them and read wrong values
        import cupy

        result = cupy.ascontiguousarray(result)
    return compat.array_namespace(template).from_dlpack(result)


def to_numpy(x: Any) -> np.ndarray:
    """A NumPy array from any array, labelled array or sequence, copied to the host where it must be."""
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
    except (TypeError, ValueError, RuntimeError):  # array_api_strict on its second device
        return np.asarray(compat.to_device(x, compat.array_namespace(x).Device("CPU_DEVICE")))


def floats(given: Any) -> tuple[float, ...]:
    """Read a sequence of numbers (a position, radii, an ellipse), or an array of any library, as Python floats."""
    given = unwrapped(given)
    return tuple(float(value) for value in (to_numpy(given) if is_array(given) else given))


def from_numpy(x: Any, template: Any) -> Any:
    """A small host array (weights, masks, coordinates) beside `template`: same namespace, same device."""
    xp = compat.array_namespace(template)
    if compat.is_numpy_namespace(xp):
        return np.asarray(x)
    writable = np.require(np.asarray(x), requirements="W")  # torch warns of others
    return xp.asarray(_contiguous(writable), device=compat.device(template))


def _contiguous(x: np.ndarray) -> np.ndarray:
    """In C order, for libraries that take no negative strides; a scalar array stays one."""
    return np.ascontiguousarray(x).reshape(x.shape)


# ---------------------------------------------------------------- dtypes


def is_integer(x: Any) -> bool:
    return compat.array_namespace(x).isdtype(x.dtype, ("integral", "bool"))


def is_integer_dtype(dtype: Any) -> bool:
    """Of the dtype of any library, NumPy's in any byte order: whole numbers and bools, as `is_integer` of arrays."""
    name = dtype.name if isinstance(dtype, np.dtype) else str(dtype)
    return "int" in name or "bool" in name


def as_float(x: Any, *, least: str = "float32") -> Any:
    """`x` as a real floating array: floats stay, integers become float64 (a definition is exact first)."""
    xp = compat.array_namespace(x)
    if xp.isdtype(x.dtype, "real floating"):
        return x if least == "float32" else as_float64(x)
    return as_float64(x)


def as_float64(x: Any) -> Any:
    """`x` in double precision; one clear error where JAX runs without x64."""
    xp = compat.array_namespace(x)
    out = xp.astype(x, xp.float64)
    if compat.is_jax_array(out) and str(out.dtype) != "float64":
        raise InputError("JAX runs in single precision: call jax.config.update('jax_enable_x64', True) before using gpu4d")
    return out


def as_sum_dtype(x: Any) -> Any:
    """`x` in the dtype sums are made in: int64 for counts (exact), float64 for the rest."""
    xp = compat.array_namespace(x)
    if is_integer(x):
        out = xp.astype(x, xp.int64)
        if compat.is_jax_array(out) and str(out.dtype) != "int64":
            as_float64(x)  # raises the error about x64
        return out
    return as_float64(x)


# ---------------------------------------------------------------- what the array API lacks


def scatter_add(values: Any, index: Any, size: int) -> Any:
    """Sum of `values` by `index`, in an order that depends on the input alone.

    Parameters
    ----------
    values : (n,) real
    index : (n,) int
        Bin of each value, 0 … size-1; negative ones are left out.
    size : int

    Returns
    -------
    (size,) float64
    """
    xp = compat.array_namespace(values, index)
    values, keep = as_float64(values), index >= 0
    if compat.is_numpy_namespace(xp):
        return np.bincount(index[keep], weights=values[keep], minlength=size)
    index = xp.where(keep, index, xp.asarray(size, dtype=index.dtype, device=compat.device(index)))
    order = xp.argsort(index, stable=True)
    index, total = xp.take(index, order), xp.take(values, order)
    # A running sum inside each bin, doubling its reach: differences of one long running sum would let a NaN or a large
    # value into the bins behind it.
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
    """Median along one axis; NaN where a value is NaN, as numpy.median."""
    xp = compat.array_namespace(x)
    x = xp.sort(xp.moveaxis(as_float(x), axis, -1), axis=-1)
    n = x.shape[-1]
    return (x[..., (n - 1) // 2] + x[..., n // 2]) / 2 + x[..., -1] * 0


def nanmean(x: Any, axis: int | tuple[int, ...]) -> Any:
    """Mean over the values that are not NaN; NaN where there is none."""
    xp = compat.array_namespace(x)
    ok = ~xp.isnan(x)
    count = xp.sum(xp.astype(ok, x.dtype), axis=axis)
    total = xp.sum(xp.where(ok, x, xp.zeros_like(x)), axis=axis)
    return xp.where(count > 0, total / xp.where(count > 0, count, xp.ones_like(count)), xp.full_like(total, math.nan))


def gather(x: Any, index: Any) -> Any:
    """`x[..., index]` per row: take_along_axis on the last axis."""
    return compat.array_namespace(x, index).take_along_axis(x, index, axis=-1)


def solve(a: Any, b: Any) -> tuple[Any, Any]:
    """Batched linear systems in float64; a singular system gives NaN, never an exception, never a poisoned neighbour.

    Parameters
    ----------
    a : (..., n, n) real
    b : (..., n, m) real

    Returns
    -------
    x : (..., n, m) float64
    regular : (...) bool
        False where the system is singular (determinant, scaled by the diagonal, under 1e-12) or not finite.
    """
    xp = compat.array_namespace(a, b)
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
