"""Import py4DSTEM where it is needed, and recognise its objects without importing it."""

from __future__ import annotations

import importlib
from types import ModuleType

from gpu4d.errors import InputError
from gpu4d.interop.libraries import is_of

INSTALL = "pip install gpu4d py4dstem"


def library(module: str = "py4DSTEM") -> ModuleType:
    """Import py4DSTEM, or one of its modules. Raise InputError with the line that installs it if it is absent."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"this needs py4DSTEM beside gpu4d ({error}): {INSTALL}") from None


def check_kind(given: object, kind: str, argument: str) -> None:
    """Raise InputError unless the object is of a class of py4DSTEM with this name, or of one derived from it."""
    if not (is_of(given, "py4DSTEM", kind) or is_of(given, "emdfile", kind)):
        raise InputError(f"{argument} is a {type(given).__module__}.{type(given).__name__}: need a {kind} of py4DSTEM")
