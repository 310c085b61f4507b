"""gpu4d under and beside other programs: scans and results in and out, with names and units.

All results have the methods `to_xarray` and `to_hyperspy`, which call these functions. Each other library has a module of its own, named
after it, as `gpu4d.interop.libertem`. None of them is imported before it is asked for, and the libraries when they are needed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from gpu4d.interop._to_hyperspy import to_hyperspy
from gpu4d.interop._to_xarray import to_xarray

__all__ = ["to_hyperspy", "to_xarray"]

# Modules of other libraries: attributes of this package, imported on first use.
LIBRARIES = ("abtem", "ase", "dask", "hyperspy", "libertem", "py4dstem", "pyxem", "quantem", "xarray")


def __getattr__(name: str) -> Any:
    """Import the module of a library on first use."""
    if name in LIBRARIES and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join((*__all__, *LIBRARIES))}")


def __dir__() -> list[str]:
    return list(__all__)
