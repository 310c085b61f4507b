"""gpu4d under and beside other programs: scans and results in and out, with names and units.

All results have the methods `to_xarray` and `to_hyperspy`, which call these functions. Each other library has a module of its own, named
after it, as `gpu4d.interop.libertem`. None of them is imported before it is asked for, and the libraries when they are needed.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from gpu4d.interop._to_hyperspy import to_hyperspy
from gpu4d.interop._to_xarray import to_xarray

if TYPE_CHECKING:
    from gpu4d.interop.dask import from_dask, to_dask

__all__ = ["from_dask", "to_dask", "to_hyperspy", "to_xarray"]

# Modules of other libraries: attributes of this package, imported on first use.
LIBRARIES = ("abtem", "ase", "dask", "hyperspy", "libertem", "py4dstem", "pyxem", "quantem", "xarray")
NAMES = {"from_dask": "dask", "to_dask": "dask"}  # functions of these modules that are attributes of this package too


def __getattr__(name: str) -> Any:
    """Import the module of a library on first use."""
    if name in NAMES:
        return getattr(importlib.import_module(f"{__name__}.{NAMES[name]}"), name)
    if name in LIBRARIES and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join((*__all__, *LIBRARIES))}")


def __dir__() -> list[str]:
    return list(__all__)
