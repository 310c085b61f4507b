"""Orientation and phase of crystals, from Bragg disks and structures."""

from gpu4d.orientation.export import save_ang, to_orix
from gpu4d.orientation.ipf import direction_colors, euler_angles, ipf_colors, matrices_of
from gpu4d.orientation.library import OrientationLibrary, excitation_error, orientation_library
from gpu4d.orientation.match_orientations import match_orientations
from gpu4d.orientation.misfit import Misfit, orientation_misfit
from gpu4d.orientation.orientations import Grain, Orientations
from gpu4d.orientation.symmetry import misorientation

__all__ = [
    "Grain",
    "Misfit",
    "OrientationLibrary",
    "Orientations",
    "direction_colors",
    "euler_angles",
    "excitation_error",
    "ipf_colors",
    "match_orientations",
    "matrices_of",
    "misorientation",
    "orientation_library",
    "orientation_misfit",
    "save_ang",
    "to_orix",
]


def __dir__() -> list[str]:
    return list(__all__)
