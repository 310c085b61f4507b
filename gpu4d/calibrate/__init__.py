"""Calibrate patterns: origin → ellipse → rotation → pixel size."""

from __future__ import annotations

# Imported here and not on first use: a function and its module share a name, and importing the module later would put it
# in the function's place.
from gpu4d.calibrate.bright_field_disk import EdgeBackground, edge_background, is_round
from gpu4d.calibrate.ellipse import ellipse, ellipse_matrix
from gpu4d.calibrate.origin import Origin, origin
from gpu4d.calibrate.pixel_size import pixel_size
from gpu4d.calibrate.rotation import rotation
from gpu4d.data.scan_axes import scan_matrix, to_scan_axes

__all__ = [
    "EdgeBackground",
    "Origin",
    "edge_background",
    "ellipse",
    "ellipse_matrix",
    "is_round",
    "origin",
    "pixel_size",
    "rotation",
    "scan_matrix",
    "to_scan_axes",
]


def __dir__() -> list[str]:
    return list(__all__)
