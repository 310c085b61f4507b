"""Find reductions by name: those that other packages add by the entry-point group "gpu4d.reductions"."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from gpu4d.errors import InputError, did_you_mean
from gpu4d.extensions import check_class, check_free, extensions
from gpu4d.streaming.reduction import Reduction

GROUP = "gpu4d.reductions"  # of entry points


class RegisteredReduction(NamedTuple):
    """A reduction of another package: its name, its class and the package."""

    name: str
    kind: type[Reduction]
    package: str


@functools.cache
def registered_reductions() -> tuple[RegisteredReduction, ...]:
    """Return the reductions that other installed packages bring, by name.

    A package names a class with the methods of `Reduction`, which can be called without arguments, in its pyproject.toml::

        [project.entry-points."gpu4d.reductions"]
        brightest = "your_package:Brightest"

    Then ``gpu4d.sweep(cube, {"peak": "brightest"})`` makes one, and so does a live sweep. One that cannot be loaded, or whose name is
    taken, is left out with a warning.

    Returns
    -------
    tuple of RegisteredReduction
        Each with `name`, `kind` (the class) and `package`.

    Examples
    --------
    >>> all(one.name and one.package for one in registered_reductions())
    True
    """
    taken: set[str] = set()

    def accept(name: str, found: Any, package: str) -> RegisteredReduction:
        check_class(found, Reduction, "a class with the methods of gpu4d.streaming.Reduction, as subclasses of PerPositionReduction have")
        check_free(name, taken, "reduction")
        taken.add(name)
        return RegisteredReduction(name, found, package)

    return tuple(extensions(GROUP, accept))


def named_reductions(reductions: Any) -> dict[str, Reduction]:
    """Return the reductions of a sweep by name. Names of registered ones become reductions; anything else is refused."""
    named = dict(reductions) if isinstance(reductions, Mapping) else {"result": reductions}
    for name, reduction in named.items():
        if isinstance(reduction, str):
            named[name] = _made(reduction)
        elif isinstance(reduction, type) and isinstance(reduction, Reduction):
            raise InputError(f"{name!r} is the class {reduction.__name__}: call it, as {reduction.__name__}(…), and give what it returns")
        elif not isinstance(reduction, Reduction):
            raise InputError(f"{name!r} is a {type(reduction).__name__}, need a Reduction such as gpu4d.MeanPattern()")
    return named


def _made(name: str) -> Reduction:
    """Make the reduction that another package brings under this name."""
    known = {one.name: one for one in registered_reductions()}
    if name not in known:
        there = f"registered are {', '.join(sorted(known))}" if known else "no installed package brings one"
        raise InputError(
            f"no reduction is registered as {name!r}{did_you_mean(name, known)}: {there}; or give an object, as gpu4d.MeanPattern()"
        )
    one = known[name]
    try:
        return one.kind()
    except TypeError as error:
        raise InputError(
            f"the reduction {name!r} of {one.package} cannot be made by its name alone ({error}): import it and give an object"
        ) from error
