"""Prepare scans: cut frames into rows, crop, bin, select positions; measure backgrounds, count electrons, find hot and bad pixels."""

# Imported here and not on first use, because a function and its module share a name. Importing the module later would replace the
# function by the module.
from gpu4d.data.bad_pixels import BadPixels, find_bad_pixels, find_nan_pixels
from gpu4d.data.fill import fill_from_neighbours
from gpu4d.data.streaks import edge_pixels
from gpu4d.preprocess._background import Background, background, shows_streaks
from gpu4d.preprocess._count_scan import CountedScan, count_scan
from gpu4d.preprocess._counting_setup import CountingSetup, counting_setup
from gpu4d.preprocess._reshape import ScanShapeWarning, reshape
from gpu4d.preprocess.charge import ChargeModel
from gpu4d.preprocess.count_electrons import count_electrons
from gpu4d.preprocess.counted_electrons import CountedElectrons
from gpu4d.preprocess.counts import in_counts
from gpu4d.preprocess.dark_reference import DarkReference, dark_reference
from gpu4d.preprocess.defects import Defects, find_defects
from gpu4d.preprocess.electrons import Electrons
from gpu4d.preprocess.fit_electrons import fit_electrons
from gpu4d.preprocess.hot_pixel_median import hot_pixel_median
from gpu4d.preprocess.hot_pixels import hot_pixels
from gpu4d.preprocess.kind import is_flat, raw_frames
from gpu4d.preprocess.scan_shape import ScanShape, ScanShapes, scan_shapes
from gpu4d.preprocess.thresholds import Thresholds, thresholds
from gpu4d.preprocess.views import bin, crop, select

__all__ = [
    "Background",
    "BadPixels",
    "ChargeModel",
    "CountedElectrons",
    "CountedScan",
    "CountingSetup",
    "DarkReference",
    "Defects",
    "Electrons",
    "ScanShape",
    "ScanShapeWarning",
    "ScanShapes",
    "Thresholds",
    "background",
    "bin",
    "count_electrons",
    "count_scan",
    "counting_setup",
    "crop",
    "dark_reference",
    "edge_pixels",
    "fill_from_neighbours",
    "find_bad_pixels",
    "find_defects",
    "find_nan_pixels",
    "fit_electrons",
    "hot_pixel_median",
    "hot_pixels",
    "in_counts",
    "is_flat",
    "raw_frames",
    "reshape",
    "scan_shapes",
    "select",
    "shows_streaks",
    "thresholds",
]


def __dir__() -> list[str]:
    return list(__all__)
