"""One operation, one definition, fast twins.

The function under `@operation` is the **definition**: written against the array API, clear, right in float64. It says what the
answer is. A twin has the same name and signature and lives in the module the decorator names: `kernels/` (CUDA) or
`cpu_fallback/` (numba); it is imported on first use. Which one runs is decided once per public call, from the arrays alone.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.errors import InputError

log = logging.getLogger("gpu4d")

OPERATIONS: dict[str, Operation] = {}  # name -> operation; the table test walks it
IMPLEMENTATIONS = ("definition", "cpu", "cuda")
device_view: contextvars.ContextVar[Callable[[Any], Any]] = contextvars.ContextVar("gpu4d_device_view", default=arrays.cupy_view)
_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("gpu4d_implementation", default=None)


class Operation:
    """A definition, its twins, and the choice between them. Calling it runs the implementation that fits the arrays."""

    def __init__(self, definition: Callable, twins: dict[str, str], unsupported: dict[str, Callable[..., str | None] | None]):
        functools.update_wrapper(self, definition)
        self.definition = definition
        self.twins = {kind: module for kind, module in twins.items() if module}
        self.unsupported = unsupported
        self.name: str = definition.__name__
        self._said: set[str] = set()
        OPERATIONS[self.name] = self

    def implementation(self, kind: str) -> Callable:
        """The function behind `kind`: "definition", "cpu" or "cuda"."""
        if kind == "definition":
            return self.definition
        if kind not in self.twins:
            raise InputError(f"{self.name} has no {kind!r} twin; it has {['definition', *self.twins]}")
        return getattr(importlib.import_module(self.twins[kind]), self.name)

    def choose(self, *args: Any, **options: Any) -> str:
        """Which implementation these arguments take: the forced one where it exists, else by device, else the definition."""
        forced = _forced.get()
        if forced is not None:
            if forced == "definition" or forced in self.twins:
                return forced
            return self._definition_because(f"it has no {forced} twin")
        found = [a for a in (*args, *options.values()) if arrays.is_array(a)]
        arrays.namespace(*found)  # mixed namespaces or devices are an error here, before any work
        kind = "cuda" if arrays.is_cuda(found[0]) else "cpu"
        if kind not in self.twins:
            return "definition"
        if any(arrays.is_traced(a) for a in found):
            return self._definition_because("an array is traced or carries a gradient")
        if kind == "cpu" and any(arrays.host_view(a) is None for a in found):
            return "definition"  # no zero-copy NumPy view (array_api_strict, for one)
        unsupported = self.unsupported.get(kind)
        if unsupported is not None and (reason := unsupported(*args, **options)):
            return self._definition_because(reason)
        return kind

    def _definition_because(self, reason: str) -> str:
        if reason not in self._said:
            self._said.add(reason)
            log.info("%s: the definition runs, because %s", self.name, reason)
        return "definition"

    def __call__(self, *args: Any, **options: Any) -> Any:
        args, options = tuple(map(_plain, args)), {k: _plain(a) for k, a in options.items()}
        kind = self.choose(*args, **options)
        if kind == "definition":
            return self.definition(*args, **options)
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
    """A twin's NumPy or CuPy answer in the namespace and on the device of the caller's array."""
    if isinstance(result, tuple):
        parts = [_back(r, like) for r in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    return arrays.like(result, like) if isinstance(result, np.generic) or arrays.is_array(result) else result


def operation(
    *,
    cuda: str | None = None,
    cpu: str | None = None,
    unsupported: Callable[..., str | None] | None = None,
    cuda_unsupported: Callable[..., str | None] | None = None,
) -> Callable[[Callable], Operation]:
    """Make the function below a definition with twins.

    Parameters
    ----------
    cuda, cpu : str, optional
        Modules that hold the twins, for example ``"gpu4d.cpu_fallback.center_of_mass"``.
    unsupported, cuda_unsupported : callable, optional
        Called with the operation's arguments; returns why the CPU twin (the CUDA twin) cannot take them, or None. The definition
        runs then, and says so once in the log.
    """
    reasons = {"cpu": unsupported, "cuda": cuda_unsupported}
    return lambda definition: Operation(definition, {"cuda": cuda or "", "cpu": cpu or ""}, reasons)


@contextlib.contextmanager
def using(kind: str) -> Iterator[None]:
    """Run every operation inside the block with one kind of implementation; one without it runs its definition.

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


def signature(op: Operation, kind: str) -> inspect.Signature:
    """Parameters of one implementation, without annotations: what the table test compares."""
    plain = inspect.signature(op.implementation(kind))
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in plain.parameters.values()]
    return inspect.Signature(bare)
