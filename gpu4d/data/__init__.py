"""Hold a scan and its results: cube, slices, point lists, calibration."""

from gpu4d.data.calibration import Calibration
from gpu4d.data.datacube import DataCube
from gpu4d.data.pointlist import PointList, PointListArray
from gpu4d.data.slices import DiffractionSlice, RealSlice, Slice
from gpu4d.data.source import ArraySource, Source

__all__ = ["ArraySource", "Calibration", "DataCube", "DiffractionSlice", "PointList", "PointListArray", "RealSlice", "Slice", "Source"]
