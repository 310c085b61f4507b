"""Load what other packages add by entry points: file formats, stages of a run, reductions. A broken one is left out, with a warning."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any, TypeVar

from gpu4d.errors import InputError

log = logging.getLogger("gpu4d")

T = TypeVar("T")

__all__ = ["extensions", "package_of"]


def __dir__() -> list[str]:
    return list(__all__)


def extensions(group: str, accept: Callable[[str, Any, str], T]) -> list[T]:
    """Load all entry points of a group, sorted by name.

    One that cannot be loaded, or that is refused, is left out with one warning: a package that is broken must not stop work that does
    not need it.

    Parameters
    ----------
    group : str
        "gpu4d.formats", "gpu4d.stages", "gpu4d.reductions" or "gpu4d.bench_peers".
    accept : callable
        Function of (name of the entry point, what it names, package). It returns what is kept, or raises an error that says what is
        wrong.

    Examples
    --------
    >>> extensions("gpu4d.nothing", lambda name, found, package: found)
    []
    """
    kept = []
    for entry in sorted(_entries(group), key=lambda e: (e.name, e.value)):
        package = package_of(entry)
        try:
            kept.append(accept(entry.name, entry.load(), package))
        except (Exception, SystemExit) as error:  # a package may raise anything while it is imported, or end the process
            what = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            log.warning(
                "%r of the package %s (entry point %s of %s) is left out: %s; update the package, or remove it: pip uninstall %s",
                entry.name, package, entry.value, group, " ".join(what.split()), package,
            )  # fmt: skip
    return kept


def _entries(group: str) -> list[EntryPoint]:
    """Return the entry points of a group. Packages whose lists of entry points cannot be read are left out."""
    try:
        return list(entry_points(group=group))
    except Exception:  # one list that is not text, or has another form, ends it: look at each for itself
        found: dict[str, list[EntryPoint]] = {}
        for package in distributions():
            name = package.name or "without a name"
            try:
                found.setdefault(name, list(package.entry_points.select(group=group)))
            except Exception as error:
                _say_unreadable(name, f"{type(error).__name__}: {' '.join(str(error).split())}")
        return [entry for entries in found.values() for entry in entries]


@functools.cache  # one warning, not one for each group
def _say_unreadable(package: str, why: str) -> None:
    log.warning(
        "the entry points of the package %s cannot be read (%s); install it anew, or remove it: pip uninstall %s", package, why, package
    )


def package_of(entry: EntryPoint) -> str:
    """Return the name of the package that has an entry point, as pip knows it; where it is not known, that of its module."""
    name = None if entry.dist is None else entry.dist.name
    return name or entry.value.partition(":")[0].partition(".")[0]


def check_class(found: Any, base: type, words: str) -> None:
    """Raise an error if an entry point names something else than a class with this base, or this protocol."""
    if not isinstance(found, type):
        raise InputError(f"it names a {type(found).__name__}, need a class: {words}")
    if not issubclass(found, base):
        raise InputError(f"{found.__name__} is no {base.__name__}: {words}")


def check_free(name: str, taken: Any, what: str) -> None:
    """Raise an error if a name has been taken already."""
    if name in taken:
        raise InputError(f"the {what} {name!r} is there already: it needs a name of its own")
