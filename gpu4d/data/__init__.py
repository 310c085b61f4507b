"""Hold a scan and its results: cube, corrections, events, slices, point lists, calibration."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpu4d.data.bad_pixel_correction import BadPixelCorrection
from gpu4d.data.calibration import Calibration
from gpu4d.data.corrections import Correction, Corrections
from gpu4d.data.datacube import DataCube
from gpu4d.data.events import Events, EventSource
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.source import ArraySource, Source
from gpu4d.data.storable import Storable
from gpu4d.data.views import CorrectedSource

if TYPE_CHECKING:
    from gpu4d.data._live_scan import live_scan
    from gpu4d.data.frame_correction import FrameCorrection, Hits
    from gpu4d.data.streaks import Streaks

# Only raw frames and live scans need them.
_LATER = {"FrameCorrection": "frame_correction", "Hits": "frame_correction", "Streaks": "streaks", "live_scan": "_live_scan"}

__all__ = [
    "ArraySource",
    "BadPixelCorrection",
    "Calibration",
    "CorrectedSource",
    "Correction",
    "Corrections",
    "DataCube",
    "DiffractionSlice",
    "EventSource",
    "Events",
    "FrameCorrection",
    "Hits",
    "PointList",
    "PointListArray",
    "RealSlice",
    "Slice",
    "Source",
    "Storable",
    "Streaks",
    "live_scan",
]


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
