"""Read a scan once, and feed many reductions with it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpu4d.streaming.engine import sweep
from gpu4d.streaming.load_cube import load_cube
from gpu4d.streaming.plan import Plan, plan
from gpu4d.streaming.reduction import Reduction, ScanInfo, TakesEvents
from gpu4d.streaming.registered import RegisteredReduction, registered_reductions
from gpu4d.streaming.sums import BlockSums, PerPosition, PerPositionReduction, SumReduction

if TYPE_CHECKING:
    from gpu4d.streaming._live import live
    from gpu4d.streaming.live_sweep import LiveSweep

_LATER = {"LiveSweep": "live_sweep", "live": "_live"}  # few scans are live

__all__ = [
    "BlockSums",
    "LiveSweep",
    "PerPosition",
    "PerPositionReduction",
    "Plan",
    "Reduction",
    "RegisteredReduction",
    "ScanInfo",
    "SumReduction",
    "TakesEvents",
    "live",
    "load_cube",
    "plan",
    "registered_reductions",
    "sweep",
]


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
