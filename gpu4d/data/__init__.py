"""Hold a scan and its results: cube, corrections, events, slices, point lists, calibration."""

from gpu4d.data.bad_pixel_correction import BadPixelCorrection
from gpu4d.data.calibration import Calibration
from gpu4d.data.corrections import Correction, Corrections
from gpu4d.data.datacube import DataCube
from gpu4d.data.events import Events, EventSource
from gpu4d.data.frame_correction import FrameCorrection, Hits
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.source import ArraySource, Source
from gpu4d.data.streaks import Streaks
from gpu4d.data.views import CorrectedSource

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
    "Streaks",
]


def __dir__() -> list[str]:
    return list(__all__)
