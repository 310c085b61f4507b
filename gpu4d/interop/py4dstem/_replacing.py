"""What stands in the place of a function of py4DSTEM, and when it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Given = dict[str, Any]  # arguments of a call by name, with defaults


@dataclass(frozen=True)
class Place:
    """A name in a module or a class."""

    owner: Any
    name: str


@dataclass(frozen=True)
class Replacement:
    """Our function in the place of one of py4DSTEM.

    Attributes
    ----------
    place : Place
        Where py4DSTEM's function is defined.
    refuses : callable
        Called with the arguments by name. Returns why ours cannot take them, or None.
    ours : callable
        Called with py4DSTEM's own function and the arguments by name.
    """

    place: Place
    refuses: Callable[[Given], str | None]
    ours: Callable[[Callable[..., Any], Given], Any]


def set_options(given: Given, untouched: Mapping[str, object]) -> str | None:
    """Return the first option that does not have the only value that we take, as a reason; None if all have it."""
    for name, value in untouched.items():
        if name in given and given[name] is not value and given[name] != value:
            return f"{name} is {'given' if not isinstance(given[name], bool | int | float | str) else given[name]}, which ours does not do"
    return None


def no_array(data: Any) -> str | None:
    """Return why data are no array that we read, or None."""
    if not isinstance(data, np.ndarray):
        return f"the patterns are a {type(data).__name__} and no NumPy array"
    return None if data.dtype.kind in "biuf" and data.dtype.itemsize <= 8 else f"the patterns are {data.dtype}"
