"""Calibrate patterns: origin → ellipse → rotation → pixel size."""

from __future__ import annotations

from gpu4d.beam.origin import Origin

# Imported here and not on first use: a function and its module share a name, and importing the module later would put it
# in the function's place.
from gpu4d.calibrate.bright_field_disk import EdgeBackground, edge_background, is_round
from gpu4d.calibrate.ellipse import ellipse
from gpu4d.calibrate.fit_halo import HaloFit, fit_halo
from gpu4d.calibrate.fit_peaks import PeakFit, Rival, fit_peaks
from gpu4d.calibrate.fit_rings import RingFit, fit_rings
from gpu4d.calibrate.lattice_ellipse import LatticeEllipse, lattice_ellipse, visible_ellipse
from gpu4d.calibrate.origin import covered, origin
from gpu4d.calibrate.pixel_size import LengthFit, index_lengths, pixel_size
from gpu4d.calibrate.ring_places import RingPlace
from gpu4d.calibrate.rotation import rotation
from gpu4d.calibrate.shadow_points import ShadowRotation, rotation_from_points
from gpu4d.calibrate.shadow_rotation import shadow_rotation
from gpu4d.data.ellipse import ellipse_matrix
from gpu4d.data.scan_axes import scan_matrix, to_scan_axes

__all__ = [
    "EdgeBackground",
    "HaloFit",
    "LatticeEllipse",
    "LengthFit",
    "Origin",
    "PeakFit",
    "RingFit",
    "RingPlace",
    "Rival",
    "ShadowRotation",
    "covered",
    "edge_background",
    "ellipse",
    "ellipse_matrix",
    "fit_halo",
    "fit_peaks",
    "fit_rings",
    "index_lengths",
    "is_round",
    "lattice_ellipse",
    "origin",
    "pixel_size",
    "rotation",
    "rotation_from_points",
    "scan_matrix",
    "shadow_rotation",
    "to_scan_axes",
    "visible_ellipse",
]


def __dir__() -> list[str]:
    return list(__all__)
