"""Import other libraries when they are needed, and recognise their objects without importing them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from gpu4d.errors import InputError


def library(module: str, caller: str, name: str, install: str) -> ModuleType:
    """Return a module of another library.

    Parameters
    ----------
    module : str
        As it is imported: "quantem.core.datastructures".
    caller, name, install : str
        For the error: the function that needs it, the library as its makers write it, and what pip installs.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise InputError(f"{caller} needs {name} beside gpu4d: pip install {install}") from None


def is_of(thing: Any, package: str, *classes: str) -> bool:
    """Say whether an object is of a class of a library, or of a class made from it. The library is not imported.

    Examples
    --------
    >>> from collections import OrderedDict
    >>> is_of(OrderedDict(), "collections", "OrderedDict"), is_of({}, "collections", "OrderedDict")
    (True, False)
    """
    return any(c.__module__.partition(".")[0] == package and (not classes or c.__name__ in classes) for c in type(thing).__mro__)


def refused(thing: Any, name: str, need: str) -> InputError:
    """Return the error for an object that a converter does not take."""
    kind = type(thing)
    return InputError(f"{name} is a {kind.__module__.partition('.')[0]}.{kind.__name__}: need {need}".replace("builtins.", ""))
