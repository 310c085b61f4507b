"""Give results to other libraries, with names and units: xarray, HyperSpy. Each is imported when it is needed.

All results have the methods `to_xarray` and `to_hyperspy`, which call these functions.
"""

from gpu4d.interop._to_hyperspy import to_hyperspy
from gpu4d.interop._to_xarray import to_xarray

__all__ = ["to_hyperspy", "to_xarray"]


def __dir__() -> list[str]:
    return list(__all__)
