"""Example inputs of the operations: one file an operation, named as it, with a function `examples`."""

import importlib
import pkgutil
from collections.abc import Callable

from operations.comparing import Example

EXAMPLES: dict[str, Callable[[], list[Example]]] = {
    found.name: importlib.import_module(f"{__name__}.{found.name}").examples for found in pkgutil.iter_modules(__path__)
}
