"""Diffuse scattering: rings, polar transforms and radial profiles."""

from gpu4d.rings.find_ring import Ring, find_ring
from gpu4d.rings.polar_transform import radial_sums, radii
from gpu4d.rings.profiles import RadialProfile, mean_radii, polar_transform, radial_profile
from gpu4d.rings.radial_variance import RadialStatistics, RadialVariance
from gpu4d.rings.ring_center import ring_center
from gpu4d.rings.ring_moments import RingMoments, ring_moments
from gpu4d.rings.ring_statistics import RingProfiles, RingStatistics

__all__ = [
    "RadialProfile",
    "RadialStatistics",
    "RadialVariance",
    "Ring",
    "RingMoments",
    "RingProfiles",
    "RingStatistics",
    "find_ring",
    "mean_radii",
    "polar_transform",
    "radial_profile",
    "radial_sums",
    "radii",
    "ring_center",
    "ring_moments",
]


def __dir__() -> list[str]:
    return list(__all__)
