"""Clean raw frames: measure their background, count electrons, find hot pixels and bad pixels."""

# Imported here and not on first use, because a function and its module share a name. Importing the module later would replace the
# function by the module.
from gpu4d.data.bad_pixels import BadPixels, find_bad_pixels, find_nan_pixels
from gpu4d.data.fill import fill_from_neighbours
from gpu4d.data.streaks import edge_pixels
from gpu4d.preprocess._background import Background, background, shows_streaks
from gpu4d.preprocess.count_electrons import Electrons, count_electrons
from gpu4d.preprocess.counts import in_counts
from gpu4d.preprocess.defects import Defects, find_defects
from gpu4d.preprocess.hot_pixel_median import hot_pixel_median
from gpu4d.preprocess.hot_pixels import hot_pixels
from gpu4d.preprocess.kind import is_flat, raw_frames
from gpu4d.preprocess.thresholds import Thresholds, thresholds

__all__ = [
    "Background",
    "BadPixels",
    "Defects",
    "Electrons",
    "Thresholds",
    "background",
    "count_electrons",
    "edge_pixels",
    "fill_from_neighbours",
    "find_bad_pixels",
    "find_defects",
    "find_nan_pixels",
    "hot_pixel_median",
    "hot_pixels",
    "in_counts",
    "is_flat",
    "raw_frames",
    "shows_streaks",
    "thresholds",
]


def __dir__() -> list[str]:
    return list(__all__)
