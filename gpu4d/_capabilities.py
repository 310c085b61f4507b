"""Say for each public function where it computes, which twins it has, and whether it takes a scan in pieces: read from the code itself.

Operations and their limits are those of `@operation`. Functions that compute on the host are those that `gpu4d.on_host` marks. Which
operations and reductions a function uses follows from the names in its compiled Python code.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gpu4d.on_host import in_part, why_on_host
from gpu4d.operation import Operation, Twin, all_operations
from gpu4d.streaming.registered import RegisteredReduction, registered_reductions

# Rooms whose public functions do not compute on data: files, drawings, hardware, simulated scans, plans.
OTHER_ROOMS = (
    "io",
    "plot",
    "workflow",
    "interop",
    "testing",
    "device",
    "errors",
    "physics",
    "simulate",
    "planning",
    "streaming",
    "beam",
    "structures",
)
# Names of modules that serve every function: what they use is no property of the function that calls them.
SERVING = (
    "arrays",
    "real_arrays",
    "data",
    "device",
    "io",
    "streaming",
    "operation",
    "fft",
    "cache",
    "errors",
    "plot",
    "interop",
    "on_host",
)
# Words in the annotation of an argument that holds data.
DATA = re.compile(r"Array|ndarray|DataCube|TemplateLike|OriginLike|\bScan\b|\bFrames\b")
# The same for an argument that may be a scan.
SCAN = re.compile(r"DataCube|\bScan\b|\bFrames\b")


@dataclass(frozen=True)
class FunctionRow:
    """What a public function or reduction can do.

    Attributes
    ----------
    name : str
        As it is called, without "gpu4d.".
    on_host : str
        Why it computes on the host, all of it or a part, and the bytes that are copied; "" if nothing is but numbers.
    operations : tuple of str
        Operations that it uses.
    cpu, cuda : str
        "all", "some" or "none" of these operations have such a twin; "" without operations.
    reductions : tuple of str
        Reductions by which it, or its own name, takes a scan in pieces of any size.
    events : bool
        Whether all of them take the events of counted scans as they are.
    """

    name: str
    on_host: str
    operations: tuple[str, ...]
    cpu: str
    cuda: str
    reductions: tuple[str, ...]
    events: bool


@dataclass(frozen=True)
class OperationRow:
    """An operation and the limits of its twins. Beyond them the definition runs, on any array library.

    Attributes
    ----------
    name : str
    cpu, cuda : str
        What the twin takes, as "any", or dtypes and sizes; "" without a twin.
    """

    name: str
    cpu: str
    cuda: str


@dataclass(frozen=True)
class Capabilities:
    """What `gpu4d.capabilities` returns. `str` of it is a table for a terminal.

    Attributes
    ----------
    functions : tuple of FunctionRow
    operations : tuple of OperationRow
    registered : tuple of RegisteredReduction
        Reductions that other installed packages bring (`gpu4d.streaming.registered_reductions`).
    """

    functions: tuple[FunctionRow, ...]
    operations: tuple[OperationRow, ...]
    registered: tuple[RegisteredReduction, ...] = ()

    def __getitem__(self, name: str) -> FunctionRow:
        """Return the row of a function by its name, with or without its room."""
        found = [row for row in self.functions if name in (row.name, row.name.rpartition(".")[2])]
        if not found:
            from gpu4d.errors import InputError, did_you_mean

            near = did_you_mean(name, [row.name for row in self.functions])
            raise InputError(f"no function {name!r} is in this table{near}: `gpu4d capabilities` lists all of them")
        return found[0]

    def as_dict(self) -> dict[str, list[dict[str, Any]]]:
        """Return all rows as plain values, for JSON."""
        others = [{"name": one.name, "package": one.package, "events": _takes_events(one.kind)} for one in self.registered]
        functions, operations = [asdict(row) for row in self.functions], [asdict(row) for row in self.operations]
        return {"functions": functions, "operations": operations, "registered": others}

    def __str__(self) -> str:
        heads = ("function", "NumPy", "CuPy", "torch", "JAX", "CPU twin", "CUDA twin", "streams", "events", "operations")
        rows = [heads, *(_cells(row) for row in self.functions)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads) - 1)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip() for row in rows]
        notes = [f"  {why}: {', '.join(names)}" for why, names in self._reasons().items()]
        others = [f"  {one.name}, of {one.package}" + (", takes events" if _takes_events(one.kind) else "") for one in self.registered]
        lines += ["", "host, in part: what is done on the host by design, and why:", *notes] if notes else []
        lines += ["", "reductions of other packages, by the name that gpu4d.sweep takes:", *others] if others else []
        return "\n".join(lines)

    def _reasons(self) -> dict[str, list[str]]:
        """Return the functions that compute on the host, by reason."""
        found: dict[str, list[str]] = {}
        for row in self.functions:
            if row.on_host:
                found.setdefault(row.on_host, []).append(row.name)
        return dict(sorted(found.items()))

    def markdown(self) -> str:
        """Return the tables of docs/reference/capabilities.md."""
        heads = ("function", "NumPy", "CuPy", "torch", "JAX", "CPU twin", "CUDA twin", "streams", "events", "operations")
        lines = [_line(heads), _line(["---"] * len(heads))]
        for row in self.functions:
            name, *cells = _cells(row)
            lines.append(_line([f"`{name}`", *cells]))
        lines += ["", "### On the host by design", "", _line(("why, and what is copied", "functions")), _line(["---"] * 2)]
        lines += [_line((why, ", ".join(f"`{name}`" for name in names))) for why, names in self._reasons().items()]
        lines += ["", "### Operations and their twins", "", _line(("operation", "CPU twin takes", "CUDA twin takes")), _line(["---"] * 3)]
        lines += [_line((f"`{row.name}`", row.cpu or "no twin", row.cuda or "no twin")) for row in self.operations]
        return "\n".join(lines)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: FunctionRow) -> tuple[str, ...]:
    elsewhere = "yes" if not row.on_host else "in part" if in_part(row.on_host) else "host"
    kinds = ("yes", elsewhere, elsewhere, elsewhere)
    shown = [name for name in row.reductions if not name.startswith("_")]
    streams = ", ".join(shown[:2]) + (", …" if len(shown) > 2 else "") or ("yes" if row.reductions else "")
    return (
        row.name,
        *kinds,
        row.cpu or "–",
        row.cuda or "–",
        streams or "–",
        "yes" if row.events else "–",
        ", ".join(row.operations) or "–",
    )


def capabilities() -> Capabilities:
    """Say what each public function takes: array libraries, twins on CPU and CUDA, scans in pieces, counted events.

    Returns
    -------
    Capabilities
        `functions` has one row for each public function and reduction, `operations` one for each operation with the limits of its twins.
        Print it for a table, or see `as_dict` and `markdown`.

    Notes
    -----
    Every function takes arrays of NumPy, CuPy, torch and JAX, and others by DLPack. "yes" for a library: data stay in their library and on
    their device, and so do results. "host": data of a device are copied to the host, for the reason that the row has. "in part": what is
    copied is smaller, as sums or a sample.

    Examples
    --------
    >>> import gpu4d
    >>> row = gpu4d.capabilities()["center_of_mass"]
    >>> row.cpu, row.cuda, row.reductions, row.events, row.on_host
    ('all', 'all', ('CenterOfMass',), True, '')
    """
    known = all_operations()
    found = {name: thing for name, thing in _public() if _takes_data(thing)}
    reductions = {name.rpartition(".")[2]: thing for name, thing in found.items() if _is_reduction(thing)}
    rows = (_row(name, thing, reductions) for name, thing in found.items())
    operations = (OperationRow(op.name, *(_limits(op.twins.get(kind)) for kind in ("cpu", "cuda"))) for op in known.values())
    return Capabilities(tuple(sorted(rows, key=lambda row: row.name)), tuple(operations), registered_reductions())


def _public() -> Iterator[tuple[str, Any]]:
    """Give the name and the object of all public callables, each once and by its shortest name."""
    import gpu4d

    named: dict[int, tuple[str, Any]] = {}
    top: list[str] = vars(gpu4d)["__all__"]
    rooms = {name: thing for name in top if isinstance(thing := getattr(gpu4d, name), types.ModuleType)}
    every = [(name, getattr(gpu4d, name)) for name in top if name not in rooms]
    for room, module in rooms.items():
        if room not in (*OTHER_ROOMS, "data"):  # which holds data; what it computes is listed in `preprocess`
            every += [(f"{room}.{name}", getattr(module, name)) for name in getattr(module, "__all__", ())]
    for name, thing in every:
        if callable(thing) and id(thing) not in named and _room(thing) not in OTHER_ROOMS:
            named[id(thing)] = name, thing
    yield from named.values()


def _room(thing: Any) -> str:
    """Return the room in which something is defined; "" outside of gpu4d."""
    parts = (getattr(thing, "__module__", None) or "").split(".")
    return parts[1] if parts[0] == "gpu4d" and len(parts) > 1 else ""


def _is_reduction(thing: Any) -> bool:
    return inspect.isclass(thing) and all(callable(getattr(thing, name, None)) for name in ("bytes_needed", "update", "finish"))


def _takes_events(reduction: type) -> bool:
    return hasattr(reduction, "update_events")


def _takes_data(thing: Any) -> bool:
    """Return True for reductions, and for functions with an argument that holds data."""
    return _is_reduction(thing) if inspect.isclass(thing) else _has_argument(thing, DATA)


def _has_argument(function: Any, kind: re.Pattern[str]) -> bool:
    definition = function.definition if isinstance(function, Operation) else function
    return any(kind.search(str(p.annotation)) for p in inspect.signature(definition).parameters.values())


def _row(name: str, thing: Any, known: Mapping[str, Any]) -> FunctionRow:
    used = _used(thing)
    operations = sorted({one.name: one for one in used if isinstance(one, Operation)}.items())
    # What takes single patterns may use a reduction on them, but takes no scan in pieces.
    scans = inspect.isclass(thing) or _has_argument(thing, SCAN)
    reductions = {one.__name__: one for one in used if scans and _is_reduction(one)}
    short = name.rpartition(".")[2]
    twin = known.get("".join(part.capitalize() for part in short.split("_")))  # center_of_mass has the reduction CenterOfMass
    if twin is not None:
        reductions = {twin.__name__: twin}
    if _is_reduction(thing):
        reductions = {short: thing}
    return FunctionRow(
        name,
        why_on_host(thing) or "",
        tuple(one for one, _ in operations),
        _share([op for _, op in operations], "cpu"),
        _share([op for _, op in operations], "cuda"),
        tuple(sorted(reductions)),
        bool(reductions) and all(_takes_events(one) for one in reductions.values()),
    )


def _share(operations: list[Operation], kind: str) -> str:
    """Say how many operations have a twin of a kind."""
    count = sum(kind in op.twins for op in operations)
    return "" if not operations else "all" if count == len(operations) else "some" if count else "none"


def _limits(twin: Twin | None) -> str:
    """Say what a twin takes."""
    if twin is None:
        return ""
    parts = [", ".join(twin.dtypes)] if twin.dtypes else []
    if twin.frame is not None:
        parts.append(f"frames below {twin.frame} pixels")
    if isinstance(twin.longest, Mapping):
        parts += [f"{name} up to {most} pixels a side" for name, most in twin.longest.items()]
    elif twin.longest is not None:
        parts.append(f"up to {twin.longest} pixels a side")
    parts += [f"{name} with pixels × longest side below {most}" for name, most in (twin.moment or {}).items()]
    if twin.check is not None:
        parts.append("further limits that it says in the log")
    return "; ".join(parts) or "any"


# ---------------------------------------------------------------- what a function uses


def _used(start: Any) -> list[Any]:
    """Return the operations and reductions that a function or class uses, itself included, in the order in which they are met."""
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Operation):
            found[id(one)] = one  # its definition is one of its implementations, and no operation that is called
            continue
        if one is not start and _is_reduction(one):
            found[id(one)] = one
        waiting += [n for n in _named_in(one) if (_room(n) and _room(n) not in SERVING) or isinstance(n, Operation)]
    return list(found.values())


def _named_in(thing: Any) -> list[Any]:
    """Return the objects of gpu4d that a function, a class or a method names."""
    if inspect.isclass(thing):
        members = [value for base in thing.__mro__ if _room(base) not in (*SERVING, "") for value in vars(base).values()]
        return [inner for member in members for inner in (_unwrapped(member), *_named_in(_unwrapped(member)))]
    function = inspect.unwrap(thing) if callable(thing) else thing
    if isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType):
        return []
    names = _names(function.__code__)
    modules = [importlib.import_module(name) for name in names if name.startswith("gpu4d.") and not name.startswith("gpu4d._")]
    known = [function.__globals__.get(name) for name in names]
    known += [getattr(module, name, None) for module in modules for name in names]
    return [one for one in known if isinstance(one, Operation) or inspect.isclass(one) or inspect.isfunction(_unwrapped(one))]


def _unwrapped(member: Any) -> Any:
    """Return the function inside a property, a class method, a static method or a decorator."""
    if isinstance(member, property):
        return member.fget
    member = getattr(member, "__func__", member)
    return inspect.unwrap(member) if callable(member) else member


def _names(code: types.CodeType) -> set[str]:
    """Return all names in compiled Python code, and in the functions inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names, *(name for part in inner for name in _names(part))}
