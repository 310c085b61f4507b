"""Compute images from patterns: virtual detectors, mean and maximum patterns, centre of mass."""

from gpu4d.imaging import detectors
from gpu4d.imaging.center_of_mass import center_of_mass
from gpu4d.imaging.com_map import CenterOfMass
from gpu4d.imaging.image import VirtualImage, virtual_image
from gpu4d.imaging.patterns import MaxPattern, MeanPattern

__all__ = ["CenterOfMass", "MaxPattern", "MeanPattern", "VirtualImage", "center_of_mass", "detectors", "virtual_image"]


def __dir__() -> list[str]:
    return list(__all__)
