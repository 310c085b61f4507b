"""Diffuse scattering: rings, polar transforms and radial profiles."""

from gpu4d.amorphous.find_ring import Ring, find_ring
from gpu4d.amorphous.polar_transform import radial_sums, radii
from gpu4d.amorphous.profiles import RadialProfile, polar_transform, radial_profile
from gpu4d.amorphous.radial_variance import RadialStatistics, RadialVariance
from gpu4d.amorphous.ring_center import ring_center

__all__ = [
    "RadialProfile",
    "RadialStatistics",
    "RadialVariance",
    "Ring",
    "find_ring",
    "polar_transform",
    "radial_profile",
    "radial_sums",
    "radii",
    "ring_center",
]


def __dir__() -> list[str]:
    return list(__all__)
