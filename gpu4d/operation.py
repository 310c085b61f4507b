"""Operations: functions on arrays with one definition and fast twins.

The function under `@operation` is the **definition**. It is written in the array API, clear, right in float64, and says what the
answer is. A twin has the same name and signature. It lives in the module that the decorator names, in `kernels/` (CUDA) or
`cpu_fallback/` (numba), and is imported on first use. Which one runs is decided once in every public call, from the arrays and
from the limits that the decorator states for the twins.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import inspect
import logging
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, DType
from gpu4d.errors import InputError
from gpu4d.real_arrays import beside, real_array, real_number

log = logging.getLogger("gpu4d")

P = ParamSpec("P")
R = TypeVar("R", covariant=True)

OPERATIONS: dict[str, Operation] = {}  # name -> operation, of the modules imported so far; `all_operations` imports the rest
ROOMS = (
    "data",
    "imaging",
    "preprocess",
    "rings",
    "amorphous",
    "crystal",
    "bragg",
    "orientation",
    "deflection",
    "ptychography",
)  # folders whose modules define operations
IMPLEMENTATIONS = ("definition", "cpu", "cuda")
device_view: contextvars.ContextVar[Callable[[Any], Any]] = contextvars.ContextVar("gpu4d_device_view", default=arrays.cupy_view)
_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("gpu4d_implementation", default=None)


# Names of the dtypes that compiled code takes.
KERNEL_PIXELS = ("uint8", "uint16", "uint32", "float32")  # pixel types that the CUDA sources are instantiated for
DETECTOR_PIXELS = ("uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", "float64")
REAL = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
PLAIN = frozenset((int, float, bool, str, type(None), tuple))  # types of options that mean the same to every implementation
KERNEL_FRAME = 2**31  # pixels: a frame of so many cannot be indexed with 32 bits any more


@dataclass(frozen=True)
class Twin:
    """Compiled code for an operation, and the limits of what it takes. Beyond them the definition runs.

    Attributes
    ----------
    module : str
        Module with a function of the operation's name, for example ``"gpu4d.cpu_fallback.center_of_mass"``.
    dtypes : tuple of str or None
        Names of the dtypes of the first array that it takes; None for all.
    frame : int or None
        The size (Qx · Qy) of a frame must be less; None for no limit.
    longest : int or mapping of str to int or None
        Longest side of a frame in pixels: one number for all, or one for each dtype that has a limit.
    moment : mapping of str to int or None
        Qx · Qy · longest side must be less, for each dtype that has this limit: else first moments pass 64 bits.
    check : callable or None
        Checks limits of other arguments. It is called with the arguments of the operation, and returns why the twin cannot take
        them, or None.

    Examples
    --------
    >>> twin = Twin("gpu4d.kernels.masked_sums", KERNEL_PIXELS, longest={"uint32": 65536})
    >>> twin.refuses("int64", (256, 256))
    'it takes uint8, uint16, uint32, float32, not int64'
    >>> twin.refuses("uint32", (8, 65537))
    'it takes uint32 of up to 65536 pixels a side, not 65537'
    """

    module: str
    dtypes: tuple[str, ...] | None = None
    frame: int | None = None
    longest: int | Mapping[str, int] | None = None
    moment: Mapping[str, int] | None = None
    check: Callable[..., str | None] | None = None

    def refuses(self, dtype: Any, shape: tuple[int, ...]) -> str | None:
        """Return why the twin does not take frames of a dtype and shape (…, Qx, Qy), or None."""
        name, sides = dtype_name(dtype), shape[-2:]
        if self.frame is not None and prod(sides) >= self.frame:
            return f"it takes frames of less than {self.frame} pixels, not {prod(sides)}"
        if self.dtypes is not None and name not in self.dtypes:
            return f"it takes {', '.join(self.dtypes)}, not {name}"
        longest = self.longest.get(name) if isinstance(self.longest, Mapping) else self.longest
        if longest is not None and max(sides, default=0) > longest:
            return f"it takes {name} of up to {longest} pixels a side, not {max(sides)}"
        if self.moment is not None and prod(sides) * max(sides, default=0) >= self.moment.get(name, math.inf):
            return f"first moments of {name} on {' × '.join(map(str, sides))} pixels may pass 64 bits"
        return None


@functools.lru_cache(maxsize=256, typed=True)  # NumPy takes some µs for the name of a dtype
def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype in any array library: "uint16" for torch.uint16."""
    return str(np.dtype(dtype) if isinstance(dtype, type) else dtype).rpartition(".")[2]


class Operation(Generic[P, R]):
    """A definition, its twins, and the choice between them. Calling it runs the implementation that fits the arrays."""

    def __init__(self, definition: Callable[P, R], twins: dict[str, Twin]):
        functools.update_wrapper(self, definition)
        self.definition = definition
        self.twins = twins
        self.name: str = definition.__name__
        parameters = inspect.signature(definition).parameters.values()
        self._names = [p.name for p in parameters]
        # What a parameter of a public operation takes is read from its annotation.
        kinds = {p.name: str(p.annotation).removesuffix(" | None") for p in parameters}
        self._arrays = {name for name, kind in kinds.items() if "Array" in kind}
        self._numbers = {name: kind == "int" for name, kind in kinds.items() if kind in ("int", "float")}
        self._said: set[str] = set()
        self._refuses = functools.lru_cache(maxsize=256, typed=True)(lambda kind, dtype, sides: self.twins[kind].refuses(dtype, sides))
        OPERATIONS[self.name] = self

    def implementation(self, kind: str) -> Callable:
        """Return the function of a kind: "definition", "cpu" or "cuda"."""
        if kind == "definition":
            return self.definition
        if kind not in self.twins:
            raise InputError(f"{self.name} has no {kind!r} twin; it has {['definition', *self.twins]}")
        return getattr(importlib.import_module(self.twins[kind].module), self.name)

    def __reduce__(self) -> str:
        """Travel to other processes by name, as functions do: Dask and multiprocessing may map an operation."""
        return self.name

    def unsupported(self, kind: str, *args: Any, **options: Any) -> str | None:
        """Return why the twin of a kind cannot take these arguments, or None."""
        first = next(a for a in (*args, *options.values()) if arrays.is_array(a))
        twin = self.twins[kind]
        reason = None if twin.check is None else twin.check(*args, **options)
        return reason or self._refuses(kind, first.dtype, tuple(first.shape[-2:]))

    def kind_for(self, dtype: DType, place: Array | None = None, shape: tuple[int, ...] = ()) -> str:
        """Say which implementation will run, before there are arrays to run it on.

        `Twin.check` may look at options of the call. They are not known here, and are assumed to suit the twin.

        Parameters
        ----------
        dtype : dtype or str
            Dtype of the first array argument.
        place : array, optional
            Any array of the same library and on the same device as the later arguments. NumPy by default.
        shape : tuple of int, optional
            Shape (…, Qx, Qy) of the first array argument, if its size may matter.

        Returns
        -------
        {"definition", "cpu", "cuda"}

        Examples
        --------
        >>> import gpu4d
        >>> gpu4d.center_of_mass.kind_for("uint16"), gpu4d.center_of_mass.kind_for("float16")
        ('cpu', 'definition')
        """
        kind, _ = self._by_place([np.empty(0) if place is None else place])
        if kind in self.twins and _forced.get() is None and self.twins[kind].refuses(dtype, shape):
            return "definition"
        return kind

    def choose(self, *args: Any, **options: Any) -> str:
        """Choose the implementation for these arguments: the forced one if it exists, else the device's twin, else the definition."""
        found = [a for a in (*args, *options.values()) if arrays.is_array(a)]
        kind, reason = self._by_place(found)
        if kind in self.twins and _forced.get() is None:
            reason = self.unsupported(kind, *args, **options)
        return kind if reason is None else self._definition_because(reason)

    def _by_place(self, found: list[Any]) -> tuple[str, str | None]:
        """Choose by library and device of the arrays alone. The second value is the reason to log if the definition is chosen."""
        forced = _forced.get()
        if forced is not None:
            known = forced == "definition" or forced in self.twins
            return (forced, None) if known else ("definition", f"it has no {forced} twin")
        arrays.namespace(*found)  # mixed namespaces or devices are an error here, before any work
        kind = "cuda" if arrays.is_cuda(found[0]) else "cpu"
        if kind not in self.twins:
            return "definition", None
        if any(arrays.is_traced(a) for a in found):
            return "definition", "an array is traced or carries a gradient"
        if kind == "cpu" and any(arrays.host_view(a) is None for a in found):
            return "definition", None  # there is no NumPy view without a copy, as in array_api_strict
        return kind, None

    def _definition_because(self, reason: str) -> str:
        if reason not in self._said:
            self._said.add(reason)
            log.info("%s: the definition runs, because %s", self.name, reason)
        return "definition"

    def __call__(self, *args: P.args, **options: P.kwargs) -> R:
        if _forced.get() is None and self._as_twins_take(args, options):
            return self._run_on_host(args, options)
        named = [*zip(self._names, args), *(("", a) for a in args[len(self._names) :]), *options.items()]
        taken = [self._taken(name, a) for name, a in named]
        if any(self._adapts(name, given) for name, given in named):
            like = next((a for a, (_, given) in zip(taken, named) if arrays.is_array(arrays.unwrapped(given))), None)
            if like is not None:
                taken = [beside(a, name, like) if self._adapts(name, given) else a for a, (name, given) in zip(taken, named)]
        return self._run(tuple(taken[: len(args)]), dict(zip(options, taken[len(args) :])))

    def _as_twins_take(self, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        """Return True if every argument already has the form that implementations take, one of them a NumPy array: the usual call.

        It is decided by types alone, because the general way takes longer than the work on one small pattern.
        """
        found = False
        for name, given in (*zip(self._names, args), *options.items()):
            kind = type(given)
            if name in self._numbers:
                if kind is not int and (kind is not float or self._numbers[name]) and given is not None:
                    return False
            elif kind is np.ndarray:
                dtype = given.dtype
                if not dtype.isnative or dtype.kind not in "biufc" or (name in self._arrays and (dtype.kind == "c" or dtype.itemsize > 8)):
                    return False
                found = True
            elif name in self._arrays:
                if given is not None:
                    return False
            elif kind not in PLAIN and any(hasattr(given, name) for name in ("dtype", "data", "__dlpack__")):
                return False  # a scalar of NumPy, an array of another library, a labelled array
        return found and len(args) <= len(self._names)

    def _run_on_host(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Run the CPU twin on NumPy arrays, or the definition where there is none, or it does not take them."""
        if "cpu" not in self.twins:
            return self.implementation("definition")(*args, **options)
        if (reason := self.unsupported("cpu", *args, **options)) is not None:
            self._definition_because(reason)
            return self.implementation("definition")(*args, **options)
        return _on_host(self.implementation("cpu")(*args, **options))

    def _taken(self, name: str, given: Any) -> Any:
        """Return an argument in the form that definitions and twins take, after checking it."""
        if given is None:
            return None
        if name in self._arrays:
            return real_array(given, name)
        return _plain(given) if name not in self._numbers else real_number(given, name, self._numbers[name])

    def _adapts(self, name: str, given: Any) -> bool:
        """Return True for an argument that is brought into the library of the others: a mask, or an array given as a list."""
        return given is not None and name in self._arrays and (name == "mask" or isinstance(given, list | tuple))

    def _run(self, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        kind = self.choose(*args, **options)
        if kind == "definition":
            return self.implementation(kind)(*args, **options)
        twin = self.implementation(kind)
        like = next(a for a in (*args, *options.values()) if arrays.is_array(a))
        view = arrays.host_view if kind == "cpu" else device_view.get()
        call = [view(a) if arrays.is_array(a) else a for a in args]
        keep = {k: view(a) if arrays.is_array(a) else a for k, a in options.items()}
        with arrays.on_device_of(next(a for a in (*call, *keep.values()) if arrays.is_array(a))):
            return _back(twin(*call, **keep), like)


def _plain(argument: Any) -> Any:
    """Bring an argument into the form that definitions and twins take.

    Labelled arrays give their array. NumPy scalars become Python's: an option must not widen single precision, and other libraries
    do not compute with them. NumPy arrays in the byte order of another machine are converted: compiled code would take their bytes
    as they are.
    """
    if isinstance(argument, np.generic):
        return argument.item()
    argument = arrays.unwrapped(argument)
    foreign = isinstance(argument, np.ndarray) and not argument.dtype.isnative
    return argument.astype(argument.dtype.newbyteorder("=")) if foreign else argument


def _back(result: Any, like: Any) -> Any:
    """Return a twin's NumPy or CuPy answer in the namespace and on the device of the caller's array."""
    if isinstance(result, tuple):
        parts = [_back(r, like) for r in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return arrays.like(result, like) if isinstance(result, np.generic) or arrays.is_array(result) else result


def _on_host(result: Any) -> Any:
    """Return a twin's answer to NumPy arrays: scalars of NumPy as arrays without axes, everything else as it is."""
    if type(result) is np.ndarray:
        return result
    if isinstance(result, tuple):
        parts = [_on_host(r) for r in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return np.asarray(result) if isinstance(result, np.generic) else result


def operation(*, cuda: Twin | str | None = None, cpu: Twin | str | None = None) -> Callable[[Callable[P, R]], Operation[P, R]]:
    """Make the function below a definition with twins.

    Parameters
    ----------
    cuda, cpu : Twin or str, optional
        The twins and their limits. A module name alone stands for a twin that takes everything.
    """
    given = {"cuda": cuda, "cpu": cpu}
    twins = {kind: Twin(twin) if isinstance(twin, str) else twin for kind, twin in given.items() if twin is not None}
    return lambda definition: Operation(definition, twins)


@contextlib.contextmanager
def using(kind: str) -> Iterator[None]:
    """Run every operation inside the block with one kind of implementation, or with the definition if it has no such twin.

    Parameters
    ----------
    kind : {"definition", "cpu", "cuda"}

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> with gpu4d.using("definition"):
    ...     gpu4d.center_of_mass(np.eye(5)[None, :, :])
    array([[2., 2.]])
    """
    if kind not in IMPLEMENTATIONS:
        raise InputError(f"using({kind!r}): need one of {', '.join(map(repr, IMPLEMENTATIONS))}")
    token = _forced.set(kind)
    try:
        yield
    finally:
        _forced.reset(token)


def forced_kind() -> str | None:
    """Return the kind of implementation that `using` has set. None outside of its blocks."""
    return _forced.get()


def signature(op: Operation, kind: str) -> inspect.Signature:
    """Return the parameters of one implementation without annotations, for the test that compares twins."""
    plain = inspect.signature(op.implementation(kind))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in plain.parameters.values()]
    return inspect.Signature(bare)


def all_operations() -> dict[str, Operation]:
    """Import every module that defines an operation, and return all operations in the order of their names."""
    here = Path(__file__).parent
    for room in ROOMS:
        for module in pkgutil.walk_packages([str(here / room)], f"gpu4d.{room}."):
            importlib.import_module(module.name)
    return dict(sorted(OPERATIONS.items()))  # they are registered in the order of imports
