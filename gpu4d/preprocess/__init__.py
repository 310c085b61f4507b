"""From raw frames to clean ones: counting electrons, hot pixels."""

# Imported here and not on first use: a function and its module share a name, and importing the module later would put it
# in the function's place.
from gpu4d.preprocess.count_electrons import Events, count_electrons
from gpu4d.preprocess.hot_pixels import hot_pixel_median, hot_pixels
from gpu4d.preprocess.thresholds import Thresholds, thresholds

__all__ = ["Events", "Thresholds", "count_electrons", "hot_pixel_median", "hot_pixels", "thresholds"]
