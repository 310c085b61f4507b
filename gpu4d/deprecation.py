"""Warn of public names and parameters that will be removed two minor releases after the first warning."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

MINOR_RELEASES = 2  # from the first warning to the removal, so that code written for one release runs on the next without a change
REMOVALS: dict[str, str] = {}  # name -> version that no longer has it; a test compares it with the version of the package


def removed_in(since: str) -> str:
    """Return the version that no longer has a name deprecated since `since`, "major.minor".

    Examples
    --------
    >>> removed_in("0.2")
    '0.4'
    """
    if not re.fullmatch(r"\d+\.\d+", since):
        raise ValueError(f"since={since!r}: need major.minor, such as '0.2'")
    major, minor = since.split(".")
    return f"{major}.{int(minor) + MINOR_RELEASES}"


def deprecated(*, since: str, use: str) -> Callable[[F], F]:
    """Mark a public function that will be removed. It works as before and warns.

    Parameters
    ----------
    since : str
        First release with the warning, "0.2".
    use : str
        The function to call instead.

    Examples
    --------
    >>> @deprecated(since="0.2", use="new_name")
    ... def old_name(x):
    ...     return x + 1
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     old_name(1)
    2
    >>> str(seen[0].message)
    'old_name is deprecated since gpu4d 0.2 and will be removed in 0.4: use new_name'
    """

    def mark(function: F) -> F:
        goes = REMOVALS[f"{function.__module__}.{function.__qualname__}"] = removed_in(since)
        text = f"{function.__name__} is deprecated since gpu4d {since} and will be removed in {goes}: use {use}"

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            warnings.warn(text, FutureWarning, stacklevel=2)
            return function(*args, **options)

        return call  # type: ignore[return-value]

    return mark


def renamed_parameter(old: str, new: str, *, since: str) -> Callable[[F], F]:
    """Accept the earlier name of a keyword. Its value is passed on under the new name, with a warning.

    Parameters
    ----------
    old, new : str
        Names of the keyword.
    since : str
        First release with the new name, "0.2".

    Examples
    --------
    >>> @renamed_parameter("centre", "origin", since="0.2")
    ... def shifted(x, origin=0):
    ...     return x - origin
    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as seen:
    ...     warnings.simplefilter("always")
    ...     shifted(3, centre=1)
    2
    >>> str(seen[0].message)
    'shifted: centre= is deprecated since gpu4d 0.2 and will be removed in 0.4: use origin='
    """

    def mark(function: F) -> F:
        goes = REMOVALS[f"{function.__module__}.{function.__qualname__}({old}=)"] = removed_in(since)
        text = f"{function.__name__}: {old}= is deprecated since gpu4d {since} and will be removed in {goes}: use {new}="

        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            if old in options:
                if new in options:
                    raise TypeError(f"{function.__name__} was given both {old}= and {new}=, which are the same parameter: leave {old}= out")
                warnings.warn(text, FutureWarning, stacklevel=2)
                options[new] = options.pop(old)
            return function(*args, **options)

        return call  # type: ignore[return-value]

    return mark
